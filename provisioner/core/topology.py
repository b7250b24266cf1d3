"""Which pools can be reached from where: `topologyConstrainedPools` of a class, as ceph-csi has it.

    [{"poolName": "east", "dataPool": "east-ec", "domainSegments": [{"domainLabel": "zone", "value": "east"}]}, ...]

A domain label is the last part of a node's topology key, as in ceph-csi, or a whole key (`topology.kubernetes.io/zone`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from provisioner.core.errors import InvalidRequest

PARAMETER = "topologyConstrainedPools"
Segments = Mapping[str, str]
"""Values by domain label, or by topology key."""


@dataclass(frozen=True, slots=True)
class ConstrainedPool:
    """One pool of a class, and where it can be reached from; `segments` are pairs of domain label and value."""

    pool: str
    data_pool: str
    segments: tuple[tuple[str, str], ...]


class _Segment(msgspec.Struct, forbid_unknown_fields=True):
    label: str = msgspec.field(name="domainLabel")
    value: str


class _Pool(msgspec.Struct, forbid_unknown_fields=True):
    pool: str = msgspec.field(name="poolName")
    segments: list[_Segment] = msgspec.field(name="domainSegments")
    data_pool: str = msgspec.field(name="dataPool", default="")


def read_pools(text: str) -> tuple[ConstrainedPool, ...]:
    """Read the parameter. Raises InvalidRequest with what is wrong in it."""
    if not text.strip():
        return ()
    try:
        pools = msgspec.json.decode(text, type=list[_Pool])
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"parameters.{PARAMETER}", text, str(error)) from error
    names = [pool.pool for pool in pools]
    for pool in pools:
        if not pool.pool or names.count(pool.pool) > 1:
            raise InvalidRequest(f"parameters.{PARAMETER}", text, f"poolName {pool.pool!r} must be there, and once")
        if any(not segment.label or not segment.value for segment in pool.segments):
            raise InvalidRequest(f"parameters.{PARAMETER}", text, f"pool {pool.pool!r} has an empty domainLabel or value")
    return tuple(_checked(text, pool) for pool in pools)


def keys_of(segments: Segments, topology: Segments) -> dict[str, str] | None:
    """The part of a topology, by its own keys, that the segments speak of; None if they differ from it."""
    found = dict[str, str]()
    for label, value in segments.items():
        key = next((key for key in topology if label in (key, key.rpartition("/")[2])), None)
        if key is None or topology[key] != value:
            return None
        found[key] = value
    return found


def _checked(text: str, pool: _Pool) -> ConstrainedPool:
    segments = tuple((segment.label, segment.value) for segment in pool.segments)
    if len(dict(segments)) < len(segments):
        raise InvalidRequest(f"parameters.{PARAMETER}", text, f"pool {pool.pool!r} has a domainLabel twice")
    return ConstrainedPool(pool.pool, pool.data_pool, segments)
