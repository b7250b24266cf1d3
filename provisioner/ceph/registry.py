"""Which clients are ours, and which of them are dead: so that a watcher or a half-made image can be judged by exact client id.

Each process writes its client id and address into `ceph-provisioner.processes` of every pool it works in, and keeps a lock
with a duration on that object, of its own name. Whoever can take that lock knows that the process is dead, or so stalled that
it must count as dead; it is then fenced by its full address, so that nothing it still has in flight can arrive. Entry and
lock come in one step, and go in one: a process killed at any moment leaves both or none.

What one process may do at a time, one thread of it may: a task's lock bears a cookie of each `Turn`, so that nobody who is
late, in this process or another, renews, lets go or passes off for its own what somebody else has by now.
"""

import errno
import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec
import rados

from provisioner.ceph import suspects, wire
from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import CEPH_ERRORS, errno_of, explained, is_unanswered
from provisioner.core.errors import Conflict, InvalidRequest, ProvisionerError, Unavailable

log = logging.getLogger(__name__)

PROCESSES = "ceph-provisioner.processes"
PURGE = "purge"
"""The lock of whoever walks through the trash."""
_PROCESS = "process."
"""Opens the names of the locks that say a process is alive; the others are of tasks."""
LAPSE = 15
"""Seconds without a renewal after which a process counts as dead."""
_FENCED = 86400.0
"""Seconds that a fence lasts: a process that was only stopped fails its own calls long before."""


@dataclass(frozen=True, slots=True)
class Process:
    """One entry: `address` is what a fence names; `identity`, `pid`, `started` tell a successor on the same host."""

    address: str
    identity: str
    pid: int
    started: str
    pid_namespace: str


class Standing(Enum):
    """What a client id turns out to be."""

    SELF = "this very client"
    ALIVE = "another process of ours"
    DEAD = "a dead process of ours, fenced by now"
    FOREIGN = "a client of somebody else"


def this_process(address: str) -> Process:
    """Describe the calling process.

    Where POD_UID and CONTAINER are set, they are its identity: a container runs once at a time in a pod, so that one which
    was killed and started again knows its predecessor for dead, though their process ids say nothing to each other.
    """
    pod, container = os.environ.get("POD_UID", ""), os.environ.get("CONTAINER", "")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    identity = f"pod/{pod}/{container}" if pod and container else f"{socket.gethostname()}/{boot}"
    return Process(address, identity, os.getpid(), _started(os.getpid()) or "", os.readlink("/proc/self/ns/pid"))


def surely_dead(other: Process, mine: Process) -> bool:
    """Tell from here, without waiting for its lock to lapse, that a process of the same host or pod is gone."""
    if other.identity != mine.identity:
        return False
    if other.pid_namespace != mine.pid_namespace:
        return mine.identity.startswith("pod/")
    started = _started(other.pid)
    return not _exists(other.pid) if started is None else started != other.started


