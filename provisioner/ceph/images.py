"""One image at a time: find it, make it, mark it, grow it. What `core.volumes` calls its steps, in Ceph's words.

An empty create needs no journal: librbd makes the image, then one atomic class call marks it (`marks`); or it is cast like the
last one, mark and all (`moulds`). A process killed between librbd's create and the mark leaves an image without our mark, which
the retry adopts if it is exactly what a create leaves: right size and features, no parent, no snapshot, no data, no watcher.
Anything else under the name is somebody's and stays untouched.
"""

from collections.abc import Mapping

import rados
import rbd

from provisioner.ceph import headers, marks, names, qos
from provisioner.ceph.errors import explained
from provisioner.ceph.growth import grow
from provisioner.ceph.headers import Header
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.moulds import Moulds, cast, new_id
from provisioner.core.errors import AlreadyExists, InvalidRequest, OutOfRange
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Found, Layout, Stranger, Volume, Wreck

_BITS = {
    "layering": rbd.RBD_FEATURE_LAYERING,
    "exclusive-lock": rbd.RBD_FEATURE_EXCLUSIVE_LOCK,
    "object-map": rbd.RBD_FEATURE_OBJECT_MAP,
    "fast-diff": rbd.RBD_FEATURE_FAST_DIFF,
    "deep-flatten": rbd.RBD_FEATURE_DEEP_FLATTEN,
}
_IMPLIED = rbd.RBD_FEATURE_STRIPINGV2 | rbd.RBD_FEATURE_DATA_POOL
"""Bits that librbd sets by itself, for striping and a data pool."""


def find(pool: rados.Ioctx, volume: VolumeId) -> Found:
    """Tell what the name holds: both of `rbd_id` and `rbd_directory` have to agree, and a header has to exist."""
    if names.is_reserved(volume.image):
        return None
    with explained(f"looking up image {volume}"):
        image_id = names.read_id(pool, volume.image)
        listed = names.listed_id(pool, volume.image)
        if image_id is None and listed is not None:
            image_id = names.read_id(pool, volume.image)  # made between the two reads, perhaps
        if image_id is None and listed is None:
            return None
        return _judged(pool, volume, image_id, listed)


def glance(pool: rados.Ioctx, volume: VolumeId) -> Volume | None:
    """The volume, if the name leads to one that was made under it: two reads, enough to answer a repeated create.

    The directory is not asked: whoever maps the image goes by the id object, too. What is to be changed or deleted, `find`.
    """
    with explained(f"looking up image {volume}"):
        image_id = names.read_id(pool, volume.image)
        header = marks.read_header(pool, image_id) if image_id is not None else None
        if header is None or marks.is_leaving(header) or not marks.is_ours(header):
            return None
        return marks.read_volume(volume, header) if marks.volume_for(volume.place, header) == volume else None


def _judged(pool: rados.Ioctx, volume: VolumeId, image_id: str | None, listed: str | None) -> Found:
    seen = image_id or listed or ""
    header = marks.read_header(pool, seen)
    dying = header is not None and marks.is_leaving(header)
    if header is None or dying or image_id != listed:
        return Wreck(volume, seen, dying)
    return marks.read_volume(volume, header) if marks.is_ours(header) else Stranger(volume, seen)


def make(pool: rados.Ioctx, plan: Blueprint, instance: int, moulds: Moulds) -> Volume | None:
    """Create and mark the image; None if the name is taken, or was by the time of marking it. `instance` is the connection's."""
    with explained(f"creating image {plan.id}"):
        mould = moulds.mould_for(plan)
        if mould is None:
            return _made_by_librbd(pool, plan, instance, moulds)
        image_id = new_id(instance)
        marked = marks.marks_for(plan, image_id)
        return _made(plan, image_id, marked) if cast(pool, plan, mould, image_id, marked) else None


def _made_by_librbd(pool: rados.Ioctx, plan: Blueprint, instance: int, moulds: Moulds) -> Volume | None:
    """Create, mark, and see what was made.

    An image that another client made under the name meanwhile bears another's id, and is not taken for the one that was just
    made.
    """
    try:
        _create(pool, plan)
    except rbd.ImageExists:
        return None
    image_id = names.read_id(pool, plan.id.image)
    if image_id is None or not names.is_made_by(image_id, instance):
        return None
    marked = marks.marks_for(plan, image_id)
    if not headers.write_metadata(pool, image_id, marked, only_without=marks.FINGERPRINT):
        return None
    if (header := marks.read_header(pool, image_id)) is not None:
        moulds.keep(plan, header)
    return _made(plan, image_id, marked)


