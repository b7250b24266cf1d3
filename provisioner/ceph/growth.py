"""Growing an image that nobody has locked, as librbd does, but without opening it: a fifth of its operations.

librbd takes the exclusive lock for it, so that no client's object map grows stale; `unlocked` says how each of the two steps is
done without. The object map comes first, as with librbd: one that is larger than its image is a growth cut short, which librbd
knows. Whatever is not as expected is left to librbd.
"""

import struct

import rados
import rbd

from provisioner.ceph import headers, unlocked, wire
from provisioner.ceph.headers import NO_OBJECT
from provisioner.ceph.moulds import PLAIN

_MOST = 1 << 24
"""Objects up to which a map is grown here: librbd knows the limits."""


def grow(pool: rados.Ioctx, image_id: str, size: int) -> bool:
    """Grow a plain image to `size` bytes and tell its watchers; False if librbd has to: it is locked, or not so plain."""
    header = headers.header_object(image_id)
    said = wire.omap_values(pool, header, "size", "order", "features", "flags")
    version = pool.get_last_version()
    old, order, features, flags = (wire.number(said.get(key, b"")) for key in ("size", "order", "features", "flags"))
    if not order or features & ~PLAIN or not features & rbd.RBD_FEATURE_EXCLUSIVE_LOCK or flags or old >= size:
        return False
    before, after = (-(-each >> order) for each in (old, size))
    if after > _MOST:
        return False
    if features & rbd.RBD_FEATURE_OBJECT_MAP and not _grow_map(pool, image_id, before, after):
        return False
    with rados.WriteOpCtx() as operation:
        operation.assert_version(version)
        operation.execute("rbd", "set_size", struct.pack("<Q", size))
        if not unlocked.done(pool, operation, header, "growing"):
            return False
    headers.tell_watchers(pool, image_id)
    return True


def _grow_map(pool: rados.Ioctx, image_id: str, before: int, after: int) -> bool:
    """Make room in the map, if it is there and for `before` objects: a lost one must not come back empty."""
    with rados.WriteOpCtx() as operation:
        operation.cmpext(headers.map_opening(before), 0)
        operation.execute("rbd", "object_map_resize", struct.pack("<QB", after, NO_OBJECT))
        return unlocked.done(pool, operation, headers.map_object(image_id), "growing")
