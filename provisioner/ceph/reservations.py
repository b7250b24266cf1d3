"""Which pool was chosen for a name, in classes that have several: sixteen objects in the class's home.

`ceph-provisioner.places.<hex digit>` maps a request's name to the pool and RADOS namespace. See `core.choices`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.ceph.registry import task_for
from provisioner.ceph.shards import Shards
from provisioner.core.ids import Place
from provisioner.core.model import Credentials

SHARDS = Shards("ceph-provisioner.places.")

_PATIENCE = 20.0
"""Seconds to wait for whoever makes the same volume."""
_CALLS = 40
"""RADOS calls that the longest way to a volume makes in all pools of a class, each bounded by the connection's timeout."""


class _Value(msgspec.Struct):
    name: str
    pool: str
    namespace: str


class CephReservations:
    """Implements `core.choices.Reservations`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    @contextmanager
    def alone(self, home: Place, name: str, credentials: Credentials | None) -> Iterator[None]:
        """Choose for the name alone, by a RADOS lock that ends with this process."""
        with self._places.enrolled(home, credentials) as room, explained(f"choosing a pool for {name!r}"):
            seconds = _CALLS * room.registry.timeout
            with room.registry.alone(room.pool, task_for("choice", name), f"volume {name!r}", seconds, _PATIENCE):
                yield

    def reserved(self, home: Place, name: str, credentials: Credentials | None) -> Place | None:
        """The place that is reserved for the name."""
        with self._places.at(home, credentials) as (_, pool), explained(f"looking for what is reserved for {name!r}"):
            return _place(home, SHARDS.read(pool, name))

    def reserve(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> bool:
        """Reserve a place, also in a full pool: what is to be made may lie in another."""
        value = {"name": name, "pool": place.pool, "namespace": place.namespace, "since": int(time.time())}
        with self._places.enrolled(home, credentials) as room, explained(f"reserving {place} for {name!r}"):
            return SHARDS.replace(room.pool, name, json.dumps(value), "", wire.FULL_FORCE)

    def release(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> None:
        """Take a reservation away, if it is of that place."""
        with self._places.at(home, credentials) as (_, pool), explained(f"releasing {place} from {name!r}"):
            raw = SHARDS.read(pool, name)
            if _place(home, raw) == place:
                SHARDS.drop(pool, name, raw)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One entry, and what it is made of: to be removed as it was seen only."""

    name: str
    place: Place
    raw: str


def entries(pool: rados.Ioctx, home: Place) -> Iterator[Reservation]:
    """All reservations of a home, page by page."""
    for raw in SHARDS.entries(pool):
        place = _place(home, raw)
        if place is not None:
            yield Reservation(msgspec.json.decode(raw, type=_Value).name, place, raw)


def drop(pool: rados.Ioctx, entry: Reservation) -> bool:
    """Remove the entry, if it still is as it was seen; tell whether it was."""
    return SHARDS.drop(pool, entry.name, entry.raw)


def _place(home: Place, raw: str) -> Place | None:
    """None for what is no entry of ours: it reserves nothing."""
    try:
        value = msgspec.json.decode(raw, type=_Value)
    except msgspec.DecodeError:
        return None
    return Place(home.cluster, value.pool, value.namespace)
