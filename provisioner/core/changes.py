"""Which bytes a snapshot holds, and which differ from an earlier one: what an incremental backup reads.

A walk is told in steps, so that no image is too large for it, and may be taken up again at any byte: nothing is remembered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from provisioner.core.ids import SnapshotId
from provisioner.core.model import Credentials


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a volume, one after the other."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs in ascending order, none overlapping another; `size` is the snapshot's, in bytes."""

    size: int
    runs: tuple[Run, ...]


class ChangeStore(Protocol):
    """What a store tells of differences."""

    def changes(
        self, base: SnapshotId | None, target: SnapshotId, start: int, credentials: Credentials | None
    ) -> Iterator[Batch]:
        """Runs from byte `start` on that hold data in `target`, or differ from what they held in `base`.

        Ascending, bounded in each batch; at least one batch, and some may be empty. Raises NotFound for a snapshot that is not
        there, or not for the whole walk, InvalidRequest for two that can't be compared, OutOfRange for a start behind the end.
        """


class Changes:
    """The use cases over one store."""

    def __init__(self, store: ChangeStore) -> None:
        self._store = store

    def allocated(self, snapshot: SnapshotId, start: int, most: int, credentials: Credentials | None = None) -> Iterator[Batch]:
        """What was ever written of a snapshot, from byte `start` on, at most `most` runs at once."""
        return _parted(self._store.changes(None, snapshot, start, credentials), most)

    def changed(
        self, base: SnapshotId, target: SnapshotId, start: int, most: int, credentials: Credentials | None = None
    ) -> Iterator[Batch]:
        """What differs between two snapshots of one volume, as `allocated` tells it. `base` is the older one."""
        return _parted(self._store.changes(base, target, start, credentials), most)


def _parted(batches: Iterator[Batch], most: int) -> Iterator[Batch]:
    """The same runs in batches of at most `most`."""
    for batch in batches:
        yield from (Batch(batch.size, batch.runs[at : at + most]) for at in range(0, len(batch.runs) or 1, most))