def _made(plan: Blueprint, image_id: str, marked: Mapping[str, str]) -> Volume:
    created, throttle = marked[marks.CREATED], qos.read(marked, image_id)
    asked, labels = plan.asked, dict(plan.labels)
    return Volume(plan.id, image_id, plan.name, plan.size, asked, labels, created, throttle=throttle, home=plan.home)


def adopt(pool: rados.Ioctx, stranger: Stranger, plan: Blueprint, data_pool_id: int) -> None:
    """Mark an unmarked image that is just what `make` would have left. AlreadyExists tells what it is instead."""
    with explained(f"adopting image {plan.id}"):
        header = marks.read_header(pool, stranger.image_id)
        if header is None or marks.is_ours(header):
            return
        if differs := _differences(header, plan, data_pool_id) or _signs_of_use(pool, header):
            raise AlreadyExists(f"image {plan.id}", ["it was not made by this provisioner", *differs])
        _complete(pool, header, plan)
        made = marks.marks_for(plan, stranger.image_id)
        headers.write_metadata(pool, stranger.image_id, made, only_without=marks.FINGERPRINT)


def condemn(pool: rados.Ioctx, stranger: Stranger) -> None:
    """Mark an unmarked image as ours and dying, if nobody ever used it. AlreadyExists tells the signs of use."""
    with explained(f"abandoning image {stranger.id}"):
        header = marks.read_header(pool, stranger.image_id)
        if header is None or marks.is_ours(header):
            return
        if signs := _signs_of_use(pool, header):
            raise AlreadyExists(f"image {stranger.id}", ["it bears no mark of ours, so it is not ours to delete", *signs])
        made = marks.marks_of_death(stranger.id.image, stranger.image_id)
        headers.write_metadata(pool, stranger.image_id, made, only_without=marks.FINGERPRINT)


def resize(pool: rados.Ioctx, volume: Volume, size: int, instance: int) -> int:
    """Grow the image; whoever has it open is told. `size` in bytes; never shrinks; gives the bytes that it has.

    `instance` is the connection's.
    """
    with explained(f"growing image {volume.id}"):
        return size if grow(pool, volume.image_id, size) else _grown_by_librbd(pool, volume, size, instance)


def _grown_by_librbd(pool: rados.Ioctx, volume: Volume, size: int, instance: int) -> int:
    with opened(instance, pool, volume.image_id) as image:
        there = image.size()
        if there >= size:
            return int(there)
        try:
            image.resize(size, False)
        except rbd.InvalidArgument as error:
            if (there := image.size()) >= size:  # somebody grew it further meanwhile: librbd won't shrink it
                return int(there)
            raise OutOfRange("size", size, f"Ceph can't give image {volume.id} so many bytes") from error
    return size


def check_namespace(pool: rados.Ioctx, place: Place) -> None:
    """Raise InvalidRequest for a RADOS namespace that RBD does not know, before anything is written there."""
    with explained(f"looking for the namespace of {place}"):
        if place.namespace and not rbd.RBD().namespace_exists(pool, place.namespace):
            raise InvalidRequest("radosNamespace", place.namespace, f"pool {place.pool} has no such namespace")


def features_of(layout: Layout) -> int:
    """The layout's features as librbd's bits."""
    return sum(_BITS[feature] for feature in layout.features)


def _create(pool: rados.Ioctx, plan: Blueprint) -> None:
    layout = plan.layout
    try:
        rbd.RBD().create(
            pool,
            plan.id.image,
            plan.size,
            order=order_of(layout) or None,
            features=features_of(layout),
            stripe_unit=layout.stripe_unit,
            stripe_count=layout.stripe_count,
            data_pool=layout.data_pool or None,
        )
    except rbd.ImageNotFound as error:
        if layout.data_pool:
            raise InvalidRequest("dataPool", layout.data_pool, "the cluster has no such pool") from error
        raise
    except rbd.InvalidArgument as error:
        raise unfit_data_pool(layout, error) from error


