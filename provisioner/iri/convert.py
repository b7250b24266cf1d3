"""IronCore's words for volumes into the core's values, and back."""

import hashlib
import uuid
from collections.abc import Mapping

from provisioner.core.errors import AlreadyExists, InvalidRequest, NotFound, OutOfRange
from provisioner.core.ids import Place, VolumeId, image_name
from provisioner.core.model import CreateRequest, Grant, SizeRange, Volume
from provisioner.iri import metadata
from provisioner.iri.classes import Limits, VolumeClass
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb

UID = "volumepoollet.ironcore.dev/volume-uid"
"""The label that is a volume's identity."""
_ASKED = "iri.storage"
"""Label: bytes that were asked for, where the image was rounded up from them."""
_SIZE = "volume.spec.resources.storage_bytes"


def create_request(asked: pb.Volume, chosen: VolumeClass, limits: Limits, place: Place) -> CreateRequest:
    """Read what is to be made. Raises InvalidRequest and OutOfRange with the field at fault."""
    if asked.metadata.id:
        raise InvalidRequest("volume.metadata.id", asked.metadata.id, "must be empty: the runtime gives it")
    if asked.spec.HasField("volume_data_source"):
        raise InvalidRequest("volume.spec.volume_data_source", "...", "volumes are made empty only")
    if asked.spec.HasField("encryption"):
        raise InvalidRequest("volume.spec.encryption", "...", "volumes are not encrypted yet")
    size = size_range(_SIZE, asked.spec.resources.storage_bytes)
    kept = metadata.kept_labels("volume.metadata", asked.metadata, chosen.name)
    if size.choose() != size.required:
        kept[_ASKED] = str(size.required)
    qos = limits.of(chosen.capabilities)
    return CreateRequest(_name(asked.metadata.labels), place, size, chosen.layout, kept, qos=qos)


def size_range(field: str, storage_bytes: int) -> SizeRange:
    """Read a size. Raises OutOfRange."""
    if storage_bytes <= 0:
        raise OutOfRange(field, storage_bytes, "must be at least 1 byte")
    size = SizeRange(storage_bytes)
    try:
        size.choose()
    except OutOfRange as error:
        raise OutOfRange(field, storage_bytes, error.why) from error
    return size


def volume_id(place: Place, text: str) -> VolumeId:
    """The volume that an id of ours means: within the one pool of this runtime, the image's name is enough."""
    if not text:
        raise InvalidRequest("volume_id", "", "must not be empty")
    if "/" in text:
        raise NotFound(f"volume {text!r}")
    return VolumeId.parse(f"{place}/{text}")


def volume_of_uid(place: Place, uid: str) -> VolumeId:
    """The volume that was or would be made for a Kubernetes Volume's uid. Raises InvalidRequest for what is none."""
    return VolumeId(place, image_name(place, uid))


def is_ours(volume: Volume) -> bool:
    """Tell whether the volume was made through this door."""
    return metadata.CLASS in volume.labels


def refuse_another(found: Volume, request: CreateRequest) -> None:
    """Raise AlreadyExists if the name holds a volume of another door, or of another class."""
    has, wants = found.labels.get(metadata.CLASS), request.labels[metadata.CLASS]
    if has is None:
        raise AlreadyExists(f"volume {found.id}", ["it was not made through the runtime interface"])
    if has != wants:
        raise AlreadyExists(f"volume {found.id}", [f"its class is {has!r}, asked for {wants!r}"])


def volume(found: Volume, grant: Grant | None, *, available: bool) -> pb.Volume:
    """Tell of a volume; without a grant nothing is said of the way to it."""
    told = pb.Volume(metadata=metadata.object_metadata(found.id.image, found.labels, found.created))
    told.spec.MergeFrom(pb.VolumeSpec(**{"class": found.labels.get(metadata.CLASS, "")}))  # type: ignore[arg-type]
    told.spec.resources.storage_bytes = _asked_size(found)
    told.status.resources.storage_bytes = found.size
    told.status.state = pb.VOLUME_AVAILABLE if available else pb.VOLUME_PENDING
    if grant is not None:
        told.status.access.CopyFrom(access(found, grant))
    return told


def access(found: Volume, grant: Grant) -> pb.VolumeAccess:
    """What a client needs to open the image. RADOS namespaces are told as librbd spells them."""
    place = found.id.place
    image = "/".join(part for part in (place.pool, place.namespace, found.id.image) if part)
    return pb.VolumeAccess(
        driver="ceph",
        handle=handle(found),
        attributes={"monitors": ",".join(grant.monitors), "image": image},
        secret_data={"userID": grant.credentials.user.encode(), "userKey": grant.credentials.key.encode()},
    )


def handle(found: Volume) -> str:
    """16 hex digits, as a world wide name has: the same for one image for ever, another for its successor under the name."""
    return hashlib.sha256(f"{found.id}\n{found.image_id}".encode()).hexdigest()[:16]


def _asked_size(found: Volume) -> int:
    """The size that was asked for, so that nobody takes the rounding for a difference."""
    asked = found.labels.get(_ASKED, "")
    rounded_from = int(asked) if asked.isascii() and asked.isdecimal() else 0
    return rounded_from if rounded_from and SizeRange(rounded_from).choose() == found.size else found.size


def _name(labels: Mapping[str, str]) -> str:
    """The identity of the request; without the poollet's label every request is a new one."""
    return labels.get(UID) or str(uuid.uuid4())
