"""The reaper: tidies up what nobody asks for any more, in the background, one process at a time in each place.

Tombstones whose last snapshot is gone go to the trash; what killed builders left under a reserved name, or as a momentary
snapshot of a source, is scrapped or finished; group snapshots that nobody finishes go, and so do entries of the index without a
snapshot, or with one that nobody marks, once nobody can be making it.
It is all found by name or on a list, never by reading every image.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import rados

from provisioner.ceph import clones, groups, images, index, names, removal, reservations, snapshot_removal, wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Room
from provisioner.ceph.registry import Standing
from provisioner.ceph.salvage import Sightings
from provisioner.ceph.snapshot_headers import STEP, read_album
from provisioner.core.errors import Conflict, Denied, InUse, ProvisionerError, Unavailable
from provisioner.core.groups import Roll
from provisioner.core.ids import Place, VolumeId, image_name
from provisioner.core.model import Entry

MayGoOn = Callable[[], bool]
"""Waits between two steps; False ends the walk."""
LOCK = "reap"
_PAGE = 64
_CALLS = 20
"""RADOS calls that the longest step of a request makes, each bounded by the connection's timeout."""


@dataclass(frozen=True, slots=True)
class Reap:
    """What one walk did: tombstones that went and that stay, builds and steps scrapped, entries dropped."""

    tombstones: int = 0
    kept: int = 0
    scrapped: int = 0
    entries: int = 0
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Scrapping:
    """What takes away what is left of a group snapshot, or of a snapshot; False if somebody is at work on it."""

    group: Callable[[Roll], bool]
    snapshot: Callable[[Entry], bool]