def unfit_data_pool(layout: Layout, error: rbd.InvalidArgument) -> Exception:
    """What it means that librbd finds a layout invalid which we found well: it looked at the data pool, too."""
    if not layout.data_pool:
        return error
    return InvalidRequest("dataPool", layout.data_pool, "an erasure-coded pool needs allow_ec_overwrites to hold an image's data")


def order_of(layout: Layout) -> int:
    """The object size as librbd's power of two; 0 for the default."""
    return max(layout.object_size.bit_length() - 1, 0)


def _differences(header: Header, plan: Blueprint, data_pool_id: int) -> list[str]:
    layout, features = plan.layout, header.features & ~_IMPLIED
    told = []
    if header.size != plan.size:
        told.append(f"size is {header.size} bytes, asked for {plan.size}")
    if features != features_of(layout):
        told.append(f"imageFeatures are {_words(features)}, asked for {_words(features_of(layout))}")
    if layout.object_size and header.order != order_of(layout):
        told.append(f"objectSize is {1 << header.order} bytes, asked for {layout.object_size}")
    if not _lacks_striping(header, layout) and _striping(header) != _asked_striping(header, layout):
        told.append(f"striping is {_striping(header)}, asked for {_asked_striping(header, layout)}")
    if header.data_pool_id != data_pool_id:
        told.append(f"dataPool has the id {header.data_pool_id}, asked for {layout.data_pool!r} with {data_pool_id}")
    return told


def _words(features: int) -> str:
    known = [name for name, bit in _BITS.items() if features & bit]
    rest = features & ~sum(_BITS.values())
    return ",".join([*known, *([f"{rest:#x}"] if rest else [])]) or "none"


def _striping(header: Header) -> tuple[int, int]:
    return _unless_plain(header, header.stripe_unit, header.stripe_count)


def _asked_striping(header: Header, layout: Layout) -> tuple[int, int]:
    return _unless_plain(header, layout.stripe_unit, layout.stripe_count)


def _unless_plain(header: Header, unit: int, count: int) -> tuple[int, int]:
    """One object after the other is how an image lies without striping, and librbd notes nothing then."""
    return (0, 0) if (unit, count) == (1 << header.order, 1) else (unit, count)


def _lacks_striping(header: Header, layout: Layout) -> bool:
    """A create was killed between the header and its striping."""
    promised = bool(header.features & rbd.RBD_FEATURE_STRIPINGV2)
    return promised and not header.stripe_unit and _asked_striping(header, layout) != (0, 0)


def _complete(pool: rados.Ioctx, header: Header, plan: Blueprint) -> None:
    """Do what a killed create had not come to: striping, the object map. Each is one step, done as a create does it.

    librbd could rebuild the map, but is at it for several steps: killed there, it leaves one that is full of data.
    """
    if _lacks_striping(header, plan.layout):
        headers.set_striping(pool, header.image_id, plan.layout.stripe_unit, plan.layout.stripe_count)
    if header.features & rbd.RBD_FEATURE_OBJECT_MAP:
        unit, count = _asked_striping(header, plan.layout)
        headers.make_empty_map(pool, header.image_id, _objects(header, unit or 1 << header.order, count or 1))


def _objects(header: Header, unit: int, count: int) -> int:
    """How many objects the image has room for: all in whole rounds of `count`, but for a last round that ends early."""
    period = count << header.order
    rounds, rest = divmod(header.size, period)
    return rounds * count + min(-(-rest // unit), count)


def _signs_of_use(pool: rados.Ioctx, header: Header) -> list[str]:
    signs = []
    if header.parent is not None:
        signs.append("it is a clone")
    if marks.FINGERPRINT in header.metadata:
        signs.append("it bears the mark of another image")
    foreign = sorted(key for key in header.metadata if not key.startswith(marks.PREFIX))
    if foreign:
        signs.append(f"it bears the metadata {', '.join(foreign)}")
    if signs:
        return signs
    with rbd.Image(pool, image_id=header.image_id, read_only=True) as image:
        return _signs_in(image, header)


def _signs_in(image: rbd.Image, header: Header) -> list[str]:
    signs = []
    if any(image.list_snaps()) or header.snap_seq:
        signs.append("it has or had snapshots")
    if watchers := [watcher["addr"] for watcher in image.watchers_list()]:
        signs.append(f"it is open at {', '.join(watchers)}")
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
