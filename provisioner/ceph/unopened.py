"""Taking a snapshot of an image that nobody has open, as librbd does, but without opening it: a third of its operations.

librbd has the exclusive lock meanwhile, so that whoever writes keeps what the snapshot is to have, and has a true object map.
Here nobody may have begun to write: the steps are done while the lock is free, in librbd's order, and what they stand on is
compared by its version. Who opens the image once its header has the snapshot knows of it. Who had it open before is seen: as a
watcher at the end, or as one who has had the lock, which leaves another version. Then it is taken away, and librbd is asked.

The snapshot is born condemned, and its mark is its pardon: so whoever meets it before takes it for what a killed process left.
"""

import errno
import struct
from dataclasses import dataclass

import rados
import rbd

from provisioner.ceph import headers, marks, snapshot_removal, unlocked, wire
from provisioner.ceph.moulds import PLAIN
from provisioner.ceph.places import Room
from provisioner.ceph.snapshot_headers import Album, read_album

_NEEDED = rbd.RBD_FEATURE_EXCLUSIVE_LOCK
_MAPPED = rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF
_LARGEST_MAP = 1 << 20
"""Bytes of an object map, four objects to a byte, that are copied here."""
_TAKEN = (errno.EEXIST, errno.ESTALE, errno.EDQUOT)
"""How the header says that it has a snapshot of that name, a later one, as many as it may."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot without a mark: `album` has it, and while the header is of `version`, nobody has had the image locked."""

    album: Album
    version: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """The header's version; the object map, if the image has one, and the version of that."""

    version: int
    map: bytes | None = None
    map_version: int = 0


def take(room: Room, image_id: str, name: str) -> Taken | None:
    """Take the snapshot; None, and there is none, if librbd has to: somebody uses the image, or it is not so plain."""
    pool = room.pool
    seen = _look(pool, image_id)
    if seen is None or _is_open(pool, image_id):
        return None
    number = pool.create_self_managed_snap()
    version = _add(pool, image_id, seen.version, number, name)
    if version is None:
        pool.remove_self_managed_snap(number)
        return None
    if _map(pool, image_id, seen, number) and not _is_open(pool, image_id):
        album = read_album(pool, image_id)
        if album is not None and pool.get_last_version() == version:
            return Taken(album, version)
    snapshot_removal.take_away(room, image_id, name)
    return None


def _is_open(pool: rados.Ioctx, image_id: str) -> bool:
    """Tell whether a client has the image open to write: it watches, and is told to look at the header again."""
    return headers.tell_watchers(pool, image_id)


def _look(pool: rados.Ioctx, image_id: str) -> _Seen | None:
    """What there is to take a snapshot of; None if it is not for us."""
    header, used = headers.header_object(image_id), [headers.metadata_key(key) for key in (marks.ATTACHMENTS, marks.DELETING)]
    said = wire.omap_values(pool, header, "size", "order", "features", "flags", *used)
    version = pool.get_last_version()
    size, order, features, flags = (wire.number(said.get(key, b"")) for key in ("size", "order", "features", "flags"))
    if not order or features & ~PLAIN or not features & _NEEDED or flags or any(key in said for key in used):
        return None
    if not features & _MAPPED:
        return _Seen(version)
    try:
        raw = pool.read(headers.map_object(image_id), _LARGEST_MAP)
    except rados.ObjectNotFound:
        return None
    whole = raw.startswith(headers.map_opening(-(-size >> order))) and len(raw) < _LARGEST_MAP
    return _Seen(version, raw, pool.get_last_version()) if whole and features & _MAPPED == _MAPPED else None


def _add(pool: rados.Ioctx, image_id: str, version: int, number: int, name: str) -> int | None:
    """Enter the snapshot, condemned, into a header of this version; gives the next version, None if it was not done."""
    header = headers.header_object(image_id)
    with rados.WriteOpCtx() as operation:
        operation.assert_version(version)
        operation.execute("rbd", "snapshot_add", wire.string(name) + struct.pack("<Q", number))
        operation.execute("rbd", "metadata_set", headers.metadata(snapshot_removal.sentence_of(image_id, number, name)))
        return pool.get_last_version() if unlocked.done(pool, operation, header, "snapshot", _TAKEN) else None


def _map(pool: rados.Ioctx, image_id: str, seen: _Seen, number: int) -> bool:
    """Give the snapshot its object map, and have the image's own count anew what changes; False if that changed meanwhile.

    Then there must be no map of the snapshot: it may be gone already; or an older one is, and this one's map should have taken
    over what that one's said. Of a snapshot without a map, `snapshot_removal` assumes the worst.
    """
    if seen.map is None:
        return True
    obj = headers.map_object(image_id, number)
    if not wire.write_new(pool, obj, seen.map, flags=0):
        return False
    with rados.WriteOpCtx() as operation:
        operation.assert_version(seen.map_version)
        operation.execute("rbd", "object_map_snap_add", b"")
        if unlocked.done(pool, operation, headers.map_object(image_id), "snapshot"):
            return True
    wire.remove_if_holds(pool, obj, seen.map)
    return False
