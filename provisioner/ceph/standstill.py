"""Writers of several images held still for a moment, so that snapshots of all are of one moment.

We take each image's exclusive lock: whoever writes hands it over and waits to have it back. librbd answers whoever asks a
holder like us for the lock that it may not have it, and the writer's next write would fail. So beside each lock there is a decoy,
a second watcher of the header that answers, too: of two answers a client (librbd and the kernel's alike) makes out
neither, and asks again, until it hears of the release. Asked of it is only what every client of the lock already speaks.

All this is done on a connection of its own, with an end: whatever takes longer than it may is cut off by a fence on that
connection, after which the OSDs give the locks to the next who asks. So does a kill: at once, if another process of ours fences
the dead, else when its watches lapse (osd_client_watch_timeout, 30 s).
"""

import ctypes
import errno
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import rados
import rbd

from provisioner.ceph import wire
from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import explained
from provisioner.ceph.headers import header_object
from provisioner.ceph.registry import Registry
from provisioner.core.errors import Conflict, InUse, NotFound, ProvisionerError, Unavailable, Unfit
from provisioner.core.ids import Place, VolumeId

MOST = 10.0
"""Seconds that writers may be held."""
_OPENING = 20.0
_FENCED = 300.0
_AT_ONCE = 8
_HEARD = 5.0
_RELEASED_LOCK, _REQUEST_LOCK = 1, 2
"""What clients of an image tell each other: numbers of librbd's protocol over watch and notify."""
_OPERATION = slice(6, 10)
_ASK_AGAIN = struct.pack("<BBIi", 1, 1, 4, -errno.EAGAIN)


@dataclass(frozen=True, slots=True)
class Still:
    """A snapshot to take: of which image, under which name."""

    volume: VolumeId
    image_id: str
    snapshot: str


def take(alone: Connection, main: Connection, wanted: Sequence[Still], most: float = MOST) -> None:
    """Take all the snapshots at one moment. `alone` is nobody else's and of no use afterwards; `main` may have to fence it.

    Raises NotFound, Unfit for an image without exclusive-lock, InUse for one that a client keeps locked on purpose, Conflict
    for a name that is taken, Unavailable if it took too long. Whatever it raises, some of the snapshots may be there.
    """
    work = _Work(alone, sorted(wanted, key=lambda still: str(still.volume)))
    threading.Thread(target=work.run, name="standstill", daemon=True).start()
    if why := work.overdue(most):
        main.fence(alone.address, _FENCED)
        raise Unavailable(why)
    if work.failure is not None:
        raise work.failure


class _Work:
    """What is done in a thread of its own, since a fence may have to cut it short."""

    def __init__(self, connection: Connection, wanted: Sequence[Still]) -> None:
        self._connection, self._wanted = connection, wanted
        self._holds, self._ended = threading.Event(), threading.Event()
        self.failure: ProvisionerError | None = None

    def overdue(self, most: float) -> str:
        """Wait for the end; tell why it was waited for in vain: writers were held for `most` seconds, or images don't open."""
        deadline = time.monotonic() + _OPENING
        while not self._holds.wait(0.05):
            if self._ended.is_set():
                return ""
            if time.monotonic() > deadline:
                return f"{len(self._wanted)} images could not be opened within {_OPENING:.0f} s"
        if self._ended.wait(most):
            return ""
        return f"the writers of {len(self._wanted)} volumes were held for {most:.0f} s, which is too long: they were let go"

    def run(self) -> None:
        """Do it, and close the connection."""
        try:
            with explained("taking snapshots of one moment"):
                self._run()
        except ProvisionerError as error:
            self.failure = error
        finally:
            self._ended.set()
            self._connection.retire()

    def _run(self) -> None:
        with ExitStack() as opened:
            pools = self._enrolled(opened)
            images = [opened.enter_context(_Held.opened(pools[still.volume.place], still)) for still in self._wanted]
            self._holds.set()
            with ExitStack() as locks, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="standstill") as threads:
                for held in images:
                    locks.enter_context(held.locked(self._connection.instance))
                list(threads.map(_Held.snapshot, images))
                for held in images:
                    held.check()
            self._ended.set()

    def _enrolled(self, opened: ExitStack) -> dict[Place, rados.Ioctx]:
        """The places of all images, where other processes of ours now know this connection for one of us."""
        registry, pools = Registry(self._connection), dict[Place, rados.Ioctx]()
        for place in sorted({still.volume.place for still in self._wanted}, key=str):
            pools[place] = opened.enter_context(self._connection.pool(place))
            registry.enrol(pools[place])
            opened.callback(registry.leave, pools[place])
        return pools


