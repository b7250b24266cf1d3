"""What is wrong with an image or a pool, as far as monitors and the image's own objects tell; no image is opened.

What Ceph reports of a pool holds for some of its objects, perhaps of none of the volume's. So only an image's own pieces make a
DATA_LOSS: a pool's damage is told as DEGRADED, with Ceph's own words.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import rados

from provisioner.ceph import headers, marks, names, wire
from provisioner.ceph.errors import explained
from provisioner.ceph.headers import Header
from provisioner.ceph.places import Places
from provisioner.core.errors import NotFound
from provisioner.core.health import Ill, PoolIlls, Status
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Volume

_BY_CHECK: dict[str, tuple[Status, str]] = {
    "POOL_FULL": ("DEGRADED", "PoolFull"),
    "PG_AVAILABILITY": ("INACCESSIBLE", "PlacementGroupsInactive"),
    "PG_DEGRADED": ("DEGRADED", "RedundancyReduced"),
    "PG_DAMAGED": ("DEGRADED", "PlacementGroupsDamaged"),
    "OBJECT_UNFOUND": ("DEGRADED", "ObjectsUnfound"),
}
"""Ceph's health checks that concern a pool's volumes."""
_NAMED = re.compile(r"pool '([^']+)'")
_NUMBERED = re.compile(r"\bpg (\d+)\.[0-9a-f]+")
_MOST = 3
"""Of Ceph's messages of one kind for one pool, so many are told."""
_NEEDED = ("size", "order", "features", "object_prefix")
_MAP_INVALID = 1
"""The image's flag for an object map that can't be relied on."""


class CephHealth:
    """Implements `core.health.HealthStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def examine(self, volume: VolumeId, credentials: Credentials | None) -> tuple[Volume | None, list[Ill]]:
        """Look at the image's name, header and flags: four reads."""
        with self._places.at(volume.place, credentials) as (connection, pool), explained(f"examining {volume}"):
            held, listed = names.read_id(pool, volume.image), names.listed_id(pool, volume.image)
            header = _header(pool, volume, held, listed)
            if header is None:
                return None, [Ill("DATA_LOSS", "HeaderMissing", f"image {volume} has a name, but no header is left")]
            ills = [*_of_name(volume, held, listed), *_of_header(pool, volume, header)]
            found = marks.read_volume(volume, header)
            if found.data_pool:
                ills += _of_data_pool(connection.pool_id, found)
            return found, ills

    def pools(self, cluster: str, credentials: Credentials | None) -> PoolIlls:
        """Ceph's own health report, by pool: two monitor commands if there is anything to tell, else one."""
        with self._places.clusters.connection(cluster, credentials) as connection:
            checks = json.loads(connection.command("health", detail="detail"))["checks"]
            known = {name: checks[name] for name in _BY_CHECK if name in checks}
            pools = json.loads(connection.command("osd pool ls", detail="detail")) if known else []
        names_by_id = {str(pool["pool_id"]): str(pool["pool_name"]) for pool in pools}
        return read_checks(known, names_by_id)


def read_checks(checks: Mapping[str, Any], pools: Mapping[str, str]) -> dict[str, list[Ill]]:
    """Sort the messages of Ceph's health checks by the pool that they speak of; `pools` has names by id."""
    told: dict[str, list[Ill]] = {}
    for check, (status, reason) in _BY_CHECK.items():
        messages: dict[str, list[str]] = {}
        for message in (detail["message"] for detail in checks.get(check, {}).get("detail", ())):
            if pool := _pool_in(message, pools):
                messages.setdefault(pool, []).append(message)
        for pool, words in messages.items():
            more = f" and {len(words) - _MOST} more" if len(words) > _MOST else ""
            told.setdefault(pool, []).append(Ill(status, reason, f"pool {pool}: {', '.join(words[:_MOST])}{more}"))
    return told


def _pool_in(message: str, pools: Mapping[str, str]) -> str:
    if named := _NAMED.search(message):
        return named[1]
    numbered = _NUMBERED.search(message)
    return pools.get(numbered[1], "") if numbered else ""


def _header(pool: rados.Ioctx, volume: VolumeId, held: str | None, listed: str | None) -> Header | None:
    """The volume's header; None if it is lost. Raises NotFound where there is no volume of ours, or it is being deleted."""
    image_id = held or listed
    if image_id is None:
        raise NotFound(f"volume {volume}")
    header = marks.read_header(pool, image_id)
    if header is not None and (marks.is_leaving(header) or not marks.is_ours(header)):
        raise NotFound(f"volume {volume}")
    return header


def _of_name(volume: VolumeId, held: str | None, listed: str | None) -> list[Ill]:
    if held is None:
        return [Ill("INACCESSIBLE", "NameMissing", f"rbd_id.{volume.image} is missing: no client finds the image")]
    if held != listed:
        return [Ill("DEGRADED", "NotListed", f"rbd_directory does not list {volume.image} with the id {held}")]
    return []


def _of_header(pool: rados.Ioctx, volume: VolumeId, header: Header) -> list[Ill]:
    values = wire.omap_values(pool, headers.header_object(header.image_id), *_NEEDED, "flags")
    if missing := [key for key in _NEEDED if not values.get(key)]:
        told = f"the header of {volume} lacks {', '.join(missing)}: no client can open it"
        return [Ill("INACCESSIBLE", "HeaderDamaged", told)]
    if wire.number(values.get("flags", b"")) & _MAP_INVALID:
        told = f"the object map of {volume} is not relied on until `rbd object-map rebuild` made it anew"
        return [Ill("DEGRADED", "ObjectMapInvalid", told)]
    return []


def _of_data_pool(find: Callable[[str], int], volume: Volume) -> list[Ill]:
    try:
        find(volume.data_pool)
    except NotFound:
        return [Ill("DATA_LOSS", "DataPoolGone", f"pool {volume.data_pool}, which has the data of {volume.id}, is gone")]
    return []
