"""The door of the Ceph store: each step of the core, on the right connection and pool, with its errors in the core's words."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rados

from provisioner.ceph import capacity, headers, images, marks, names, salvage, trash, users, wire
from provisioner.ceph.cluster import Clusters, Connection
from provisioner.ceph.errors import CEPH_ERRORS, explained
from provisioner.ceph.registry import LAPSE, Registry
from provisioner.core.errors import Denied, InvalidRequest, NotFound, ProvisionerError
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import (
    Blueprint,
    Capacity,
    Credentials,
    Found,
    Grant,
    Page,
    Stranger,
    Volume,
    Wreck,
)

_PLACE = ("clusterID", "pool", "radosNamespace")
_Key = tuple[Place, Credentials | None]


class CephStore:
    """Implements `core.ports.VolumeStore`. Every place it touches is remembered for the heartbeat and the purge."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters
        self._registries: dict[_Key, tuple[Connection, Registry]] = {}
        self._lock = threading.Lock()
        self._sightings = salvage.Sightings()
        self._bystanders = trash.Bystanders()

    def find(self, volume: VolumeId, credentials: Credentials | None) -> Found:
        """Tell what the name holds."""
        with self._at(volume.place, credentials) as (_, pool):
            return images.find(pool, volume)

    def glance(self, volume: VolumeId, credentials: Credentials | None) -> Volume | None:
        """The volume, if the name leads to one that was made under it."""
        with self._at(volume.place, credentials) as (_, pool):
            return images.glance(pool, volume)

    def make(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Make and mark the image; None if the name was taken."""
        with self._enrolled(plan.id.place, credentials) as (connection, pool, _registry):
            return images.make(pool, plan, connection.instance)

    def adopt(self, stranger: Stranger, plan: Blueprint, credentials: Credentials | None) -> None:
        """Mark an image that a killed create left without its mark."""
        with self._enrolled(plan.id.place, credentials) as (connection, pool, _registry):
            images.adopt(pool, stranger, plan, _data_pool_id(connection, plan))

    def condemn(self, stranger: Stranger, credentials: Credentials | None) -> None:
        """Mark an image that a killed create left as one to delete."""
        with self._enrolled(stranger.id.place, credentials) as (_, pool, _registry):
            images.condemn(pool, stranger)

    def salvage(self, wreck: Wreck, credentials: Credentials | None) -> None:
        """Finish or undo what a killed operation left."""
        with self._enrolled(wreck.id.place, credentials) as (_, pool, registry):
            salvage.salvage(pool, registry, wreck, self._sightings)

    def resize(self, volume: Volume, size: int, credentials: Credentials | None) -> None:
        """Grow the image to `size` bytes."""
        with self._enrolled(volume.id.place, credentials) as (_, pool, _registry):
            images.resize(pool, volume, size)

    def discard(self, volume: Volume, credentials: Credentials | None) -> None:
        """Move the image to the trash."""
        with self._enrolled(volume.id.place, credentials) as (_, pool, registry):
            trash.discard(pool, registry, volume.id, volume.image_id)

    def mark_published(self, volume: Volume, credentials: Credentials | None) -> None:
        """Note on the image that it was handed out."""
        with self._at(volume.id.place, credentials) as (_, pool), explained(f"marking image {volume.id}"):
            if not headers.write_metadata(pool, volume.image_id, {marks.PUBLISHED: volume.image_id}):
                raise NotFound(f"volume {volume.id}")

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        """List our volumes in order of internal id."""
        with self._at(place, credentials) as (_, pool), explained(f"listing {place}"):
            limit = min(limit, wire.PAGE)
            entries = names.page(pool, after, limit)
            volumes = [found for each, name in entries.items() if (found := _listed(pool, VolumeId(place, name), each))]
        return Page(volumes, max(entries) if len(entries) == limit else "")

    def capacity(self, place: Place, data_pool: str, credentials: Credentials | None) -> Capacity:
        """Tell what the pool (or the data pool) can still give."""
        with self._clusters.connection(place.cluster, credentials) as connection:
            return capacity.capacity(connection, data_pool or place.pool, "dataPool" if data_pool else "pool")

    def alike(self, volume: Volume, credentials: Credentials | None) -> list[str]:
        """Ids of other images of which one begins the other."""
        with self._at(volume.id.place, credentials) as (_, pool), explained(f"comparing the id of {volume.id}"):
            return names.ids_alike(pool, volume.image_id)

    def grant(self, volume: Volume, credentials: Credentials | None) -> Grant:
        """Give the volume's own user."""
        with (
            self._at(volume.id.place, credentials) as (connection, pool),
            explained(f"minting a user for {volume.id}"),
        ):
            return Grant(users.monitors(connection), users.grant(connection, pool, volume))

    def revoke(self, volume: VolumeId, user: str, credentials: Credentials | None) -> None:
        """Take a volume's user away."""
        with self._clusters.connection(volume.place.cluster, credentials) as connection:
            users.revoke(connection, user)

    def withdraw(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take away the volume's own user."""
        with self._at(volume.id.place, credentials) as (connection, pool):
            users.revoke(connection, users.user_name(volume, pool.get_pool_id()))

    def monitors(self, cluster: str, credentials: Credentials | None) -> list[str]:
        """Where a kernel client finds the cluster."""
        with self._clusters.connection(cluster, credentials) as connection:
            return users.monitors(connection)

    def places(self) -> list[Place]:
        """Every place that was worked in since the start."""
        with self._lock:
            return sorted({place for place, _ in self._registries}, key=str)

    def attend(self, place: Place, credentials: Credentials | None) -> None:
        """Enrol in the place: from now on its trash is purged, and dead predecessors of this process are fenced."""
        with self._enrolled(place, credentials):
            pass

    def purge(self, pace: Callable[[], bool]) -> Iterator[tuple[Place, trash.Purge | ProvisionerError]]:
        """Walk through the trash of every place worked in; `pace` waits between two images, False ends the walk.

        A place that can't be reached yields the reason, and does not keep the others waiting. One that is gone, or whose key
        no longer opens it, is left alone until a request leads there again.
        """
        for key in self._keys():
            place, credentials = key
            try:
                with self._enrolled(place, credentials) as (_, pool, registry):
                    yield place, trash.purge(pool, registry, self._bystanders, pace)
            except ProvisionerError as error:
                if _is_lost(error):
                    with self._lock:
                        self._registries.pop(key, None)
                yield place, error

    def backlog(self, place: Place) -> int:
        """How many deleted images of ours still wait in the trash of the place."""
        credentials = next((key[1] for key in self._keys() if key[0] == place), None)
        with self._at(place, credentials) as (_, pool):
            return trash.backlog(pool)

    def heartbeat(self, stop: threading.Event) -> None:
        """Renew this process's enrolments until `stop`; a place that can't be reached is tried again next time.

        Each place has a thread of its own, so that a cluster that does not answer costs no other its heartbeat.
        """
        beats: dict[_Key, threading.Thread] = {}
        while not stop.wait(LAPSE / 3):
            beats = {key: beat for key, beat in beats.items() if beat.is_alive()}
            for key in self._keys():
                if key not in beats:
                    beats[key] = threading.Thread(target=self._quietly, args=(key, Registry.renew), daemon=True)
                    beats[key].start()

    def leave(self) -> None:
        """Take this process off every list: a clean end needs no fence."""
        for key in self._keys():
            self._quietly(key, Registry.leave)
        with self._lock:
            self._registries.clear()

    def _quietly(self, key: _Key, step: Callable[[Registry, rados.Ioctx], None]) -> None:
        with self._lock:
            enrolled = self._registries.get(key)
        if enrolled is None or not enrolled[0].acquire():
            return
        try:
            with enrolled[0].used() as connection, connection.pool(key[0]) as pool:
                step(enrolled[1], pool)
        except (ProvisionerError, *CEPH_ERRORS):
            return

    def _keys(self) -> list[_Key]:
        with self._lock:
            return list(self._registries)

    @contextmanager
    def _at(self, place: Place, credentials: Credentials | None) -> Iterator[tuple[Connection, rados.Ioctx]]:
        with (
            self._clusters.connection(place.cluster, credentials) as connection,
            connection.pool(place) as pool,
        ):
            yield connection, pool

    @contextmanager
    def _enrolled(self, place: Place, credentials: Credentials | None) -> Iterator[tuple[Connection, rados.Ioctx, Registry]]:
        with self._at(place, credentials) as (connection, pool):
            yield connection, pool, self._registry(connection, pool, (place, credentials))

    def _registry(self, connection: Connection, pool: rados.Ioctx, key: _Key) -> Registry:
        with self._lock:
            known = self._registries.get(key)
        if known and known[0] is connection:
            return known[1]
        images.check_namespace(pool, key[0])
        registry = Registry(connection)
        registry.enrol(pool)
        with self._lock:
            self._registries[key] = (connection, registry)
        return registry


def _data_pool_id(connection: Connection, plan: Blueprint) -> int:
    name = plan.layout.data_pool
    return connection.pool_id(name) if name not in ("", plan.id.place.pool) else headers.NO_DATA_POOL


def _listed(pool: rados.Ioctx, volume: VolumeId, image_id: str) -> Volume | None:
    header = marks.read_header(pool, image_id)
    if header is None or not marks.is_ours(header) or marks.is_dying(header):
        return None
    return marks.read_volume(volume, header)


def _is_lost(error: ProvisionerError) -> bool:
    """Tell whether a place is gone, or closed to the key."""
    return isinstance(error, Denied) or (isinstance(error, InvalidRequest) and error.field in _PLACE)