@dataclass(frozen=True, slots=True)
class _Held:
    """An image of which a snapshot is taken while its writers wait."""

    still: Still
    pool: rados.Ioctx
    image: rbd.Image

    @classmethod
    @contextmanager
    def opened(cls, pool: rados.Ioctx, still: Still) -> Iterator["_Held"]:
        """Open it. Raises NotFound, Unfit."""
        try:
            image = rbd.Image(pool, image_id=still.image_id)
        except rbd.ImageNotFound:
            raise NotFound(f"volume {still.volume}") from None
        with image:
            if not image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
                why = "has no exclusive-lock among its features: its writers can't be held still, as a group snapshot needs"
                raise Unfit(f"volume {still.volume}", why)
            yield cls(still, pool, image)

    @contextmanager
    def locked(self, instance: int) -> Iterator[None]:
        """Keep the lock for the block, and whoever asks for it waiting. Raises InUse."""
        with _Decoy.beside(self.pool, self.still.image_id, instance) as decoy:
            try:
                self.image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
            except rbd.ReadOnlyImage:
                owners = [str(owner["owner"]) for owner in self.image.lock_get_owners()]
                raise InUse(f"volume {self.still.volume}", owners) from None
            try:
                yield
            finally:
                self.image.lock_release()
                decoy.released.wait(_HEARD)

    def snapshot(self) -> None:
        """Take the snapshot."""
        try:
            self.image.create_snap(self.still.snapshot)
        except rbd.ImageExists:
            what = f"snapshot {self.still.snapshot} of volume {self.still.volume}"
            raise Conflict(what, "another group snapshot of that name is being taken") from None

    def check(self) -> None:
        """Raise Unavailable unless the lock was ours all the time: once lost, it does not come back by itself."""
        if not self.image.is_exclusive_lock_owner():
            raise Unavailable(f"volume {self.still.volume} was written while its group snapshot was taken")


class _Decoy:
    """The second watcher that answers for a lock. `released` is set once it heard that we released it.

    Then whoever was told by librbd that it may not have the lock has been answered by the decoy, too: both hear of every
    request in one order.
    """

    def __init__(self, instance: int) -> None:
        self._instance = instance
        self.released = threading.Event()

    @classmethod
    @contextmanager
    def beside(cls, pool: rados.Ioctx, image_id: str, instance: int) -> Iterator["_Decoy"]:
        """Watch the image's header for the block."""
        decoy = cls(instance)
        watch = pool.watch(header_object(image_id), decoy.answer)
        try:
            yield decoy
        finally:
            try:
                watch.close()
            except rados.Error:
                _keep_for_ever(watch)
                raise

    def answer(self, notify_id: int, notifier: int, watch_id: int, message: bytes | None) -> bytes | None:
        """Answer others' requests for the lock; all else is acknowledged without a word."""
        operation, ours = wire.number((message or b"")[_OPERATION]), int(notifier) == self._instance
        if operation == _RELEASED_LOCK and ours:
            self.released.set()
        return _ASK_AGAIN if operation == _REQUEST_LOCK and not ours else None


def _keep_for_ever(watch: rados.Watch) -> None:
    """Leave alone a watch that a fence kept from being closed.

    librados has freed it all the same, but the binding would close it again when the object goes, and corrupt the heap.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(watch))
