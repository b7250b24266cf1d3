"""Keeping clients out of a volume for good, and knowing that they are.

Ceph fences a client by its full address, in the map that every OSD has. Three things make that certain:

- The fence has no practical expiry. Ceph keeps the expiry of the first of two fences for one address (16.2), and librbd and
  the kernel set one of an hour when they break a dead client's lock; such a one is replaced.
- It is listed when the monitors are asked again.
- Every placement group that holds data of the volume has answered an operation that names a map with the fence in it. The
  monitors' word is not enough: an OSD that is slow to get the map takes a fenced client's writes until it has it. One group's
  answer tells nothing of another's, even on the same OSD.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager

import rados
import rbd

from provisioner.ceph import headers, wire
from provisioner.ceph.cluster import Connection
from provisioner.ceph.placement import name_in_each
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.ids import Place

FOR_GOOD = 5 * 365 * 86400.0
"""Seconds: what counts as without expiry. Ceph counts seconds since 1970 in 32 bits, of which one may be a sign."""
_LONG = FOR_GOOD / 5
_EXCLUSIVE_LOCK = "rbd_lock"


Alone = Callable[[str], AbstractContextManager[None]]
"""Keeps all of our other processes from working on the fence of the address, for the block."""


def fence(connection: Connection, addresses: Collection[str], alone: Alone) -> None:
    """Fence the clients and ask the monitors whether they are. Raises Unavailable if that can't be had."""
    ends = connection.blocklist()
    for address in addresses:
        if address not in ends:
            connection.fence(address, FOR_GOOD)
        elif not _is_long(ends, address):
            with alone(address):
                _lengthen(connection, address)
    ends = connection.blocklist()
    if missing := [address for address in addresses if not _is_long(ends, address)]:
        raise Unavailable(f"the monitors do not list {', '.join(missing)} as fenced for good; asked again, they may")


def _lengthen(connection: Connection, address: str) -> None:
    """Lift a short fence and set one for good: what the client writes in between comes before it, as what it wrote until now.

    Alone, since another process that was slow to look would lift the long one, when somebody else has the volume already.
    """
    if not _is_long(connection.blocklist(), address):
        connection.unfence(address)
        connection.fence(address, FOR_GOOD)


def _is_long(ends: Mapping[str, float], address: str) -> bool:
    return ends.get(address, 0) - time.time() > _LONG


def barrier(connection: Connection, place: Place) -> None:
    """Return when every placement group of the place's pool works with today's map. Bounded by the connection's timeouts.

    A pool that is gone takes nothing from anybody.
    """
    try:
        groups = connection.groups(place.pool)
    except NotFound:
        return
    connection.catch_up()
    with connection.pool(place) as pool:
        # one after the other, 0.3 ms each: fences are rare
        for name in name_in_each(groups, place.namespace, "ceph-provisioner.barrier."):
            with contextlib.suppress(rados.ObjectNotFound):
                pool.stat(name)


def release_locks(pool: rados.Ioctx, image_id: str, addresses: Collection[str]) -> None:
    """Take the image's lock from clients that are fenced.

    Whoever opens the image next would do so, too, but fence them once more for an hour.
    """
    for instance, cookie in _lockers(pool, image_id, addresses):
        wire.break_lock(pool, headers.header_object(image_id), _EXCLUSIVE_LOCK, instance, cookie)


def _lockers(pool: rados.Ioctx, image_id: str, addresses: Collection[str]) -> Iterator[tuple[int, str]]:
    try:
        with rbd.Image(pool, image_id=image_id, read_only=True) as image:
            held = image.list_lockers()
    except rbd.ImageNotFound:
        return
    for client, cookie, address in held["lockers"] if isinstance(held, dict) else []:  # the binding gives [] for none
        if address in addresses:
            yield int(client.removeprefix("client.")), cookie
