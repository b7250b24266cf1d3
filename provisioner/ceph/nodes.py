"""What a node needs to know of an image before it attaches it, and the notes that it leaves on it.

A note is metadata `ceph-provisioner.node.<key>`: the image's internal id, a blank, and what is noted, so that a clone, which
inherits it, does not take its parent's for its own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import rados
import rbd

from provisioner.ceph import headers, marks, names, users, wire
from provisioner.ceph.cluster import Clusters, Connection
from provisioner.ceph.errors import explained
from provisioner.ceph.keys import key_of
from provisioner.core.errors import Denied, InvalidRequest, NotFound, Unfit
from provisioner.core.ids import Place, VolumeId
from provisioner.core.keys import KeyRecord
from provisioner.core.model import Credentials, Opening

_NOTE = marks.PREFIX + "node."
KEYS = "encryption.ceph-provisioner"
"""The key record's metadata: not below our prefix, since clones are to inherit it."""
_ROOM = marks.PREFIX + "room"
"""An object that is there for a moment only, to see whether there is room for it."""
_PLAIN = 0x1FF
"""Feature bits of librbd with which an object that is not there reads as zeros: all up to `operations`, not `migrating`."""
_CHEAP = rbd.RBD_FEATURE_FAST_DIFF


class NodeImages:
    """Implements `host.ports.Images` over the connections of this process."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def opening(self, volume: VolumeId, credentials: Credentials | None) -> Opening:
        """Look the image up by name: any image of that name will do that is not being deleted."""
        try:
            return self._opening(volume, credentials)
        except InvalidRequest as error:
            if error.field in ("clusterID", "pool"):  # where there is no pool, there is no volume
                raise NotFound(f"volume {volume}") from error
            raise

    def _opening(self, volume: VolumeId, credentials: Credentials | None) -> Opening:
        place = volume.place
        with (
            self._clusters.connection(place.cluster, credentials) as connection,
            connection.pool(place) as pool,
            explained(f"looking up image {volume}"),
        ):
            image_id = names.read_id(pool, volume.image)
            header = marks.read_header(pool, image_id) if image_id else None
            if header is None or marks.is_dying(header):
                raise NotFound(f"volume {volume}")
            key = credentials or _own_credentials(connection)
            return Opening(volume, connection.fsid(), header.image_id, header.size, tuple(users.monitors(connection)), key)

    def note(self, image: Opening, key: str, *, inherited: bool = False) -> str:
        """Read a note."""
        with self._pool(image) as (_, pool), explained(f"reading a note on {image.volume}"):
            field = f"metadata_{_NOTE}{key}"
            raw = wire.omap_values(pool, headers.header_object(image.image_id), field).get(field, b"")
        image_id, _, value = raw.decode(errors="replace").partition(" ")
        return value if inherited or image_id == image.image_id else ""

    def take_note(self, image: Opening, key: str, value: str) -> None:
        """Write a note; "" takes it away."""
        noted = f"{image.image_id} {value}" if value else ""
        with self._pool(image) as (_, pool), explained(f"noting {key} on {image.volume}"):
            if not headers.write_metadata(pool, image.image_id, {_NOTE + key: noted}):
                raise NotFound(f"volume {image.volume}")

    def is_blank(self, image: Opening, head: int, tail: int) -> bool:
        """Whether the first and the last so many bytes were never written: some questions to Ceph, in place of reading them.

        False also where that can't be told so cheaply: of clones, and of images that are striped in an uncommon way.
        """
        with self._pool(image) as (connection, pool), explained(f"looking whether {image.volume} is empty"):
            header = headers.read_header(pool, image.image_id)
            raw = wire.omap_values(pool, headers.header_object(image.image_id), "object_prefix").get("object_prefix", b"")
            if header is None or not raw or header.parent is not None or header.features & ~_PLAIN or header.stripe_count > 1:
                return False
            names_ = _objects_at(wire.text(raw), header.order, ((0, head), (image.size - tail, image.size)))
            if header.data_pool_id == headers.NO_DATA_POOL:
                return not any(_is_there(pool, name) for name in names_)
            with connection.pool_by_id(header.data_pool_id, image.volume.place.namespace) as data:
                return not any(_is_there(data, name) for name in names_)

    def check_room(self, image: Opening) -> None:
        """Raise OutOfSpace where no object can be made, in the image's pool or in that of its data."""
        with (
            self._pool(image) as (connection, pool),
            explained(f"making room for {image.volume}"),
            suppress(rados.PermissionError),
        ):
            _make_and_remove(pool)
            header = headers.read_header(pool, image.image_id)
            if header is not None and header.data_pool_id != headers.NO_DATA_POOL:
                with connection.pool_by_id(header.data_pool_id, image.volume.place.namespace) as data:
                    data.set_osdmap_full_try()
                    _make_and_remove(data)

    def used(self, image: Opening) -> int | None:
        """Bytes of the objects that there are, from the object map; None without one."""
        with (
            self._pool(image) as (_, pool),
            explained(f"measuring {image.volume}"),
            rbd.Image(pool, image_id=image.image_id, read_only=True) as opened,
        ):
            if not opened.features() & _CHEAP:
                return None
            total = 0

            def add(_offset: int, length: int, exists: bool) -> None:
                nonlocal total
                total += length if exists else 0

            opened.diff_iterate(0, opened.size(), None, add, whole_object=True)
            return total

    def key_record(self, image: Opening) -> KeyRecord | None:
        """Read where the image's keys are, its own or those of what it is a clone of."""
        with self._pool(image) as (_, pool), explained(f"reading the key record of {image.volume}"):
            field = f"metadata_{KEYS}"
            raw = wire.omap_values(pool, headers.header_object(image.image_id), field).get(field, b"")
        try:
            return msgspec.json.decode(raw, type=KeyRecord) if raw else None
        except msgspec.DecodeError as error:
            raise Unfit(f"volume {image.volume}", f"has metadata {KEYS} that can't be read: {error}") from error

    def replace_key_record(self, image: Opening, seen: KeyRecord | None, record: KeyRecord) -> bool:
        """Write it, if it still is what was seen."""
        expected = {KEYS: _encoded(seen) if seen else ""}
        with self._pool(image) as (_, pool), explained(f"writing the key record of {image.volume}"):
            return headers.change_metadata(pool, image.image_id, {KEYS: _encoded(record)}, expected=expected)

    def has_snapshots(self, image: Opening) -> bool:
        """Whether there are snapshots, of whatever kind."""
        with self._pool(image) as (_, pool), explained(f"looking for snapshots of {image.volume}"):
            return bool(wire.omap_page(pool, headers.header_object(image.image_id), "", "snapshot_", 1))

    def users(self, image: Opening) -> list[str]:
        """The addresses of clients that have the image open, and are not fenced."""
        with (
            self._pool(image) as (connection, pool),
            explained(f"looking who uses {image.volume}"),
            rbd.Image(pool, image_id=image.image_id, read_only=True) as opened,
        ):
            watching = [watcher["addr"] for watcher in opened.watchers_list()]
            fenced = connection.fenced() if watching else set()
            return [address for address in watching if address not in fenced]

    def is_gone(self, fsid: str, pool: str, namespace: str, image_id: str) -> bool:
        """Whether the image was there once and is no more, not in the trash either; False for what can't be told."""
        for cluster in self._clusters.names():
            with self._clusters.connection(cluster) as connection:
                if connection.fsid() != fsid:
                    continue
                try:
                    with connection.pool(Place(cluster, pool, namespace)) as opened, explained(f"looking for image {image_id}"):
                        return not wire.omap_page(opened, headers.header_object(image_id), "", "", 1)
                except InvalidRequest:  # no such pool, or one that was renamed
                    return False
        return False

    @contextmanager
    def _pool(self, image: Opening) -> Iterator[tuple[Connection, rados.Ioctx]]:
        place = image.volume.place
        own = image.credentials if image.credentials.user != self._clusters.config(place.cluster).user else None
        with self._clusters.connection(place.cluster, own) as connection, connection.pool(place) as pool:
            yield connection, pool


