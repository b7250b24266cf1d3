"""What a pool can still give: Ceph's own estimate of the space, capped by the pool's quota."""

from typing import Any

import msgspec

from provisioner.ceph.cluster import Connection
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import LARGEST, Capacity


def capacity(connection: Connection, pool: str) -> Capacity:
    """Bytes that can still be stored in `pool`. Two monitor commands, no OSD."""
    stats = _pool_stats(msgspec.json.decode(connection.command("df")), pool)
    quota = msgspec.json.decode(connection.command("osd pool get-quota", pool=pool))
    available = int(stats["max_avail"])
    if limit := int(quota["quota_max_bytes"]):
        available = min(available, max(limit - int(stats["stored"]), 0))
    return Capacity(available, min(available, LARGEST))


def _pool_stats(report: dict[str, Any], pool: str) -> dict[str, Any]:
    for entry in report["pools"]:
        if entry["name"] == pool:
            stats: dict[str, Any] = entry["stats"]
            return stats
    raise InvalidRequest("pool", pool, "no such pool")
