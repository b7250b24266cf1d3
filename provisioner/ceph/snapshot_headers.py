"""The snapshots that an image's header lists, and our marks on them, read in one go and without opening the image.

An RBD snapshot is ours if the header bears the mark `ceph-provisioner.snapshot.<its name>`: JSON, bound to the image's
internal id and the snapshot's number, so that what a clone inherited counts as absent. Snapshots whose names begin with
`cp.src.` are steps of a clone under way. What was deleted while clones need it, Ceph itself keeps in the namespace TRASH.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import rados
import rbd

from provisioner.ceph import headers, marks, wire
from provisioner.ceph.headers import Header
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Snapshot

USER, GROUP, TRASH, MIRROR = range(4)
"""Namespaces of RBD snapshots."""
MARK = marks.PREFIX + "snapshot."
STEP = "cp.src."
"""Opens the names of snapshots that a clone of a volume is made from; they live for a moment."""

_OPENING = struct.Struct("<BBI")


@dataclass(frozen=True, slots=True)
class RbdSnapshot:
    """One entry of the header: `size` in bytes, `created` in seconds since 1970, `children` how many clones it has."""

    number: int
    name: str
    size: int
    namespace: int
    created: float
    children: int


@dataclass(frozen=True, slots=True)
class SnapshotMark:
    """What makes an RBD snapshot ours: `volume` is the image's name when it was taken, `by` and `stamp` its index entry's."""

    name: str
    volume: str
    image_id: str
    snap_id: int
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    by: int = 0
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Album:
    """An image's header with all its snapshots and the marks on them, by the RBD snapshots' names."""

    header: Header
    snapshots: tuple[RbdSnapshot, ...]
    marks: Mapping[str, SnapshotMark]

    def users(self) -> list[RbdSnapshot]:
        """Snapshots that somebody made by name: ours and others', without a clone's steps and the trash."""
        return [each for each in self.snapshots if each.namespace != TRASH and not each.name.startswith(STEP)]

    def steps(self) -> list[RbdSnapshot]:
        """Snapshots that clones are being made from."""
        return [each for each in self.snapshots if each.namespace == USER and each.name.startswith(STEP)]

    def named(self, name: str) -> RbdSnapshot | None:
        """The snapshot of that name, which may be anybody's."""
        return next((each for each in self.users() if each.namespace == USER and each.name == name), None)

    def has(self, name: str, number: int | None = None) -> bool:
        """Tell whether there is a snapshot of that name, anybody's or a clone's step; with `number`, that very one."""
        there = (each.number for each in self.snapshots if each.namespace == USER and each.name == name)
        return any(number in (None, each) for each in there)

    def mark_of(self, snapshot: RbdSnapshot) -> SnapshotMark | None:
        """Our mark on this very snapshot."""
        mark = self.marks.get(snapshot.name)
        true = mark is not None and (mark.image_id, mark.snap_id) == (self.header.image_id, snapshot.number)
        return mark if true else None

    def numbered(self, place: Place) -> Iterator[tuple[int, Snapshot]]:
        """Our snapshots with their numbers, oldest first."""
        for each in sorted(self.users(), key=lambda snapshot: snapshot.number):
            if mark := self.mark_of(each):
                yield each.number, as_snapshot(place, each, mark)

    def ours(self, place: Place) -> list[Snapshot]:
        """Our snapshots, oldest first."""
        return [snapshot for _, snapshot in self.numbered(place)]

    def find(self, place: Place, name: str) -> Snapshot | None:
        """Our snapshot of that RBD name."""
        there = self.named(name)
        mark = self.mark_of(there) if there else None
        return as_snapshot(place, there, mark) if there and mark else None


def as_snapshot(place: Place, snapshot: RbdSnapshot, mark: SnapshotMark) -> Snapshot:
    """The core's value for a marked snapshot."""
    snapshot_id = SnapshotId(VolumeId(place, mark.volume), snapshot.name, mark.image_id)
    return Snapshot(snapshot_id, mark.name, snapshot.size, snapshot.created, mark.group, dict(mark.labels))


def read_album(pool: rados.Ioctx, image_id: str) -> Album | None:
    """Everything that the header says; None if there is none (yet, or any more). One read up to 300 snapshots."""
    values = wire.omap_whole(pool, headers.header_object(image_id))
    if not values:
        return None
    header = headers.parse_header(image_id, values)
    snapshots = tuple(_parsed(raw) for key, raw in values.items() if key.startswith(headers.SNAPSHOT))
    return Album(header, snapshots, _marks(header))


def is_whole(pool: rados.Ioctx, album: Album, number: int) -> bool:
    """Tell whether a snapshot has its object map, the last that librbd makes of it; without such maps, that can't be told."""
    if not album.header.features & rbd.RBD_FEATURE_OBJECT_MAP:
        return True
    try:
        pool.stat(headers.map_object(album.header.image_id, number))
    except rados.ObjectNotFound:
        return False
    return True


def mark_values(name: str, mark: SnapshotMark) -> dict[str, str]:
    """The metadata that makes the RBD snapshot `name` ours."""
    return {MARK + name: msgspec.json.encode(mark).decode()}


def _marks(header: Header) -> dict[str, SnapshotMark]:
    found = {}
    for key, value in header.metadata.items():
        if key.startswith(MARK) and (mark := _decoded(value)) and mark.image_id == header.image_id:
            found[key.removeprefix(MARK)] = mark
    return found


def _decoded(mark: str) -> SnapshotMark | None:
    try:
        return msgspec.json.decode(mark, type=SnapshotMark)
    except msgspec.DecodeError:  # edited by hand: the snapshot is not ours any more
        return None


def _parsed(raw: bytes) -> RbdSnapshot:
    """Decode cls_rbd's `cls_rbd_snap` of version 8, which every Ceph since Nautilus writes."""
    at = _OPENING.size
    number = wire.number(raw[at : at + 8])
    name = wire.text(raw, at + 8)
    at += 8 + 4 + wire.number(raw[at + 8 : at + 12])
    size = wire.number(raw[at : at + 8])
    at += 8 + 1 + 8  # size, protection, flags
    _, _, length = _OPENING.unpack_from(raw, at)
    namespace = wire.number(raw[at + _OPENING.size : at + _OPENING.size + 4])
    at += _OPENING.size + length
    seconds, nanoseconds, children = struct.unpack_from("<III", raw, at)
    return RbdSnapshot(number, name, size, namespace, seconds + nanoseconds / 1e9, children)