def _objects_at(prefix: str, order: int, spans: Iterable[tuple[int, int]]) -> list[str]:
    """The data objects of an image that hold the bytes of the spans."""
    numbers = {n for start, end in spans for n in range(max(start, 0) >> order, (max(end, 1) - 1 >> order) + 1)}
    return [f"{prefix}.{number:016x}" for number in sorted(numbers)]


def _make_and_remove(pool: rados.Ioctx) -> None:
    """A full pool refuses new objects at once, to those who ask it to, and has everybody else wait."""
    with suppress(rados.ObjectExists, rados.ObjectNotFound), rados.WriteOpCtx() as operation:  # another node's try
        operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        pool.operate_write_op(operation, _ROOM)
        pool.remove_object(_ROOM)


def _is_there(pool: rados.Ioctx, name: str) -> bool:
    try:
        pool.stat(name)
    except rados.ObjectNotFound:
        return False
    return True


def _encoded(record: KeyRecord) -> str:
    """The same text for the same record, of ASCII, as comparisons need."""
    return msgspec.json.encode(record, order="sorted").decode()


def _own_credentials(connection: Connection) -> Credentials:
    """The key of the cluster's own user, from the file that librados has it from: a kernel client needs it in words."""
    config = connection.config
    default = connection.setting("keyring").split(",")[0]
    key = key_of(config, config.user, default)
    if not key:
        raise Denied(f"attaching as client.{config.user}: {config.key_file or config.keyring or default} has no key for it")
    return Credentials(config.user, key)
