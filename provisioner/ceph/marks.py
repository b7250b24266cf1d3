"""Our marks on an image: what was asked for, bound to the image's internal id, so that a copy never passes for the original.

ceph-provisioner.request      canonical JSON: name, layout
ceph-provisioner.fingerprint  SHA-256 of that and the image's id; without a true one, the image isn't ours
ceph-provisioner.labels       JSON: who asked (owner, claim, class); told to people, used by sweeps
ceph-provisioner.created      when, RFC 3339
ceph-provisioner.published    the image's id, once the volume was handed out
ceph-provisioner.deleting     the image's id, once it was decided to delete it
"""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from provisioner.ceph.headers import Header
from provisioner.core.ids import VolumeId
from provisioner.core.model import Blueprint, Volume

_PREFIX = "ceph-provisioner."
REQUEST = _PREFIX + "request"
FINGERPRINT = _PREFIX + "fingerprint"
LABELS = _PREFIX + "labels"
CREATED = _PREFIX + "created"
PUBLISHED = _PREFIX + "published"
DELETING = _PREFIX + "deleting"


@dataclass(frozen=True, slots=True)
class _Request:
    name: str
    layout: dict[str, str]


def marks_for(plan: Blueprint, image_id: str) -> dict[str, str]:
    """The metadata that makes an image ours."""
    request = msgspec.json.encode(_Request(plan.name, plan.layout.described()), order="sorted").decode()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        REQUEST: request,
        FINGERPRINT: fingerprint(request, image_id),
        LABELS: msgspec.json.encode(dict(plan.labels), order="sorted").decode(),
        CREATED: now,
    }


def fingerprint(request: str, image_id: str) -> str:
    """Bind a request to one image: metadata that a clone inherited does not match its own id."""
    return hashlib.sha256(f"{image_id}\n{request}".encode()).hexdigest()


def is_ours(header: Header) -> bool:
    """Tell whether the image bears a true fingerprint."""
    request = header.metadata.get(REQUEST)
    return request is not None and header.metadata.get(FINGERPRINT) == fingerprint(request, header.image_id)


def is_dying(header: Header) -> bool:
    """Tell whether a delete of this very image was begun."""
    return is_ours(header) and header.metadata.get(DELETING) == header.image_id


def read_volume(volume: VolumeId, header: Header) -> Volume:
    """The volume that the marks describe; call it for an image that is ours."""
    request = msgspec.json.decode(header.metadata[REQUEST], type=_Request)
    return Volume(
        id=volume,
        image_id=header.image_id,
        name=request.name,
        size=header.size,
        asked=request.layout,
        labels=_labels(header.metadata),
        created=header.metadata.get(CREATED, ""),
        published=header.metadata.get(PUBLISHED) == header.image_id,
    )


def _labels(metadata: Mapping[str, str]) -> dict[str, str]:
    return msgspec.json.decode(metadata.get(LABELS, "{}"), type=dict[str, str])
