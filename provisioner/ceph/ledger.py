"""Small lists that a cluster keeps for all of our processes: one object in the cluster's home place, an omap pair per entry.

The home place is the first of the cluster's configured ones, so that every process finds the same. It is worked in with the
config file's user, whatever credentials a request brought: those may end at another pool.
"""

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.core.errors import Conflict


class Ledger:
    """One such list, of every cluster."""

    def __init__(self, places: Places, obj: str) -> None:
        """`obj` names the object."""
        self._places, self._object = places, obj

    def get(self, cluster: str, key: str) -> bytes | None:
        """One entry; None if there is none."""
        with self._home(cluster) as pool:
            return wire.omap_values(pool, self._object, key).get(key)

    def entries(self, cluster: str) -> dict[str, bytes]:
        """All entries."""
        with self._home(cluster) as pool:
            return dict(wire.omap_all(pool, self._object))

    def put(self, cluster: str, key: str, value: bytes) -> None:
        """Write an entry, over what is there."""
        with self._home(cluster) as pool, rados.WriteOpCtx() as operation:
            pool.set_omap(operation, (key,), (value,))
            pool.operate_write_op(operation, self._object, flags=wire.FULL_FORCE)

    def drop(self, cluster: str, key: str) -> None:
        """Remove an entry; gone already is fine."""
        with self._home(cluster) as pool, rados.WriteOpCtx() as operation, contextlib.suppress(rados.ObjectNotFound):
            pool.remove_omap_keys(operation, (key,))
            pool.operate_write_op(operation, self._object, flags=wire.FULL_FORCE)

    @contextmanager
    def alone(self, cluster: str, key: str) -> Iterator[None]:
        """Keep everybody else from doing the same with an entry, for the block. Raises Conflict while another is at it.

        Holds for as long as three calls to Ceph may take.
        """
        seconds = 3 * self._places.clusters.config(cluster).timeout
        name, cookie = f"entry.{key}", uuid.uuid4().hex
        with self._home(cluster) as pool:
            if not wire.lock(pool, self._object, name, cookie, "at work", seconds):
                raise Conflict(f"{self._object}: {key}", "another process works on it")
            try:
                yield
            finally:
                wire.unlock(pool, self._object, name, cookie)

    @contextmanager
    def _home(self, cluster: str) -> Iterator[rados.Ioctx]:
        place = self._places.home(cluster)
        with self._places.at(place, None) as (_, pool), explained(f"keeping {self._object} in {place}"):
            yield pool
