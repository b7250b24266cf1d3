"""The places that this process works in: a connection, a pool and our enrolment there, for each step of a store.

Whatever writes is enrolled first, so that other processes can tell ours from strangers and the dead from the living.
Every place enrolled in is remembered, for the heartbeat and for the work in the background.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rados

from provisioner.ceph import images, names
from provisioner.ceph.cluster import Clusters, Connection
from provisioner.ceph.errors import CEPH_ERRORS, explained
from provisioner.ceph.registry import LAPSE, Registry
from provisioner.ceph.survey import USUAL, Surveyed, Surveys
from provisioner.core.errors import Denied, InvalidRequest, ProvisionerError, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import Credentials

_PLACE = ("clusterID", "pool", "radosNamespace")
_DENIED = 30.0
"""Seconds for which a home that was closed to the cluster's own user is not tried again."""
Key = tuple[Place, Credentials | None]
"""A place, and the credentials it is worked in with."""


@dataclass(frozen=True, slots=True)
class Room:
    """A place as this process works in it: one connection, an I/O context of its own, our side of the list of processes."""

    connection: Connection
    pool: rados.Ioctx
    registry: Registry


class Places:
    """Opens places for operations. One for all stores of a process."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters
        self._registries: dict[Key, tuple[Connection, Registry]] = {}
        self._surveys = Surveys()
        self._closed_homes: dict[str, float] = {}
        self._lock = threading.Lock()

    def home(self, cluster: str) -> Place:
        """Where things are kept that belong to a whole cluster: the first of its configured places.

        Where none is configured: pool `rbd`, or else the oldest of those for RBD. The same for every key, so it is not for
        those of a request to find out; a cluster whose own user can't has pool `rbd`, or names its `pools`.
        """
        config = self.clusters.config(cluster)
        if configured := config.places():
            return configured[0]
        try:
            return self._survey(cluster).home
        except (Denied, Unavailable) as error:
            if isinstance(error, Unavailable) and not isinstance(error.__cause__, rados.ObjectNotFound):
                raise
            return Place(config.name, USUAL)

    def home_key(self, cluster: str, credentials: Credentials | None) -> Credentials | None:
        """What to work with in a cluster's home: its own user, whatever a request brings, since what lies there is everybody's.

        The request's credentials where the cluster has no user of its own that may.
        """
        if credentials is None or time.monotonic() - self._closed_homes.get(cluster, -_DENIED) < _DENIED:
            return credentials
        try:
            with self.enrolled(self.home(cluster), None):
                return None
        except Denied:
            self._closed_homes[cluster] = time.monotonic()
            return credentials

    def of(self, cluster: str) -> list[Place]:
        """Every place of a cluster where volumes are looked for: the configured ones, or else all that there are.

        Raises Unavailable, and Denied if none may be read. What was found is good for half a minute.
        """
        return self.clusters.config(cluster).places() or list(self._survey(cluster).places)

    def ask(self, cluster: str) -> None:
        """Have the cluster answer something small, monitors and OSDs both; one place that we may read is enough.

        Raises what the core raises if it does not answer.
        """
        refusal: ProvisionerError | None = None
        for place in self.of(cluster):
            try:
                with self.at(place, None) as (_, pool), explained(f"asking {place} for something small"):
                    names.read_id(pool, "cp.pulse")
            except (Denied, InvalidRequest) as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    @contextmanager
    def at(self, place: Place, credentials: Credentials | None) -> Iterator[tuple[Connection, rados.Ioctx]]:
        """Open a place for reading, or for what needs no enrolment. Raises InvalidRequest, Denied, Unavailable."""
        with (
            self.clusters.connection(place.cluster, credentials) as connection,
            connection.pool(place) as pool,
        ):
            yield connection, pool

    @contextmanager
    def enrolled(self, place: Place, credentials: Credentials | None) -> Iterator[Room]:
        """Open a place for work that others may have to judge. Raises like `at`."""
        with self.at(place, credentials) as (connection, pool):
            registry = self._registry(connection, pool, (place, credentials))
            with registry.watchful():
                yield Room(connection, pool, registry)

    def worked_in(self) -> list[Key]:
        """Every place enrolled in since the start, and with which credentials."""
        with self._lock:
            return list(self._registries)

    def forget_if_lost(self, key: Key, error: ProvisionerError) -> None:
        """Leave a place alone that is gone, or closed to the key, until a request leads there again."""
        if isinstance(error, Denied) or (isinstance(error, InvalidRequest) and error.field in _PLACE):
            with self._lock:
                self._registries.pop(key, None)

    def heartbeat(self, stop: threading.Event) -> None:
        """Renew this process's enrolments until `stop`; a place that can't be reached is tried again next time.

        Each place has a thread of its own, so that a cluster that does not answer costs no other its heartbeat.
        """
        beats: dict[Key, threading.Thread] = {}
        while not stop.wait(LAPSE / 3):
            beats = {key: beat for key, beat in beats.items() if beat.is_alive()}
            for key in self.worked_in():
                if key not in beats:
                    beats[key] = threading.Thread(target=self._quietly, args=(key, Registry.renew), daemon=True)
                    beats[key].start()

    def leave(self) -> None:
        """Take this process off every list: a clean end needs no fence."""
        for key in self.worked_in():
            self._quietly(key, Registry.leave)
        with self._lock:
            self._registries.clear()

    def _survey(self, cluster: str) -> Surveyed:
        name = self.clusters.config(cluster).name
        if (last := self._surveys.last(name)) is not None:
            return last
        with self.clusters.connection(name) as connection:
            return self._surveys.make(connection)

    def _quietly(self, key: Key, step: Callable[[Registry, rados.Ioctx], None]) -> None:
        with self._lock:
            enrolled = self._registries.get(key)
        if enrolled is None or not enrolled[0].acquire():
            return
        try:
            with enrolled[0].used() as connection, connection.pool(key[0]) as pool:
                step(enrolled[1], pool)
        except (ProvisionerError, *CEPH_ERRORS):
            return

    def _registry(self, connection: Connection, pool: rados.Ioctx, key: Key) -> Registry:
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
