"""Which pool was chosen for a name, in classes that have several: sixteen objects in the class's home.

`ceph-provisioner.places.<hex digit>` maps a request's name to the pool and RADOS namespace. See `core.choices`.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import rados

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


@dataclass(frozen=True, slots=True)
class Reservation:
    """One entry, and what it is made of: to be removed as it was seen only."""

    name: str
    place: Place
    raw: str


def entries(pool: rados.Ioctx, home: Place) -> Iterator[Reservation]:
    """All reservations of a home, page by page."""
    for digit in "0123456789abcdef":
        for _, raw in wire.omap_all(pool, PREFIX + digit):
            place = _place(home, raw)
            if place is not None:
                yield Reservation(msgspec.json.decode(raw, type=_Value).name, place, raw.decode())


def drop(pool: rados.Ioctx, entry: Reservation) -> bool:
    """Remove the entry, if it still is as it was seen; tell whether it was."""
    return wire.omap_drop(pool, _shard(entry.name), index.key_of(entry.name), entry.raw)


def _place(home: Place, raw: bytes) -> Place | None:
    """None for what is no entry of ours: it reserves nothing."""
    try:
        value = msgspec.json.decode(raw, type=_Value)
    except msgspec.DecodeError:
        return None
    return Place(home.cluster, value.pool, value.namespace)


def _shard(name: str) -> str:
    return PREFIX + index.digit_of(name)
