"""One image at a time: find it, make it, mark it, grow it. What `core.volumes` calls its steps, in Ceph's words.

An empty create needs no journal: librbd makes the image, then one atomic class call marks it (`marks`). A process killed
between leaves an image without our mark, which the retry adopts if it is exactly what a create leaves: right size and
features, no parent, no snapshot, no data, no watcher. Anything else under the name is somebody's and stays untouched.
"""

import rados
import rbd

from provisioner.ceph import headers, marks
from provisioner.ceph.errors import explained
from provisioner.ceph.headers import Header
from provisioner.core.errors import AlreadyExists
from provisioner.core.ids import VolumeId
from provisioner.core.model import Blueprint, Found, Layout, Stranger, Volume, Wreck

_BITS = {
    "layering": rbd.RBD_FEATURE_LAYERING,
    "exclusive-lock": rbd.RBD_FEATURE_EXCLUSIVE_LOCK,
    "object-map": rbd.RBD_FEATURE_OBJECT_MAP,
    "fast-diff": rbd.RBD_FEATURE_FAST_DIFF,
    "deep-flatten": rbd.RBD_FEATURE_DEEP_FLATTEN,
}


def find(pool: rados.Ioctx, volume: VolumeId, *, thorough: bool = True) -> Found:
    """Tell what the name holds: both of `rbd_id` and `rbd_directory` have to agree, and a header has to exist.

    Not `thorough`, a name without an id object is absent: one read less before a create, which meets the rest itself.
    """
    with explained(f"looking up image {volume}"):
        image_id = headers.read_id(pool, volume.image)
        if image_id is None and not thorough:
            return None
        listed = headers.listed_id(pool, volume.image)
        if image_id is None and listed is None:
            return None
        if image_id is None or image_id != listed:
            return Wreck(volume, image_id or listed or "", dying=image_id is None)
        header = headers.read_header(pool, image_id)
        if header is None:
            return Wreck(volume, image_id, dying=False)
        if marks.is_dying(header):
            return Wreck(volume, image_id, dying=True)
        return marks.read_volume(volume, header) if marks.is_ours(header) else Stranger(volume, image_id)


def make(pool: rados.Ioctx, plan: Blueprint) -> Volume | None:
    """Create and mark the image; None if the name is taken, or the mark is another's."""
    with explained(f"creating image {plan.id}"):
        try:
            _create(pool, plan)
        except rbd.ImageExists:
            return None
        image_id = headers.read_id(pool, plan.id.image)
        if image_id is None:
            return None
        marked = marks.marks_for(plan, image_id)
        if not headers.write_metadata(pool, image_id, marked, only_without=marks.FINGERPRINT):
            return None
    created = marked[marks.CREATED]
    return Volume(plan.id, image_id, plan.name, plan.size, plan.layout.described(), dict(plan.labels), created)


def adopt(pool: rados.Ioctx, stranger: Stranger, plan: Blueprint) -> None:
    """Mark an unmarked image that is just what `make` would have left. AlreadyExists tells what it is instead."""
    with explained(f"adopting image {plan.id}"):
        header = headers.read_header(pool, stranger.image_id)
        if header is None:
            return
        with rbd.Image(pool, image_id=stranger.image_id, read_only=True) as image:
            differs = _differences(pool, header, plan) or _signs_of_use(image, header)
        if differs:
            raise AlreadyExists(f"image {plan.id}", ["it was not made by this provisioner", *differs])
        if header.features & rbd.RBD_FEATURE_OBJECT_MAP and not _has_object_map(pool, stranger.image_id):
            with rbd.Image(pool, image_id=stranger.image_id) as image:
                image.rebuild_object_map()
        made = marks.marks_for(plan, stranger.image_id)
        headers.write_metadata(pool, stranger.image_id, made, only_without=marks.FINGERPRINT)


def resize(pool: rados.Ioctx, volume: Volume, size: int) -> None:
    """Grow the image; whoever has it open is told by librbd. `size` in bytes; never shrinks."""
    with explained(f"growing image {volume.id}"), rbd.Image(pool, image_id=volume.image_id) as image:
        if image.size() < size:
            image.resize(size, False)


def features_of(layout: Layout) -> int:
    """The layout's features as librbd's bits."""
    return sum(_BITS[feature] for feature in layout.features)


def _create(pool: rados.Ioctx, plan: Blueprint) -> None:
    layout = plan.layout
    rbd.RBD().create(
        pool,
        plan.id.image,
        plan.size,
        order=_order(layout) or None,
        features=features_of(layout),
        stripe_unit=layout.stripe_unit,
        stripe_count=layout.stripe_count,
        data_pool=layout.data_pool or None,
    )


def _order(layout: Layout) -> int:
    return max(layout.object_size.bit_length() - 1, 0)


def _differences(pool: rados.Ioctx, header: Header, plan: Blueprint) -> list[str]:
    layout, implied = plan.layout, rbd.RBD_FEATURE_STRIPINGV2 | rbd.RBD_FEATURE_DATA_POOL
    told = []
    if header.size != plan.size:
        told.append(f"size is {header.size} bytes, asked for {plan.size}")
    if header.features & ~implied != features_of(layout):
        told.append(f"feature bits are {header.features & ~implied}, asked for {features_of(layout)}")
    if layout.object_size and header.order != _order(layout):
        told.append(f"object size is {1 << header.order} bytes, asked for {layout.object_size}")
    if (header.stripe_unit, header.stripe_count) != (layout.stripe_unit, layout.stripe_count):
        told.append(f"striping is {header.stripe_unit}/{header.stripe_count}")
    if (header.data_pool_id >= 0) != bool(layout.data_pool):
        told.append(f"data pool id is {header.data_pool_id}, asked for {layout.data_pool!r}")
    return told


def _signs_of_use(image: rbd.Image, header: Header) -> list[str]:
    signs = []
    if header.has_parent:
        signs.append("it is a clone")
    if any(image.list_snaps()) or header.snap_seq:
        signs.append("it has or had snapshots")
    if watchers := [watcher["addr"] for watcher in image.watchers_list()]:
        signs.append(f"it is open at {', '.join(watchers)}")
    foreign = sorted(key for key in header.metadata if not key.startswith("ceph-provisioner."))
    if foreign:
        signs.append(f"it bears the metadata {', '.join(foreign)}")
    if not signs and _holds_data(image, header.size):
        signs.append("it holds data")
    return signs


def _holds_data(image: rbd.Image, size: int) -> bool:
    used: list[int] = []

    def note(offset: int, _length: int, exists: bool) -> None:
        if exists:
            used.append(offset)

    image.diff_iterate(0, size, None, note, whole_object=True)
    return bool(used)


def _has_object_map(pool: rados.Ioctx, image_id: str) -> bool:
    try:
        pool.stat(f"rbd_object_map.{image_id}")
    except rados.ObjectNotFound:
        return False
    return True
