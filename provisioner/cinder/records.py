"""What Cinder tells of a volume, and which one bears a name.

Cinder's names are not unique, so a name is metadata that its asker can't have given to two volumes by itself: a create that was
cut off and sent again may have made two. The attached one counts, else the oldest; the others are wrecks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.cinder.api import Api
from provisioner.cinder.cloud import POOL
from provisioner.core.errors import NotFound, OutOfRange
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Blueprint, Volume

GIB = 1 << 30
NAME, _REQUEST = "ceph-provisioner.name", "ceph-provisioner.request"
_OURS = "ceph-provisioner"
_ASKED, _LABEL = "ceph-provisioner.asked.", "ceph-provisioner.label."
_LONGEST = 255
"""Characters of a value of metadata."""

Record = Mapping[str, Any]

UNDER_WAY = ("creating", "downloading")
DYING = ("deleting", "error_deleting")


def metadata(plan: Blueprint) -> dict[str, str]:
    """What is written on a volume when it is made."""
    asked = {_ASKED + key: value for key, value in plan.asked.items()}
    labels = {_LABEL + key: value[:_LONGEST] for key, value in plan.labels.items()}
    return {_OURS: "volume", NAME: plan.id.image, _REQUEST: plan.name[:_LONGEST], **asked, **labels}


def named(api: Api, name: str) -> list[Record]:
    """All volumes under the name, the one that counts first."""
    found = _listed(api, f"looking for volume {name}", {NAME: name})
    return sorted(found, key=_rank)


def ours(api: Api, after: str, limit: int) -> list[Record]:
    """A page of all volumes that we made in this project, oldest first; `after` is the uuid of the last one known."""
    marker = {"marker": after} if after else {}
    return _listed(api, "listing volumes", {_OURS: "volume"}, sort="created_at:asc,id:asc", limit=limit, **marker)


def source(api: Api, plan: Blueprint) -> dict[str, str]:
    """What the plan's source is in Cinder's words. Raises NotFound, OutOfRange for a plan that is smaller."""
    if plan.source is None:
        return {}
    is_snapshot = isinstance(plan.source, SnapshotId)
    volume = plan.source.volume if isinstance(plan.source, SnapshotId) else plan.source
    found = [record for record in named(api, volume.image) if not is_wreck(record)]
    if not found:
        raise NotFound(f"volume {volume}")
    if not is_snapshot and plan.size < found[0]["size"] * GIB:
        raise OutOfRange("size", plan.size, f"{volume} has {found[0]['size'] * GIB} bytes")
    return _snapshot(api, plan.source, found[0]) if isinstance(plan.source, SnapshotId) else {"source_volid": found[0]["id"]}


def _snapshot(api: Api, wanted: SnapshotId, record: Record) -> dict[str, str]:
    """A snapshot by its name in Cinder, of the volume with the uuid that the id tells."""
    doing = f"looking for snapshot {wanted}"
    listed = api.get("/snapshots", doing, volume_id=record["id"], name=wanted.snapshot)["snapshots"]
    if not listed or record["id"] != wanted.image_id:
        raise NotFound(f"snapshot {wanted}")
    return {"snapshot_id": str(listed[0]["id"])}


def volume(cloud: str, record: Record) -> Volume:
    """The core's value for a record."""
    noted = record["metadata"]
    name = noted.get(NAME, record["id"])
    return Volume(
        id=VolumeId(Place(cloud, POOL), name),
        image_id=record["id"],
        name=noted.get(_REQUEST, name),
        size=int(record["size"]) * GIB,
        asked=_stripped(noted, _ASKED),
        labels=_stripped(noted, _LABEL),
        created=record["created_at"],
        published=bool(record["attachments"]),
    )


def is_wreck(record: Record) -> bool:
    """Tell whether the volume was never finished, or is half gone. One that was ever attached is no wreck of ours."""
    return record["status"] in DYING or (record["status"] == "error" and not record["attachments"])


def mountpoint(host: str) -> str:
    """What we tell Cinder as one. Nodes mount where they please, but it is how everybody sees whose an attachment is.

    An attachment's host is shown to administrators only.
    """
    return f"/{host}"


def attachment(record: Record, host: str) -> str:
    """The id of the attachment that we made, "" if there is none."""
    return next((str(each["attachment_id"]) for each in record["attachments"] if _is_ours(each, host)), "")


def others(record: Record, host: str) -> list[str]:
    """Who else has the volume attached."""
    foreign = [each for each in record["attachments"] if not _is_ours(each, host)]
    return [str(each.get("server_id") or each.get("host_name") or each["attachment_id"]) for each in foreign]


def _is_ours(attached: Mapping[str, Any], host: str) -> bool:
    return not attached.get("server_id") and attached.get("device") == mountpoint(host)


def _listed(api: Api, doing: str, wanted: Mapping[str, str], **query: Any) -> list[Record]:
    found: Sequence[Record] = api.get("/volumes/detail", doing, metadata=str(dict(wanted)), **query)["volumes"]
    return [record for record in found if wanted.items() <= record["metadata"].items()]


def _rank(record: Record) -> tuple[bool, bool, str, str]:
    return (not record["attachments"], is_wreck(record), record["created_at"], record["id"])


def _stripped(noted: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in noted.items() if key.startswith(prefix)}
