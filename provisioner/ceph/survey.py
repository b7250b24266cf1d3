"""Where volumes can lie in a cluster whose configuration names no pools: those for RBD that we may read, and their namespaces."""

import threading
import time
from dataclasses import dataclass, field

import msgspec
import rbd

from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import explained
from provisioner.core.errors import Denied, InvalidRequest
from provisioner.core.ids import Place, check_place

_APPLICATION = "rbd"
_REPLICATED = 1
USUAL = "rbd"
_FRESH = 30.0
"""Seconds after which a pool that was made behind our back is noticed at the latest."""


class _Pool(msgspec.Struct):
    pool_name: str
    pool_id: int
    type: int
    application_metadata: dict[str, dict[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a survey found: the place for what belongs to the whole cluster, and every place, in order."""

    home: Place
    places: tuple[Place, ...]
    made: float = field(default_factory=time.monotonic)

    @property
    def is_fresh(self) -> bool:
        """Tell whether it was made a moment ago."""
        return time.monotonic() - self.made < _FRESH


class Surveys:
    """The last survey of each cluster; thread-safe. Two threads may make one at once: it changes nothing."""

    def __init__(self) -> None:
        self._last: dict[str, Surveyed] = {}
        self._lock = threading.Lock()

    def last(self, cluster: str) -> Surveyed | None:
        """The survey of the cluster, if it is fresh."""
        with self._lock:
            found = self._last.get(cluster)
        return found if found is not None and found.is_fresh else None

    def make(self, connection: Connection) -> Surveyed:
        """Ask the cluster: one monitor command, and one read for each pool. Raises Unavailable, and Denied if every pool is."""
        made = _survey(connection)
        with self._lock:
            self._last[connection.config.name] = made
        return made


def _survey(connection: Connection) -> Surveyed:
    """What the key may not read is left out, as is what no id can name."""
    cluster, found = connection.config.name, dict[Place, list[Place]]()
    for name in pools_in(connection.command("osd pool ls", detail="detail")):
        place = Place(cluster, name)
        try:
            found[place] = [place, *_namespaces(connection, check_place(place))]
        except (Denied, InvalidRequest):
            continue
    if not found:
        raise Denied(f"client.{connection.config.user} every pool for RBD of cluster {cluster!r}: name its `pools`")
    places = sorted((place for some in found.values() for place in some), key=lambda place: (place.pool, place.namespace))
    return Surveyed(next(iter(found)), tuple(places))


def pools_in(listing: bytes) -> list[str]:
    """The pools that can hold images, `rbd` first, then the older first. Erasure-coded ones hold data only."""
    pools = msgspec.json.decode(listing, type=list[_Pool])
    fit = [pool for pool in pools if _APPLICATION in pool.application_metadata and pool.type == _REPLICATED]
    return [pool.pool_name for pool in sorted(fit, key=lambda pool: (pool.pool_name != USUAL, pool.pool_id))]


def _namespaces(connection: Connection, place: Place) -> list[Place]:
    with connection.pool(place) as pool, explained(f"listing the namespaces of {place}"):
        names = rbd.RBD().namespace_list(pool)
    return [Place(place.cluster, place.pool, name) for name in names]