def _started(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; None if that can't be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def _exists(pid: int) -> bool:
    """Ask the kernel, since /proc may be hidden and a file table full: neither is a death."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def task_for(kind: str, name: str) -> str:
    """Name the task of that kind for something with a name of any length."""
    return f"{kind}.{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}"


class Turn:
    """The lock of a task while one thread has it; see `Registry.turn`."""

    def __init__(self, pool: rados.Ioctx, task: str, cookie: str, seconds: int) -> None:
        self._pool, self._task, self.cookie, self._seconds = pool, task, cookie, seconds
        self._due = 0.0

    def begin(self) -> bool:
        """Take the lock; False while another has it."""
        return self._taken(wire.lock)

    def renew(self) -> bool:
        """Keep it for its seconds from now; False if it was lost. To be called often: Ceph is asked only when it is due."""
        return time.monotonic() < self._due or self._taken(wire.renew_lock)

    def end(self) -> None:
        """Give it back; lost already is fine."""
        wire.unlock(self._pool, PROCESSES, self._task, self.cookie)

    def _taken(self, take: Callable[[rados.Ioctx, str, str, str, str, int], bool]) -> bool:
        due = time.monotonic() + self._seconds / 3
        taken = take(self._pool, PROCESSES, self._task, self.cookie, "at work", self._seconds)
        self._due = due if taken else 0.0
        return taken


class Registry:
    """Our side of the list in one pool, for one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._me = str(connection.instance)
        self._mine = this_process(connection.address)
        self._unended: dict[str, str] = {}
        """Tasks by the cookies of locks that Ceph may still have for us, though no thread is at it: it did not answer in time."""
        self._suspect = False

    @property
    def instance(self) -> int:
        """The client id of this connection."""
        return int(self._me)

    @property
    def timeout(self) -> int:
        """Seconds that one call may take on this connection."""
        return self._connection.config.timeout

    def enrol(self, pool: rados.Ioctx) -> None:
        """Write this client down, and fence predecessors that are surely dead."""
        with explained("enrolling in the list of provisioner processes"):
            try:
                self._enter(pool)
            except rados.Error as error:
                if errno_of(error) == errno.EOPNOTSUPP:
                    why = "it is erasure-coded, so it can only hold data: it is a dataPool beside a replicated pool"
                    raise InvalidRequest("pool", pool.name, why) from error
                raise
            for instance, process in self._others(pool):
                if surely_dead(process, self._mine):
                    self._bury(pool, instance, process)

    def renew(self, pool: rados.Ioctx) -> None:
        """Say that this process is alive; at least every LAPSE seconds."""
        with explained("renewing the lock that says this process is alive"):
            self._renew(pool)
            self._end_unended(pool)
            self._confess(pool)

    def leave(self, pool: rados.Ioctx) -> None:
        """Take this client off the list."""
        with explained("leaving the list of provisioner processes"):
            self._confess(pool)
            _forget(pool, self._me)

    @contextmanager
    def watchful(self) -> Iterator[None]:
        """Notice what of the block Ceph did not answer in time: a heartbeat, or our end, puts us among the `suspects` then."""
        try:
            yield
        except (ProvisionerError, *CEPH_ERRORS) as error:
            self._suspect = self._suspect or is_unanswered(error)
            raise

    def _confess(self, pool: rados.Ioctx) -> None:
        if self._suspect:
            self._suspect = False  # before the note: what happens meanwhile is noted anew
            try:
                suspects.note(pool, self._me)
            except rados.Error:
                self._suspect = True
                raise

    @contextmanager
    def turn(self, pool: rados.Ioctx, task: str, seconds: int = LAPSE, patience: float = 0.0) -> Iterator["Turn | None"]:
        """Do for the block what one of all our threads does at a time; None while another is at it.

        Waits `patience` seconds for the living, and takes from the dead at once. It is ours for `seconds`, unless renewed, and
        no longer than this process lives: whoever buries it takes it away.
        """
        turn, pause = Turn(pool, task, f"{self._me}.{uuid.uuid4().hex}", seconds), threading.Event()
        deadline = time.monotonic() + patience
        self._end_unended(pool, task)
        begun = False
        try:
            while not (begun := turn.begin()) and time.monotonic() < deadline:
                self.others_alive(pool)  # which buries the dead, and breaks their locks
                pause.wait(0.1)
        except rados.Error:
            self._unended[turn.cookie] = task
            raise
        if not begun:
            yield None
            return
        try:
            yield turn
        finally:
            self._end(turn, task)

    def _end(self, turn: Turn, task: str) -> None:
        """Give a turn back; where Ceph does not answer, a heartbeat does so later: nobody else would, while we live."""
        try:
            turn.end()
        except rados.Error as error:
            log.warning("the lock of %s is given back later: %s", task, error)
            self._unended[turn.cookie] = task

    def _end_unended(self, pool: rados.Ioctx, task: str = "") -> None:
        for cookie, of in list(self._unended.items()):
            if task in ("", of):
                wire.unlock(pool, PROCESSES, of, cookie)
                self._unended.pop(cookie, None)

    @contextmanager
    def alone(self, pool: rados.Ioctx, task: str, what: str, seconds: int = LAPSE, patience: float = 0.0) -> Iterator["Turn"]:
        """Like `turn`, for what can't be left to another. Raises Conflict, saying that `what` is busy."""
        with self.turn(pool, task, seconds, patience) as turn:
            if turn is None:
                raise Conflict(what, "another process of ours, or another thread of it, is at work on it")
            yield turn

    def others_alive(self, pool: rados.Ioctx) -> list[int]:
        """Client ids of the other processes of ours that are alive; those found dead are fenced on the way."""
        return [int(instance) for instance, process in self._others(pool) if not self._is_dead(pool, instance, process)]

    def judge(self, pool: rados.Ioctx, instance: int) -> Standing:
        """Tell what a watcher's client id is. A dead process of ours is fenced before this returns."""
        if str(instance) == self._me:
            return Standing.SELF
        process = _decoded(wire.omap_values(pool, PROCESSES, str(instance)).get(str(instance), b""))
        if process is None:
            return Standing.FOREIGN
        return Standing.DEAD if self._is_dead(pool, str(instance), process) else Standing.ALIVE

    def without_fenced(self, addresses: list[str]) -> list[str]:
        """Those of the addresses whose clients can still write. The monitor is asked only if there are any."""
        fenced = self._connection.fenced() if addresses else set()
        return [address for address in addresses if address not in fenced]

    def _others(self, pool: rados.Ioctx) -> Iterator[tuple[str, Process]]:
        for instance, value in wire.omap_all(pool, PROCESSES):
            process = _decoded(value)
            if process is not None and instance.isdecimal() and instance != self._me:
                yield instance, process

    def _is_dead(self, pool: rados.Ioctx, instance: str, process: Process) -> bool:
        if not surely_dead(process, self._mine) and not self._take(pool, instance, "taken for dead"):
            return False
        self._bury(pool, instance, process)
        return True

    def _bury(self, pool: rados.Ioctx, instance: str, process: Process) -> None:
        self._connection.fence(process.address, _FENCED)
        for task, owner, cookie in wire.lockers(pool, PROCESSES):
            if owner == int(instance) and not task.startswith(_PROCESS):
                wire.break_lock(pool, PROCESSES, task, owner, cookie)
        suspects.note(pool, instance)
        _forget(pool, instance)

    def _enter(self, pool: rados.Ioctx) -> None:
        with rados.WriteOpCtx() as operation:
            pool.set_omap(operation, (self._me,), (msgspec.json.encode(self._mine),))
            operation.execute("lock", "lock", self._lock_request(self._me, "alive"))
            pool.operate_write_op(operation, PROCESSES, flags=wire.FULL_FORCE)

    def _renew(self, pool: rados.Ioctx) -> None:
        if not self._take(pool, self._me, "alive"):
            raise Unavailable("this process was taken for dead by another; it connects anew once it is fenced")

    def _take(self, pool: rados.Ioctx, instance: str, why: str) -> bool:
        """Take or renew the lock of a process on the list; False if somebody else has it, or the entry is gone."""
        with rados.WriteOpCtx() as operation:
            operation.omap_cmp(instance, "", rados.LIBRADOS_CMPXATTR_OP_GT)
            operation.execute("lock", "lock", self._lock_request(instance, why))
            try:
                pool.operate_write_op(operation, PROCESSES)
            except rados.Error as error:
                if errno_of(error) in (errno.EBUSY, errno.ECANCELED, errno.ENOENT):
                    return False
                raise
        return True

    def _lock_request(self, instance: str, why: str) -> bytes:
        return wire.lock_request(_lock(instance), self._me, why, LAPSE)


def _decoded(entry: bytes) -> Process | None:
    """None for what isn't an entry of ours: its client is foreign."""
    try:
        return msgspec.json.decode(entry, type=Process)
    except msgspec.DecodeError:
        return None


def _lock(instance: str) -> str:
    return f"{_PROCESS}{instance}"


def _forget(pool: rados.Ioctx, instance: str) -> None:
    with rados.WriteOpCtx() as operation:
        pool.remove_omap_keys(operation, (instance,))
        operation.rm_xattr(f"lock.{_lock(instance)}")
        pool.operate_write_op(operation, PROCESSES)
