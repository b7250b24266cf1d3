"""Empty images cast in a mould: as librbd made one of the same layout a moment ago, in a third of its operations.

librbd builds its whole configuration anew for each image (3 ms), and looks once more whether the pool is fit and what the
defaults are. So it makes the first image of a layout, every minute again, and those between bear the same header: only what
depends on nothing but the layout is taken over, and images with a data pool or with striping stay librbd's.

The steps are librbd's, in its order, but for the object map, which comes before the header: so the header comes into being
together with our marks, in one operation of the OSD, and is at no time an unmarked image. What a killed cast leaves has no
header, and `salvage` takes it away.
"""

import contextlib
import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import rados
import rbd

from provisioner.ceph import headers, names, wire
from provisioner.ceph.headers import Header
from provisioner.core.ids import Place
from provisioner.core.model import Blueprint, Layout

_FRESH = 60.0
"""Seconds for which a mould is used: as long as a change of a pool's defaults may go unnoticed."""
_ASKING = 5.0
"""Seconds for which the others go on with the old one while librbd is asked."""
PLAIN = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
    | rbd.RBD_FEATURE_DEEP_FLATTEN
)
"""Features that are nothing more than bits in the header, and a map."""


@dataclass(frozen=True, slots=True)
class Mould:
    """What librbd's header says beside size and id: the object size as a power of two, the features as its bits."""

    order: int
    features: int
    until: float


class Moulds:
    """What librbd made lately, by place and layout; thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[Place, Layout], Mould] = {}

    def mould_for(self, plan: Blueprint) -> Mould | None:
        """How librbd would make it; None if it has to be asked, which one of those who come at once does for all."""
        key, now = (plan.id.place, plan.layout), time.monotonic()
        mould = self._known.get(key)
        if mould is None or now >= mould.until + _FRESH:
            return None
        if now < mould.until:
            return mould
        self._known[key] = replace(mould, until=now + _ASKING)
        return None

    def keep(self, plan: Blueprint, made: Header) -> None:
        """Remember what librbd made of a plan, if that is a plain image."""
        if not made.features & ~PLAIN:
            self._known[plan.id.place, plan.layout] = Mould(made.order, made.features, time.monotonic() + _FRESH)


def cast(pool: rados.Ioctx, plan: Blueprint, mould: Mould, image_id: str, marks: Mapping[str, str]) -> bool:
    """Make the image, with these metadata; False, and nothing of it is left, if the name is taken, or by chance the id."""
    name = plan.id.image
    if _is_of_old_format(pool, name) or not names.enlist(pool, name, image_id):
        return False
    try:
        if not names.write_id(pool, name, image_id, flags=0):
            names.unlist(pool, name, image_id)
            return False
        if mould.features & rbd.RBD_FEATURE_OBJECT_MAP:
            headers.make_empty_map(pool, image_id, -(-plan.size >> mould.order))
        _make_header(pool, plan.size, mould, image_id, marks)
    except rados.ObjectExists:  # a header with that id, of an image in the trash: the map is that one's, too
        names.unlist(pool, name, image_id)
        names.remove_id(pool, name, image_id)
        return False
    except rados.TimedOut:  # the header may come into being yet: it has to be found then
        raise
    except rados.Error:
        with contextlib.suppress(rados.Error):
            undo(pool, name, image_id)
        raise
    return True


def undo(pool: rados.Ioctx, name: str, image_id: str) -> None:
    """Take away what there is of an image without a header; nothing is fine."""
    headers.remove_map(pool, image_id)
    names.unlist(pool, name, image_id)
    names.remove_id(pool, name, image_id)


def new_id(instance: int) -> str:
    """An image id as librbd makes it: the client's id, and chance."""
    return f"{instance:x}{secrets.randbits(32):x}"[-names.ID_DIGITS :]


def _is_of_old_format(pool: rados.Ioctx, name: str) -> bool:
    """Tell whether the name is that of an image of format 1, which clients find first."""
    try:
        pool.stat(f"{name}.rbd")
    except rados.ObjectNotFound:
        return False
    return True


def _make_header(pool: rados.Ioctx, size: int, mould: Mould, image_id: str, marks: Mapping[str, str]) -> None:
    shape = struct.pack("<QBQ", size, mould.order, mould.features)
    prefix = wire.string(f"rbd_data.{image_id}")
    with rados.WriteOpCtx() as operation:
        operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        operation.execute("rbd", "create", shape + prefix + struct.pack("<q", headers.NO_DATA_POOL))
        operation.execute("rbd", "metadata_set", headers.metadata(marks))
        pool.operate_write_op(operation, headers.header_object(image_id))
