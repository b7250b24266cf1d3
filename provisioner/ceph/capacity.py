"""What a pool can still give: Ceph's own estimate of the space, capped by the pool's quotas."""

from typing import Any

import msgspec

from provisioner.ceph.cluster import Connection
from provisioner.core.errors import InvalidRequest, NotFound, Unavailable
from provisioner.core.model import LARGEST, Capacity


def capacity(connection: Connection, pool: str, field: str) -> Capacity:
    """Bytes that can still be stored in `pool`. Two monitor commands, no OSD.

    Raises InvalidRequest naming `field` if there is no such pool, Unavailable in the seconds before a new one is reported.
    """
    stats = _pool_stats(connection, pool, field)
    quota = _settings(connection, pool, field)
    available = int(stats["max_avail"])
    if limit := int(quota["quota_max_bytes"]):
        available = min(available, max(limit - int(stats["stored"]), 0))
    if (limit := int(quota["quota_max_objects"])) and int(stats["objects"]) >= limit:
        available = 0
    if "full" in quota["flags_names"].split(","):  # the statistics are seconds behind
        available = 0
    return Capacity(available, min(available, LARGEST), int(stats["stored"]))


def _settings(connection: Connection, pool: str, field: str) -> dict[str, Any]:
    """The pool's flags and quotas."""
    for entry in msgspec.json.decode(connection.command("osd pool ls", detail="detail")):
        if entry["pool_name"] == pool:
            settings: dict[str, Any] = entry
            return settings
    raise InvalidRequest(field, pool, "the cluster has no such pool")


def _pool_stats(connection: Connection, pool: str, field: str) -> dict[str, Any]:
    for entry in msgspec.json.decode(connection.command("df"))["pools"]:
        if entry["name"] == pool:
            stats: dict[str, Any] = entry["stats"]
            return stats
    try:
        connection.pool_id(pool)
    except NotFound:
        raise InvalidRequest(field, pool, "the cluster has no such pool") from None
    raise Unavailable(f"Ceph does not report the space in pool {pool} yet")
