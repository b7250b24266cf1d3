"""Which bytes differ between two snapshots, by librbd's diff, range by range so that memory is bounded on any image.

Where the image has fast-diff, its object maps tell in one read which objects may differ, and only those are asked for the very
bytes. Elsewhere each object is asked. The image is opened read-only, which neither registers a watch nor keeps a delete
waiting; so after each range the snapshots are looked for again: of one that went meanwhile, anything might be missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rados
import rbd

from provisioner.ceph import marks
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.ceph.snapshot_headers import read_album
from provisioner.core.changes import Batch, Run
from provisioner.core.errors import InvalidRequest, NotFound, OutOfRange
from provisioner.core.ids import SnapshotId
from provisioner.core.model import Credentials

_RUNS = 1024
"""Runs after which a batch is told."""
_ASKED = 64
"""Objects whose changes are listed at once: each may have a thousand runs."""
_MAPPED = 65536
"""Objects that are looked up in the object maps at once."""


class CephChanges:
    """Implements `core.changes.ChangeStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def changes(
        self, base: SnapshotId | None, target: SnapshotId, start: int, credentials: Credentials | None
    ) -> Iterator[Batch]:
        """Tell runs from byte `start` on, in batches that may be empty; there is at least one."""
        with (
            self._places.at(target.volume.place, credentials) as (_, pool),
            explained(f"reading what changed in {target}"),
        ):
            younger = _looked_up(pool, target)
            compared = [*self._older(pool, base, target, credentials), younger]
            with _opened(pool, target) as image:
                walk = _begun(image, compared, start)
                for runs in walk.batches(start):
                    for each in compared:
                        each.check(pool)
                    yield Batch(walk.size, tuple(runs))

    def _older(
        self, pool: rados.Ioctx, base: SnapshotId | None, target: SnapshotId, credentials: Credentials | None
    ) -> list["_Compared"]:
        """The base, if there is one. InvalidRequest for one of another volume, NotFound if it isn't there at all."""
        if base is None:
            return []
        if (base.volume.place, base.image_id) == (target.volume.place, target.image_id):
            return [_looked_up(pool, base)]
        try:
            with self._places.at(base.volume.place, credentials) as (_, there):
                _looked_up(there, base)
        except InvalidRequest:  # no such cluster or pool
            raise NotFound(f"snapshot {base}") from None
        raise InvalidRequest("base_snapshot_id", base, f"is no snapshot of the volume of {target}")


@dataclass(frozen=True, slots=True)
class _Compared:
    """A snapshot and its number in Ceph, which orders an image's snapshots by age and is given once."""

    id: SnapshotId
    number: int

    def check(self, pool: rados.Ioctx) -> None:
        """Raise NotFound if the snapshot isn't there any more."""
        album = read_album(pool, self.id.image_id)
        there = album.named(self.id.snapshot) if album is not None else None
        if there is None or there.number != self.number:  # a deleted one that clones need lives on under another name
            raise NotFound(f"snapshot {self.id}")


def _looked_up(pool: rados.Ioctx, snapshot: SnapshotId) -> _Compared:
    album = read_album(pool, snapshot.image_id)
    there = album.named(snapshot.snapshot) if album is not None else None
    if album is None or there is None or album.mark_of(there) is None or marks.is_dying(album.header):
        raise NotFound(f"snapshot {snapshot}")
    return _Compared(snapshot, there.number)


def _begun(image: rbd.Image, compared: list[_Compared], start: int) -> "_Walk":
    *older, target = compared
    if older and older[0].number > target.number:
        raise InvalidRequest("base_snapshot_id", older[0].id, f"is younger than {target.id}")
    image.set_snap_by_id(target.number)
    walk = _Walk(image, older[0].id.snapshot if older else None)
    if not 0 <= start <= walk.size:
        raise OutOfRange("starting_offset", start, f"the snapshot has {walk.size} bytes")
    return walk


@contextmanager
def _opened(pool: rados.Ioctx, snapshot: SnapshotId) -> Iterator[rbd.Image]:
    try:
        image = rbd.Image(pool, image_id=snapshot.image_id, read_only=True)
    except rbd.ImageNotFound:
        raise NotFound(f"snapshot {snapshot}") from None
    with image:
        yield image


class _Walk:
    """Goes through an image open at the younger of two snapshots; `base` is the older one's name, None for an empty image."""

    def __init__(self, image: rbd.Image, base: str | None) -> None:
        self._image, self._base, self.size = image, base, int(image.size())
        stat, count = image.stat(), image.stripe_count()
        # runs of one stripe lie in several objects: only whole stripes come in order
        self._asked = stat["obj_size"] * count * max(_ASKED // count, 1)
        self._mapped = self._asked * (_MAPPED // _ASKED)
        self._is_mapped = bool(image.features() & rbd.RBD_FEATURE_FAST_DIFF) and not image.flags()

    def batches(self, start: int) -> Iterator[list[Run]]:
        """Runs from byte `start` on; at least one batch."""
        if start == self.size:
            yield []
        for far in _parts(Run(start, self.size - start), self._mapped):
            runs: list[Run] = []
            for near in self._likely(far):
                runs += self._runs(near, whole=False)
                if len(runs) >= _RUNS:
                    yield _joined(runs)
                    runs = []
            yield _joined(runs)  # though it be empty: whoever reads may have gone, and is noticed so

    def _likely(self, far: Run) -> Iterator[Run]:
        """The parts of a range where anything may have changed, each small enough to ask its objects."""
        for run in _joined(self._runs(far, whole=True)) if self._is_mapped else [far]:
            yield from _parts(run, self._asked)

    def _runs(self, part: Run, *, whole: bool) -> list[Run]:
        runs: list[Run] = []

        def note(offset: int, length: int, exists: bool) -> None:
            if exists or self._base is not None:  # what was wiped has changed, but holds no data
                runs.append(Run(offset, length))

        self._image.diff_iterate(part.offset, part.length, self._base, note, True, whole)
        return sorted(runs, key=lambda run: run.offset)


def _parts(run: Run, length: int) -> Iterator[Run]:
    """Cut at the multiples of `length`."""
    at = run.offset
    while at < run.end:
        end = min(at - at % length + length, run.end)
        yield Run(at, end - at)
        at = end


def _joined(runs: list[Run]) -> list[Run]:
    """Make one of runs that touch."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].end == run.offset:
            joined[-1] = Run(joined[-1].offset, joined[-1].length + run.length)
        else:
            joined.append(run)
    return joined
