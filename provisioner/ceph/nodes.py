"""What a node needs to know of an image before it attaches it, and the notes that it leaves on it.

A note is metadata `ceph-provisioner.node.<key>`: the image's internal id, a blank, and what is noted, so that a clone, which
inherits it, does not take its parent's for its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from provisioner.ceph import headers, marks, names, users, wire
from provisioner.ceph.cluster import Clusters, Connection
from provisioner.ceph.errors import explained
from provisioner.ceph.keys import key_of
from provisioner.core.errors import Denied, InvalidRequest, NotFound
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Opening

_NOTE = marks.PREFIX + "node."
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

    @contextmanager
    def _pool(self, image: Opening) -> Iterator[tuple[Connection, rados.Ioctx]]:
        place = image.volume.place
        own = image.credentials if image.credentials.user != self._clusters.config(place.cluster).user else None
        with self._clusters.connection(place.cluster, own) as connection, connection.pool(place) as pool:
            yield connection, pool


def _own_credentials(connection: Connection) -> Credentials:
    """The key of the cluster's own user, from the file that librados has it from: a kernel client needs it in words."""
    config = connection.config
    default = connection.setting("keyring").split(",")[0]
    key = key_of(config, config.user, default)
    if not key:
        raise Denied(f"attaching as client.{config.user}: {config.key_file or config.keyring or default} has no key for it")
    return Credentials(config.user, key)
