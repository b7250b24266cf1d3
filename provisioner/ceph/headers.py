"""What an image says of itself, read and tagged without opening it.

Opening an image costs 6-8 ms of CPU; one read of the omap of `rbd_header.<id>` answers the same questions in 0.2 ms. Only
questions, and our own metadata, are handled so: changes of an image's shape stay librbd's, but for `moulds`, `growth` and
`unopened`.
"""

import contextlib
import errno
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import errno_of

NO_DATA_POOL = -1
SNAPSHOT = "snapshot_"
"""Opens the keys of snapshots in the header: the number follows, as 16 hex digits."""
_METADATA = "metadata_"
_FIELDS = ("size", "order", "features", "snap_seq", "parent", "stripe_unit", "stripe_count", "data_pool_id")
_HEADER_UPDATE = 3
"""The number of that message in librbd's protocol over watch and notify."""
_PATIENCE_MS = 3000
"""How long watchers may take to say that they heard: one that doesn't finds out whenever it reads the header."""
_OVER_EMPTY = "\0"
_DIFFERENT = (errno.ECANCELED, errno.ENOENT, errno.ERANGE, errno.EOVERFLOW)
"""How Ceph says that a key has another value, that there is no such object, or another version of it."""
NO_OBJECT, CHANGED_OBJECT = 0, 1
"""What an object map says of an object: not there; there, and written to since the snapshot before."""
_MAP_OPENS = struct.Struct("<IBBIQ")
_PARENT_AT, _WITH_NAMESPACE = 6, 2


@dataclass(frozen=True, slots=True)
class Parent:
    """The snapshot that an image is a clone of."""

    pool_id: int
    namespace: str
    image_id: str
    snap_id: int
    attached: bool = True
    """False once the image was flattened, and only its older snapshots still need the parent."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one image: sizes in bytes, `features` as librbd's bits, `metadata` without its prefix."""

    image_id: str
    size: int
    order: int
    features: int
    snap_seq: int
    parent: Parent | None
    stripe_unit: int
    stripe_count: int
    data_pool_id: int
    metadata: Mapping[str, str]


def header_object(image_id: str) -> str:
    """Name the header of an image."""
    return f"rbd_header.{image_id}"


def map_object(image_id: str, snapshot: int | None = None) -> str:
    """Name the object map of an image, or of its snapshot of that number."""
    return f"rbd_object_map.{image_id}" + ("" if snapshot is None else f".{snapshot:016x}")


def map_opening(objects: int) -> bytes:
    """What an object map for so many objects begins with: the length of its opening, two versions, the length of the rest."""
    return _MAP_OPENS.pack(14, 1, 1, 8, objects)


def metadata_key(key: str) -> str:
    """The key of a piece of metadata in the header's omap."""
    return _METADATA + key


def read_header(pool: rados.Ioctx, image_id: str, *tags: str) -> Header | None:
    """The header, in one read; None if there is none (yet, or any more).

    Where snapshots or foreign metadata fill more than a page, only the fields and the metadata keys `tags` are sure to be told.
    """
    values = wire.omap_page(pool, header_object(image_id), "", "")
    if len(values) >= wire.PAGE:
        wanted = (*_FIELDS, *(_METADATA + tag for tag in tags))
        values |= wire.omap_values(pool, header_object(image_id), *wanted)
    return parse_header(image_id, values) if values else None


def read_fields(pool: rados.Ioctx, image_id: str) -> Header | None:
    """The header without metadata, in one read, asked for key by key; None if there is none, or it holds no image."""
    values = wire.omap_values(pool, header_object(image_id), *_FIELDS)
    return parse_header(image_id, values) if "order" in values else None


def has_metadata(pool: rados.Ioctx, image_id: str) -> bool:
    """Tell whether the image bears any metadata, whosever."""
    return bool(wire.omap_page(pool, header_object(image_id), "", _METADATA, 1))


def write_metadata(pool: rados.Ioctx, image_id: str, values: Mapping[str, str], only_without: str = "") -> bool:
    """Set metadata keys in one atomic step, if the image exists and bears no key `only_without`; tell whether they were set.

    The comparison and the write are one operation of the OSD: of two writers one gets False, whatever dies or stalls. And
    no header comes into being that holds nothing but our tags.
    """
    expected = {only_without: ""} if only_without else {}
    return change_metadata(pool, image_id, values, expected=expected)


def change_metadata(
    pool: rados.Ioctx,
    image_id: str,
    values: Mapping[str, str],
    remove: Collection[str] = (),
    expected: Mapping[str, str] = MappingProxyType({}),
    snapshot: int | None = None,
    version: int | None = None,
    without: int | None = None,
) -> bool:
    """Set and remove metadata keys in one atomic step; tell whether it was done.

    It is done only if the image exists and each key of `expected` has that value, which has to be ASCII; "" is for absent.
    With `snapshot`, only if the image has one of that number; with `without`, only if it has none of that number. With
    `version`, only if the header is of that one.
    """
    with rados.WriteOpCtx() as operation:
        if version is not None:
            operation.assert_version(version)
        operation.omap_cmp("order", _OVER_EMPTY, rados.LIBRADOS_CMPXATTR_OP_GT)
        if snapshot is not None:
            operation.omap_cmp(f"{SNAPSHOT}{snapshot:016x}", _OVER_EMPTY, rados.LIBRADOS_CMPXATTR_OP_GT)
        if without is not None:
            operation.omap_cmp(f"{SNAPSHOT}{without:016x}", "", rados.LIBRADOS_CMPXATTR_OP_EQ)
        for key, value in expected.items():
            operation.omap_cmp(_METADATA + key, value, rados.LIBRADOS_CMPXATTR_OP_EQ)
        if remove:
            pool.remove_omap_keys(operation, tuple(_METADATA + key for key in remove))
        if values:
            operation.execute("rbd", "metadata_set", metadata(values))
        try:
            pool.operate_write_op(operation, header_object(image_id))
        except rados.Error as error:
            if errno_of(error) in _DIFFERENT:
                return False
            raise
    return True


