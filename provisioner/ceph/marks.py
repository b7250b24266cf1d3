"""Our marks on an image: what was asked for, bound to the image's internal id, so that a copy never passes for the original.

ceph-provisioner.request      canonical JSON: name, layout
ceph-provisioner.fingerprint  SHA-256 of that and the image's id; without a true one, the image isn't ours
ceph-provisioner.labels       JSON: who asked (owner, claim, class); told to people, used by sweeps
ceph-provisioner.created      when, RFC 3339
ceph-provisioner.published    the image's id, once the volume was handed out
ceph-provisioner.home         JSON: the image's id, and where the choice of its pool is reserved
ceph-provisioner.qos          JSON: how it is throttled; see `qos`
ceph-provisioner.attachments  JSON: which nodes use it, see `attachments`; absent while none does
ceph-provisioner.deleting     the image's id, once it was decided to delete it; to keep one that was taken back from the
                              trash by hand, remove this key
ceph-provisioner.tombstone    the image's id, once the volume was deleted though snapshots of it are kept: the image then
                              bears the name cp.dead.<id>
ceph-provisioner.turn         another value after each step that a delete decided before must not overlook
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import rados

from provisioner.ceph import headers, qos
from provisioner.ceph.headers import Header
from provisioner.core.ids import Place, VolumeId, image_name
from provisioner.core.model import Blueprint, Volume, now

PREFIX = "ceph-provisioner."
REQUEST = PREFIX + "request"
FINGERPRINT = PREFIX + "fingerprint"
LABELS = PREFIX + "labels"
CREATED = PREFIX + "created"
PUBLISHED = PREFIX + "published"
DELETING = PREFIX + "deleting"
TOMBSTONE = PREFIX + "tombstone"
TURN = PREFIX + "turn"
HOME = PREFIX + "home"
ATTACHMENTS = PREFIX + "attachments"
_ALL = (REQUEST, FINGERPRINT, LABELS, CREATED, PUBLISHED, DELETING, TOMBSTONE, TURN, HOME, ATTACHMENTS, *qos.KEYS)


@dataclass(frozen=True, slots=True)
class _Request:
    name: str
    layout: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Home:
    image_id: str
    pool: str
    namespace: str


class _AttachedNodes(msgspec.Struct, frozen=True):
    image_id: str
    nodes: dict[str, msgspec.Raw]


def read_header(pool: rados.Ioctx, image_id: str) -> Header | None:
    """The header of an image with all of our marks on it; None if there is no header."""
    return headers.read_header(pool, image_id, *_ALL)


def marks_for(plan: Blueprint, image_id: str) -> dict[str, str]:
    """The metadata that makes an image ours, and throttles it."""
    asked = _Request(plan.name, plan.asked)
    marks = {**_marks(asked, image_id, plan.labels), **qos.tags(plan.qos, plan.qos, plan.size, image_id)}
    if plan.home is not None:
        home = _Home(image_id, plan.home.pool, plan.home.namespace)
        marks[HOME] = msgspec.json.encode(home).decode()
    return marks


def marks_of_death(name: str, image_id: str) -> dict[str, str]:
    """The metadata that makes a killed create's image ours, and one to delete, in the same step."""
    return {**_marks(_Request(name, {}), image_id, {}), DELETING: image_id, **turn()}


def fingerprint(request: str, image_id: str) -> str:
    """Bind a request to one image: metadata that a clone inherited does not match its own id."""
    return hashlib.sha256(f"{image_id}\n{request}".encode()).hexdigest()


def is_ours(header: Header) -> bool:
    """Tell whether the image bears a true fingerprint of a request that can be read."""
    request = header.metadata.get(REQUEST, "")
    true = header.metadata.get(FINGERPRINT) == fingerprint(request, header.image_id)
    return true and _decoded(request) is not None


def is_dying(header: Header) -> bool:
    """Tell whether a delete of this very image was begun."""
    return header.metadata.get(DELETING) == header.image_id and is_ours(header)


def is_entombed(header: Header) -> bool:
    """Tell whether a delete of this very image began that keeps its snapshots."""
    return header.metadata.get(TOMBSTONE) == header.image_id and is_ours(header)


def is_leaving(header: Header) -> bool:
    """Tell whether the image is no volume any more, whatever name still leads to it."""
    return is_dying(header) or is_entombed(header)


def turn() -> dict[str, str]:
    """The metadata that makes a delete notice whatever is written together with it."""
    return {TURN: uuid.uuid4().hex}


def volume_for(place: Place, header: Header) -> VolumeId:
    """The volume that the image was made to be; call it for an image that is ours."""
    request = msgspec.json.decode(header.metadata[REQUEST], type=_Request)
    return VolumeId(place, image_name(place, request.name))


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
        throttle=qos.read(header.metadata, header.image_id),
        home=_home(volume, header),
        nodes=attached_nodes(header),
    )


def attached_nodes(header: Header) -> tuple[str, ...]:
    """The nodes that the image is attached to. A record that was garbled by hand names none; `attachments` refuses it."""
    raw = header.metadata.get(ATTACHMENTS)
    if raw is None:
        return ()
    try:
        record = msgspec.json.decode(raw, type=_AttachedNodes)
    except msgspec.DecodeError:
        return ()
    return tuple(sorted(record.nodes)) if record.image_id == header.image_id else ()


def _marks(asked: _Request, image_id: str, labels: Mapping[str, str]) -> dict[str, str]:
    request = msgspec.json.encode(asked, order="sorted").decode()
    return {
        REQUEST: request,
        FINGERPRINT: fingerprint(request, image_id),
        LABELS: msgspec.json.encode(dict(labels), order="sorted").decode(),
        CREATED: now(),
    }


def _decoded(request: str) -> _Request | None:
    try:
        return msgspec.json.decode(request, type=_Request)
    except msgspec.DecodeError:
        return None


def _home(volume: VolumeId, header: Header) -> Place | None:
    try:
        home = msgspec.json.decode(header.metadata.get(HOME, "{}"), type=_Home)
    except msgspec.DecodeError:  # there is none
        return None
    return Place(volume.place.cluster, home.pool, home.namespace) if home.image_id == header.image_id else None


def _labels(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        return msgspec.json.decode(metadata.get(LABELS, "{}"), type=dict[str, str])
    except msgspec.DecodeError:  # edited by hand: they only describe
        return {}
