"""Flattening in the background: chains of clones stay short, and no request waits for it.

What is to be flattened stands on a list in its place, `ceph-provisioner.flatten`: image id to volume, percentage and last
error, for everybody to see. One process of all works it off, under a RADOS lock; a killed one's work is resumed, since librbd
copies only what is not there yet. Taking an image off the list, as its deletion does, ends work on it.
"""

import datetime
import errno
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import rados
import rbd

from provisioner.ceph import marks, wire
from provisioner.ceph.errors import BROKEN, CEPH_ERRORS, errno_of, explained
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.places import Room

LIST = "ceph-provisioner.flatten"
LOCK = "flatten"
_LOCK_SECONDS = 60
_TELL = 2.0
"""Seconds between two looks at how far it is."""

Tell = Callable[[str, int], None]
"""Hears of the volume that is worked on, and the percentage that is done."""


class _Value(msgspec.Struct):
    volume: str
    since: str
    percent: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """One image on the list."""

    image_id: str
    volume: str
    since: str
    percent: int
    error: str
    raw: str

    def __str__(self) -> str:
        told = f", {self.error}" if self.error else ""
        return f"flatten of {self.volume} waits or runs since {self.since}, {self.percent} %{told}"


@dataclass(frozen=True, slots=True)
class Walk:
    """What one walk over the list did."""

    flattened: int
    waiting: int
    skipped: bool = False


def ask(pool: rados.Ioctx, image_id: str, volume: str) -> None:
    """Put the image on the list, unless it is there."""
    wire.omap_replace(pool, LIST, image_id, _encoded(_Value(volume, _now())), "")


def cancel(pool: rados.Ioctx, image_id: str) -> None:
    """Take the image off the list; whoever works on it stops."""
    while (work := asked(pool, image_id)) is not None and not wire.omap_drop(pool, LIST, image_id, work.raw):
        pass


def asked(pool: rados.Ioctx, image_id: str) -> Work | None:
    """What the list says of the image."""
    raw = wire.omap_values(pool, LIST, image_id).get(image_id)
    return _work(image_id, raw) if raw else None


def waiting(pool: rados.Ioctx) -> list[Work]:
    """All that is on the list."""
    return [_work(image_id, raw) for image_id, raw in wire.omap_all(pool, LIST)]


def work_off(room: Room, go_on: Callable[[], bool], tell: Tell) -> Walk:
    """Flatten what is on the list of the place, unless another process is at it; until `go_on` is False."""
    with explained("flattening clones"):
        works = waiting(room.pool)
        if not works:
            return Walk(0, 0)
        with room.registry.turn(room.pool, LOCK, _LOCK_SECONDS) as turn:
            if turn is None:
                return Walk(0, len(works), skipped=True)
            flattened, renew = 0, turn.renew
            for work in works:
                if go_on():
                    flattened += _Flattening(room, work, lambda: go_on() and renew(), tell).run()
            return Walk(flattened, len(works) - flattened)


class _Flattening:
    """One image being flattened: librbd works in a thread, this one says how far it is and whether to go on."""

    def __init__(self, room: Room, work: Work, may_go_on: Callable[[], bool], tell: Tell) -> None:
        self._pool, self._instance = room.pool, room.registry.instance
        self._work, self._may_go_on, self._tell = work, may_go_on, tell
        self._percent, self._stopped = work.percent, False
        self._error: Exception | None = None

    def run(self) -> bool:
        """Flatten, and take the image off the list; False if it was stopped, or failed and stays there."""
        header = marks.read_header(self._pool, self._work.image_id)
        if header is not None and header.parent is not None and not marks.is_dying(header):
            thread = threading.Thread(target=self._flatten, name="flattening", daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(_TELL)
                self._stopped = self._stopped or not self._may_go_on() or not self._note()
        if self._error is not None and errno_of(self._error) in (BROKEN, errno.ETIMEDOUT):
            raise self._error
        if self._error is not None:
            self._note()
        if self._error is not None or self._stopped:
            return False
        cancel(self._pool, self._work.image_id)
        return True

    def _flatten(self) -> None:
        try:
            with opened(self._instance, self._pool, self._work.image_id) as image:
                image.flatten(self._progress)
        except rbd.OperationCanceled:
            self._stopped = True
        except (rbd.ImageNotFound, rbd.InvalidArgument):
            return  # gone, or without a parent by now
        except CEPH_ERRORS as error:
            self._error = error

    def _progress(self, done: int, total: int) -> int:
        """Called by librbd in a thread of its own, where nothing may wait for Ceph."""
        self._percent = done * 100 // max(total, 1)
        return -errno.ECANCELED if self._stopped else 0

    def _note(self) -> bool:
        """Renew the list's entry; False if it is lost."""
        self._tell(self._work.volume, self._percent)
        error = str(self._error) if self._error else ""
        raw = _encoded(_Value(self._work.volume, self._work.since, self._percent, error))
        if not wire.omap_replace(self._pool, LIST, self._work.image_id, raw, self._work.raw):
            return False
        self._work = _work(self._work.image_id, raw.encode())
        return True


def _work(image_id: str, raw: bytes) -> Work:
    text = raw.decode(errors="replace")
    try:
        value = msgspec.json.decode(text, type=_Value)
    except msgspec.DecodeError:  # edited by hand: the image's id is enough to do it
        value = _Value(f"image {image_id}", "")
    return Work(image_id, value.volume, value.since, value.percent, value.error, text)


def _encoded(value: _Value) -> str:
    """ASCII, as comparisons need."""
    return json.dumps(msgspec.to_builtins(value))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
