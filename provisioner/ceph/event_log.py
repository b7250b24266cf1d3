"""What happened, in an object of a pool: a record per key, in order of time, so that it outlives whoever wrote it.

Bounded by age: records older than an hour are swept off now and then by whoever writes.
"""

import itertools
import secrets
import time
from collections.abc import Iterator

import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.core.ids import Place

_KEPT = 3600
"""Seconds that a record is kept."""
_SWEEP_EVERY = 256
_NANOSECONDS = 1_000_000_000
_BEFORE_ALL = "0"


class EventLog:
    """One log in one place; thread-safe. Implements what the IronCore front end asks of one."""

    def __init__(self, places: Places, place: Place, name: str) -> None:
        """`name` is the object's."""
        self._places, self._place, self._object = places, place, name
        self._written = itertools.count()

    def append(self, record: bytes) -> None:
        """Keep one more. Raises errors of the core."""
        now = time.time_ns()
        with (
            self._places.at(self._place, None) as (_, pool),
            explained("writing an event"),
            rados.WriteOpCtx() as operation,
        ):
            pool.set_omap(operation, (f"{_key(now)}.{secrets.token_hex(4)}",), (record,))
            if next(self._written) % _SWEEP_EVERY == 0:
                pool.remove_omap_range2(operation, _BEFORE_ALL, _key(now - _KEPT * _NANOSECONDS))
            pool.operate_write_op(operation, self._object)

    def read(self, since: int, until: int) -> Iterator[bytes]:
        """Records of the seconds from `since` to `until` (since 1970, both inclusive, 0 leaves the side open), oldest first."""
        oldest = max(since, int(time.time()) - _KEPT)
        after, end = _key(oldest * _NANOSECONDS), _key((until + 1) * _NANOSECONDS) if until else ""
        with self._places.at(self._place, None) as (_, pool), explained("reading events"):
            while page := wire.omap_page(pool, self._object, after, ""):
                for key, record in page.items():
                    if end and key >= end:
                        return
                    yield record
                after = max(page)


def _key(nanoseconds: int) -> str:
    return f"{nanoseconds:020d}"
