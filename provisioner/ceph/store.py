"""The door of the Ceph store: each step of the core, on the right connection and pool, with its errors in the core's words."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeVar

import rados

from provisioner.ceph import (
    capacity,
    clones,
    flatten,
    headers,
    images,
    index,
    marks,
    names,
    qos,
    removal,
    salvage,
    trash,
    users,
    wire,
)
from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import explained
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.headers import Header
from provisioner.ceph.moulds import Moulds
from provisioner.ceph.orphans import Sweep, Sweeper
from provisioner.ceph.places import Key, Places, Room
from provisioner.ceph.reaper import Reap, Reaper, Scrapping
from provisioner.ceph.reservations import CephReservations
from provisioner.ceph.snapshots import CephSnapshots
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
from provisioner.core.qos import Qos

T = TypeVar("T")


class CephStore:
    """Implements `core.ports.VolumeStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._sightings = salvage.Sightings()
        self._moulds = Moulds()
        self._bystanders = trash.Bystanders()
        self._reaper = Reaper()
        self._sweeper = Sweeper()

    def find(self, volume: VolumeId, credentials: Credentials | None) -> Found:
        """Tell what the name holds."""
        with self._places.at(volume.place, credentials) as (_, pool):
            return images.find(pool, volume)

    def glance(self, volume: VolumeId, credentials: Credentials | None) -> Volume | None:
        """The volume, if the name leads to one that was made under it."""
        with self._places.at(volume.place, credentials) as (_, pool):
            return images.glance(pool, volume)

    def make(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Make and mark the image; None if the name was taken."""
        with self._places.enrolled(plan.id.place, credentials) as room:
            return images.make(room.pool, plan, room.connection.instance, self._moulds)

    def clone(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Build the volume from the plan's source; None if the name was taken."""
        if plan.source is None:
            raise InvalidRequest("source", "", "there is nothing to clone")
        with (
            self._places.enrolled(plan.id.place, credentials) as home,
            self._places.enrolled(clones.place_of(plan.source), credentials) as origin,
            explained(f"making image {plan.id} from {plan.source}"),
        ):
            return clones.make(plan, plan.source, home, origin)

    def adopt(self, stranger: Stranger, plan: Blueprint, credentials: Credentials | None) -> None:
        """Mark an image that a killed create left without its mark."""
        with self._places.enrolled(plan.id.place, credentials) as room:
            images.adopt(room.pool, stranger, plan, _data_pool_id(room.connection, plan))

    def condemn(self, stranger: Stranger, credentials: Credentials | None) -> None:
        """Mark an image that a killed create left as one to delete."""
        with self._places.enrolled(stranger.id.place, credentials) as room:
            images.condemn(room.pool, stranger)

    def salvage(self, wreck: Wreck, credentials: Credentials | None) -> None:
        """Finish or undo what a killed operation left."""
        with self._places.enrolled(wreck.id.place, credentials) as room:
            is_claimed = self._claimed(wreck.id.place, credentials)
            salvage.salvage(room.pool, room.registry, wreck, self._sightings, is_claimed)

    def resize(self, volume: Volume, size: int, credentials: Credentials | None) -> int:
        """Grow the image to `size` bytes; gives the bytes that it has."""
        with self._places.enrolled(volume.id.place, credentials) as room:
            return images.resize(room.pool, volume, size, room.registry.instance)

    def throttle(self, volume: Volume, wanted: Qos, made_with: Qos, credentials: Credentials | None) -> bool:
        """Set the image's limits, and tell whoever has it open."""
        with self._places.at(volume.id.place, credentials) as (_, pool), explained(f"throttling image {volume.id}"):
            return qos.change(pool, volume, wanted, made_with)

    def release(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take the reservation of the volume's place away."""
        if volume.home is not None:
            CephReservations(self._places).release(volume.home, volume.name, volume.id.place, credentials)

    def discard(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take the image off its name: to the trash, or under a tombstone's while snapshots of it are kept."""
        with self._places.enrolled(volume.id.place, credentials) as room:
            is_claimed = self._claimed(volume.id.place, credentials)
            removal.discard(room.pool, room.registry, volume.id, volume.image_id, is_claimed, removal.PATIENCE)

    def mark_published(self, volume: Volume, credentials: Credentials | None) -> None:
        """Note on the image that it was handed out."""
        with self._places.at(volume.id.place, credentials) as (_, pool), explained(f"marking image {volume.id}"):
            if not headers.write_metadata(pool, volume.image_id, {marks.PUBLISHED: volume.image_id}):
                raise NotFound(f"volume {volume.id}")

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        """List our volumes in order of internal id."""
        with self._places.at(place, credentials) as (_, pool), explained(f"listing {place}"):
            limit = min(limit, wire.PAGE)
            entries = names.page(pool, after, limit)
            volumes = [found for each, name in entries.items() if (found := _listed(pool, VolumeId(place, name), each))]
        return Page(volumes, max(entries) if len(entries) == limit else "")

    def capacity(self, place: Place, data_pool: str, credentials: Credentials | None) -> Capacity:
        """Tell what the pool (or the data pool) can still give."""
        with self._places.clusters.connection(place.cluster, credentials) as connection:
            return capacity.capacity(connection, data_pool or place.pool, "dataPool" if data_pool else "pool")

    def alike(self, volume: Volume, credentials: Credentials | None) -> list[str]:
        """Ids of other images of which one begins the other."""
        with self._places.at(volume.id.place, credentials) as (_, pool), explained(f"comparing the id of {volume.id}"):
            return names.ids_alike(pool, volume.image_id)

    def grant(self, volume: Volume, credentials: Credentials | None) -> Grant:
        """Give the volume's own user."""
        with (
            self._places.at(volume.id.place, credentials) as (connection, pool),
            explained(f"minting a user for {volume.id}"),
        ):
            return Grant(users.monitors(connection), users.grant(connection, pool, volume))

    def revoke(self, volume: VolumeId, user: str, credentials: Credentials | None) -> None:
        """Take a volume's user away."""
        with self._places.clusters.connection(volume.place.cluster, credentials) as connection:
            users.revoke(connection, user)

    def withdraw(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take away the volume's own user."""
        with self._places.at(volume.id.place, credentials) as (connection, pool):
            users.revoke(connection, users.user_name(volume, pool.get_pool_id()))

    def monitors(self, cluster: str, credentials: Credentials | None) -> list[str]:
        """Where a kernel client finds the cluster."""
        with self._places.clusters.connection(cluster, credentials) as connection:
            return users.monitors(connection)

    def attend(self, place: Place, credentials: Credentials | None) -> None:
        """Enrol in the place: from now on its trash is purged, and dead predecessors of this process are fenced."""
        with self._places.enrolled(place, credentials):
            pass

    def purge(self, pace: Callable[[], bool]) -> Iterator[tuple[Place, trash.Purge | ProvisionerError]]:
        """Walk through the trash of every place worked in; `pace` waits between two images, False ends the walk.

        A place that can't be reached yields the reason, and does not keep the others waiting. One that is gone, or whose key
        no longer opens it, is left alone until a request leads there again.
        """

        def walk(room: Room, key: Key) -> trash.Purge:
            chores = trash.Chores(partial(_withdraw, room, key[0]), self._claimed(*key))
            return trash.purge(room.pool, room.registry, self._bystanders, pace, chores)

        return self._everywhere(walk)

    def reap(self, pace: Callable[[], bool]) -> Iterator[tuple[Place, Reap | ProvisionerError]]:
        """Tidy up every place worked in, as `purge` walks."""

        def walk(room: Room, key: Key) -> Reap:
            place, credentials = key
            group = partial(CephGroups(self._places).scrap, credentials=credentials)
            snapshot = partial(CephSnapshots(self._places).scrap, credentials=credentials)
            scrapping = Scrapping(group, snapshot) if place == self._places.home(place.cluster) else None
            return self._reaper.walk(room, place, self._claimed(*key), pace, scrapping)

        return self._everywhere(walk)

    def sweep(self, pace: Callable[[], bool]) -> Iterator[tuple[Place, Sweep | ProvisionerError]]:
        """Look for orphaned headers and object maps in every place worked in, as `purge` walks."""
        return self._everywhere(lambda room, key: self._sweeper.walk(room, key[0], pace))

    def flatten(self, go_on: Callable[[], bool], tell: flatten.Tell) -> Iterator[tuple[Place, flatten.Walk | ProvisionerError]]:
        """Flatten what is on the list of every place worked in, while `go_on`; `tell` hears how far it is."""
        return self._everywhere(lambda room, _: flatten.work_off(room, go_on, tell))

    def _everywhere(self, walk: Callable[[Room, Key], T]) -> Iterator[tuple[Place, T | ProvisionerError]]:
        for key in self._places.worked_in():
            try:
                with self._places.enrolled(*key) as room:
                    yield key[0], walk(room, key)
            except ProvisionerError as error:
                self._places.forget_if_lost(key, error)
                yield key[0], error

    def backlog(self, place: Place) -> int:
        """How many deleted images of ours still wait in the trash of the place."""
        credentials = next((key[1] for key in self._places.worked_in() if key[0] == place), None)
        with self._places.at(place, credentials) as (_, pool):
            return trash.backlog(pool)

    def _claimed(self, place: Place, credentials: Credentials | None) -> removal.Claimed:
        """Looks in the cluster's index whether a snapshot of an image was asked for."""

        def is_claimed(image_id: str, name: str) -> bool:
            key = self._places.home_key(place.cluster, credentials)
            with self._places.at(self._places.home(place.cluster), key) as (_, pool):
                entry = index.read(pool, name)
            return entry is not None and entry.is_of(place, image_id)

        return is_claimed


def _withdraw(room: Room, place: Place, header: Header) -> None:
    """Take away the user of an image that leaves for good, by the name that it was made under."""
    made = marks.read_volume(marks.volume_for(place, header), header)
    with suppress(Denied):  # where users are not ours to make, there is none of ours
        users.revoke(room.connection, users.user_name(made, room.pool.get_pool_id()))


def _data_pool_id(connection: Connection, plan: Blueprint) -> int:
    name = plan.layout.data_pool
    return connection.pool_id(name) if name not in ("", plan.id.place.pool) else headers.NO_DATA_POOL


def _listed(pool: rados.Ioctx, volume: VolumeId, image_id: str) -> Volume | None:
    header = marks.read_header(pool, image_id)
    if header is None or not marks.is_ours(header) or marks.is_leaving(header):
        return None
    if names.is_reserved(volume.image):  # a build that was killed on its way to its name, or is there in a moment
        volume = marks.volume_for(volume.place, header)
        if names.read_id(pool, volume.image) != image_id:
            return None
    return marks.read_volume(volume, header)
