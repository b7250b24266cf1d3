"""Which pool was chosen for a name, in classes that have several: sixteen objects in the class's home.

`ceph-provisioner.places.<hex digit>` maps a request's name to the pool and RADOS namespace. See `core.choices`.
"""

import json
import time

import msgspec

from provisioner.ceph import index, wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.core.ids import Place
from provisioner.core.model import Credentials

PREFIX = "ceph-provisioner.places."


class _Value(msgspec.Struct):
    name: str
    pool: str
    namespace: str


class CephReservations:
    """Implements `core.choices.Reservations`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def reserved(self, home: Place, name: str, credentials: Credentials | None) -> Place | None:
        """The place that is reserved for the name."""
        with self._places.at(home, credentials) as (_, pool), explained(f"looking for what is reserved for {name!r}"):
            key = index.key_of(name)
            return _place(home, wire.omap_values(pool, _shard(name), key).get(key, b""))

    def reserve(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> bool:
        """Reserve a place, also in a full pool: what is to be made may lie in another."""
        value = {"name": name, "pool": place.pool, "namespace": place.namespace, "since": int(time.time())}
        with self._places.enrolled(home, credentials) as room, explained(f"reserving {place} for {name!r}"):
            key, raw = index.key_of(name), json.dumps(value)  # ASCII, as comparisons need
            return wire.omap_replace(room.pool, _shard(name), key, raw, "", flags=wire.FULL_FORCE)

    def release(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> None:
        """Take a reservation away, if it is of that place."""
        with self._places.at(home, credentials) as (_, pool), explained(f"releasing {place} from {name!r}"):
            key = index.key_of(name)
            raw = wire.omap_values(pool, _shard(name), key).get(key, b"")
            if _place(home, raw) == place:
                wire.omap_drop(pool, _shard(name), key, raw.decode())


def _place(home: Place, raw: bytes) -> Place | None:
    """None for what is no entry of ours: it reserves nothing."""
    try:
        value = msgspec.json.decode(raw, type=_Value)
    except msgspec.DecodeError:
        return None
    return Place(home.cluster, value.pool, value.namespace)


def _shard(name: str) -> str:
    return PREFIX + index.digit_of(name)