class Reaper:
    """Walks through one place after the other; remembers since when it has seen what may be somebody's work."""

    def __init__(self, index_every: float = 600.0, unmarked_for: float = 60.0) -> None:
        """The index is walked through every `index_every` seconds.

        A snapshot of the dead is left for `unmarked_for` seconds after it was first seen to whoever asks for it again.
        """
        self._sightings = Sightings()
        self._every, self._unmarked_for = index_every, unmarked_for
        self._indexed: dict[Place, float] = {}

    def walk(
        self,
        room: Room,
        place: Place,
        is_claimed: removal.Claimed,
        pace: MayGoOn,
        scrapping: Scrapping | None = None,
    ) -> Reap:
        """Tidy the place up. `pace` waits between two steps, False ends the walk.

        `scrapping` is for a cluster's home, which has the index and the rolls of group snapshots, too.
        """
        with explained(f"tidying up {place}"), room.registry.turn(room.pool, LOCK) as turn:
            if turn is None:
                return Reap(skipped=True)
            renew = turn.renew
            return self._walk(room, place, is_claimed, lambda: pace() and renew(), scrapping)

    def _walk(
        self, room: Room, place: Place, is_claimed: removal.Claimed, may_go_on: MayGoOn, scrapping: Scrapping | None
    ) -> Reap:
        went, kept = self._tombstones(room, place, is_claimed, may_go_on)
        scrapped = self._builds(room, place, may_go_on) + self._steps(room, may_go_on)
        due = time.monotonic() - self._indexed.get(place, -self._every) >= self._every
        dropped = self._reservations(room, place, may_go_on) if due else 0
        if due and scrapping is not None:
            scrapped += self._groups(room, place, may_go_on, scrapping)
            dropped += self._entries(room, may_go_on, scrapping)
        if due:
            self._indexed[place] = time.monotonic()
        return Reap(went, kept, scrapped, dropped)

    def _tombstones(self, room: Room, place: Place, is_claimed: removal.Claimed, may_go_on: MayGoOn) -> tuple[int, int]:
        went = kept = 0
        for name, image_id in _reserved(room.pool, names.DEAD):
            album = read_album(room.pool, image_id)
            if album is not None and album.users():
                kept += 1
                continue
            if not may_go_on():
                break
            try:
                removal.discard(room.pool, room.registry, VolumeId(place, name), image_id, is_claimed)
                went += 1
            except (InUse, Conflict):
                kept += 1
        return went, kept

    def _builds(self, room: Room, place: Place, may_go_on: MayGoOn) -> int:
        scrapped = 0
        for name, _ in _reserved(room.pool, names.NEW):
            if not may_go_on():
                break
            with room.registry.turn(room.pool, clones.lock_of(name), _CALLS * room.registry.timeout) as turn:
                if turn is not None:  # or else its builder is alive, perhaps in this very process
                    with suppress(Unavailable):
                        clones.scrap(room.pool, place, name)
                        scrapped += 1
        return scrapped

    def _steps(self, room: Room, may_go_on: MayGoOn) -> int:
        scrapped = 0
        for key, raw in wire.omap_all(room.pool, clones.BUILDS):
            note = clones.note_of(raw)
            if not self._is_abandoned(room, note.by, (key, raw)) or not may_go_on():
                continue
            if note.image_id:
                snapshot_removal.remove(room, note.image_id, STEP + key)
            scrapped += wire.omap_drop(room.pool, clones.BUILDS, key, raw.decode(errors="replace"))
        return scrapped

    def _reservations(self, room: Room, home: Place, may_go_on: MayGoOn) -> int:
        """Choices of a pool that no volume came of, and nobody asked for again."""
        dropped = 0
        for entry in reservations.entries(room.pool, home):
            if _is_empty(room, entry) and self._is_old(room, entry) and may_go_on():
                dropped += reservations.drop(room.pool, entry)
        return dropped

    def _groups(self, room: Room, home: Place, may_go_on: MayGoOn, scrapping: Scrapping) -> int:
        scrapped = 0
        for roll, author in groups.unfinished(room.pool, home):
            if self._is_abandoned(room, author, roll.raw):
                if not may_go_on():
                    break
                scrapped += scrapping.group(roll)
        return scrapped

    def _entries(self, room: Room, may_go_on: MayGoOn, scrapping: Scrapping) -> int:
        dropped = 0
        for entry in index.entries(room.pool):
            if self._is_needed(room, entry) or not self._is_abandoned(room, entry.by, entry.raw):
                continue
            if not may_go_on():
                break
            with suppress(Conflict, InUse, Denied):  # another is at it, it is protected by hand, or not ours to write to
                dropped += scrapping.snapshot(entry)
        return dropped

    def _is_needed(self, room: Room, entry: Entry) -> bool:
        """Tell that what it stands for is there and marked, or was unmarked for a short time only."""
        try:
            with room.connection.pool(entry.volume.place) as pool:
                album = read_album(pool, entry.image_id)
        except ProvisionerError:  # a place that can't be looked into says nothing
            return True
        there = album.named(entry.id.snapshot) if album is not None else None
        if album is None or there is None:
            return False
        return album.mark_of(there) is not None or self._age(entry.raw) < self._unmarked_for

    def _is_abandoned(self, room: Room, author: int, pieces: object) -> bool:
        """Tell that nobody can be at work on what looks the same since it was first seen."""
        if room.registry.judge(room.pool, author) in (Standing.DEAD, Standing.FOREIGN):
            return True
        return self._is_old(room, pieces)

    def _is_old(self, room: Room, pieces: object) -> bool:
        """Tell that it looks the same for longer than any living author's calls can take."""
        return self._age(pieces) > _CALLS * room.registry.timeout

    def _age(self, pieces: object) -> float:
        """Seconds since it was first seen as it is."""
        seen = self._sightings.since(str(pieces))
        return time.monotonic() - seen


def _reserved(pool: rados.Ioctx, prefix: str) -> Iterator[tuple[str, str]]:
    after = ""
    while page := names.reserved(pool, prefix, after, _PAGE):
        yield from page.items()
        after = max(page)


def _is_empty(room: Room, entry: reservations.Reservation) -> bool:
    try:
        with room.connection.pool(entry.place) as pool:
            return images.find(pool, VolumeId(entry.place, image_name(entry.place, entry.name))) is None
    except ProvisionerError:  # a place that can't be looked into says nothing
        return False