def metadata(values: Mapping[str, str]) -> bytes:
    """Encode what `metadata_set` is to set."""
    pairs = b"".join(wire.string(key) + wire.string(value) for key, value in values.items())
    return struct.pack("<I", len(values)) + pairs


def tell_watchers(pool: rados.Ioctx, image_id: str) -> bool:
    """Have every client that has the image open read its header again, as librbd does after each change; tell if there is any."""
    message = struct.pack("<BBII", 1, 1, 4, _HEADER_UPDATE).decode("ascii")
    watching: list[object] = []

    def told(_: object, __: int, heard: Sequence[object] | None, silent: Sequence[object] | None) -> None:
        watching.extend([*(heard or ()), *(silent or ())])

    notice = pool.aio_notify(header_object(image_id), told, message, _PATIENCE_MS)
    notice.wait_for_complete_and_cb()
    code = -notice.get_return_value()
    if code == errno.ETIMEDOUT:  # somebody did not answer; the others have heard
        return True
    if code:
        raise rados.OSError(f"the watchers of image {image_id} can't be told", errno=code)
    return bool(watching)


def shake_off_watchers(pool: rados.Ioctx, image_id: str) -> None:
    """Make the header anew with what it holds, in one step: its watchers, and a lock on it, are gone after.

    For a dying image whose watchers are all fenced: an OSD that lost a client while it began to watch keeps the watcher for
    ever, and librbd removes no image that is watched. Nothing is done if the header changes meanwhile.
    """
    values = wire.omap_whole(pool, header_object(image_id))
    with rados.WriteOpCtx() as operation:
        operation.assert_version(pool.get_last_version())
        operation.remove()
        operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        pool.set_omap(operation, tuple(values), tuple(values.values()))
        try:
            pool.operate_write_op(operation, header_object(image_id), flags=wire.FULL_FORCE)
        except rados.Error as error:
            if errno_of(error) not in _DIFFERENT:
                raise


def set_striping(pool: rados.Ioctx, image_id: str, unit: int, count: int) -> None:
    """Say how data is striped, as a create does right after it made the header; `unit` in bytes."""
    wire.call(pool, header_object(image_id), "set_stripe_unit_count", struct.pack("<QQ", unit, count))


def make_empty_map(pool: rados.Ioctx, image_id: str, objects: int) -> None:
    """Make the object map of an empty image with room for so many objects; one that is there stays."""
    _make_map(pool, map_object(image_id), objects, NO_OBJECT, flags=0)


def make_cautious_map(pool: rados.Ioctx, image_id: str, snapshot: int, objects: int) -> None:
    """Make a snapshot's object map, even in a full pool: it says that everything changed. One that is there stays."""
    _make_map(pool, map_object(image_id, snapshot), objects, CHANGED_OBJECT, wire.FULL_FORCE)


def _make_map(pool: rados.Ioctx, obj: str, objects: int, state: int, flags: int) -> None:
    with rados.WriteOpCtx() as operation:
        operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        operation.execute("rbd", "object_map_resize", struct.pack("<QB", objects, state))
        with contextlib.suppress(rados.ObjectExists):
            pool.operate_write_op(operation, obj, flags=flags)


def remove_map(pool: rados.Ioctx, image_id: str) -> None:
    """Remove the object map of an image whose header is gone, or never was; none is fine."""
    with contextlib.suppress(rados.ObjectNotFound):
        pool.remove_object(map_object(image_id))


def parse_header(image_id: str, values: Mapping[str, bytes]) -> Header:
    """The header that these omap pairs make."""

    def number(field: str) -> int:
        return wire.number(values.get(field, b""))

    return Header(
        image_id=image_id,
        size=number("size"),
        order=number("order"),
        features=number("features"),
        snap_seq=number("snap_seq"),
        parent=_parent(values.get("parent", b"")),
        stripe_unit=number("stripe_unit"),
        stripe_count=number("stripe_count"),
        data_pool_id=number("data_pool_id") if "data_pool_id" in values else NO_DATA_POOL,
        metadata={
            key.removeprefix(_METADATA): value.decode(errors="replace")
            for key, value in values.items()
            if key.startswith(_METADATA)
        },
    )


def _parent(raw: bytes) -> Parent | None:
    """Decode cls_rbd's `cls_rbd_parent`; version 2 is written since Nautilus."""
    if len(raw) < _PARENT_AT + 8:
        return None
    pool_id, at, namespace = struct.unpack_from("<q", raw, _PARENT_AT)[0], _PARENT_AT + 8, ""
    if raw[0] >= _WITH_NAMESPACE:
        namespace = wire.text(raw, at)
        at += 4 + wire.number(raw[at : at + 4])
    image_id = wire.text(raw, at)
    at += 4 + wire.number(raw[at : at + 4])
    attached = raw[0] < _WITH_NAMESPACE or raw[at + 8 : at + 9] == b"\1"
    return None if pool_id < 0 else Parent(pool_id, namespace, image_id, wire.number(raw[at : at + 8]), attached)
