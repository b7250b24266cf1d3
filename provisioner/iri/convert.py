"""IronCore's words for volumes into the core's values, and back."""

import datetime
import hashlib
import uuid
from collections.abc import Mapping

from provisioner.core.content import LUKS_HEADER
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
_IMAGE, _ARCHITECTURE, _SNAPSHOT, ENCRYPTED = "iri.image", "iri.architecture", "iri.snapshot", "iri.encrypted"
_IDENTITY = (metadata.CLASS, _IMAGE, _ARCHITECTURE, _SNAPSHOT, ENCRYPTED)
"""Labels that two requests for one volume have to agree in."""
KEY = "encryptionKey"
_SECRET = f"volume.spec.encryption.secret_data[{KEY}]"
_SHORTEST_KEY, _LONGEST_KEY = 8, 512
"""Bytes of a passphrase: what is shorter is none, what is longer LUKS does not take."""


def create_request(asked: pb.Volume, chosen: VolumeClass, limits: Limits, place: Place) -> CreateRequest:
    """Read what is to be made. Raises InvalidRequest and OutOfRange with the field at fault."""
    if asked.metadata.id:
        raise InvalidRequest("volume.metadata.id", asked.metadata.id, "must be empty: the runtime gives it")
    size = size_range(_SIZE, asked.spec.resources.storage_bytes)
    kept = metadata.kept_labels("volume.metadata", asked.metadata, chosen.name)
    kept |= _source_labels(asked.spec)
    if size.choose() != size.required:
        kept[_ASKED] = str(size.required)
    qos = limits.of(chosen.capabilities)
    return CreateRequest(_name(asked.metadata.labels), place, size, chosen.layout, kept, qos=qos)


def inherited(asked: pb.Volume, snapshot: Mapping[str, str]) -> dict[str, str]:
    """What a volume has from the labels of its snapshot: it is encrypted if that is, with the same key.

    The poollet sends that key again, to no purpose. Raises InvalidRequest where there is nothing to inherit.
    """
    kept = {key: value for key, value in snapshot.items() if key == ENCRYPTED}
    if asked.spec.HasField("encryption") and not kept:
        raise InvalidRequest("volume.spec.encryption", KEY, "the snapshot is not encrypted, nor can what is restored from it be")
    return kept


def refuse_smaller(size: SizeRange, least: int, source: str) -> None:
    """Raise OutOfRange for a volume that its content does not fit into."""
    if size.choose() < least:
        raise OutOfRange(_SIZE, size.required, f"{source} has {least} bytes")


def passphrase(asked: pb.Volume) -> bytes | None:
    """The key of a volume that is to be encrypted. Raises InvalidRequest, never with the key in it, and OutOfRange."""
    if not asked.spec.HasField("encryption"):
        return None
    if asked.spec.resources.storage_bytes <= LUKS_HEADER:
        why = f"an encrypted volume needs more than {LUKS_HEADER} bytes, which its header takes"
        raise OutOfRange(_SIZE, asked.spec.resources.storage_bytes, why)
    key = asked.spec.encryption.secret_data.get(KEY, b"")
    if not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        raise InvalidRequest(_SECRET, f"{len(key)} bytes", f"must have {_SHORTEST_KEY} to {_LONGEST_KEY} bytes")
    return key


def _source_labels(spec: pb.VolumeSpec) -> dict[str, str]:
    source, encrypted = spec.volume_data_source, spec.HasField("encryption")
    image, snapshot = source.image_data_source.image, source.snapshot_data_source.snapshot_id
    if source.HasField("image_data_source") and source.HasField("snapshot_data_source"):
        raise InvalidRequest("volume.spec.volume_data_source", f"{image}, {snapshot}", "has two sources: one is enough")
    for kind, given in (("image_data_source", image), ("snapshot_data_source", snapshot)):
        if source.HasField(kind) and not given:  # type: ignore[arg-type]
            raise InvalidRequest(f"volume.spec.volume_data_source.{kind}", "", "must name one")
    if encrypted and image:
        raise InvalidRequest("volume.spec.encryption", KEY, "a clone of an OS image can't be encrypted")
    told = {_IMAGE: image, _ARCHITECTURE: source.image_data_source.architecture, _SNAPSHOT: snapshot}
    return {key: value for key, value in told.items() if value} | ({ENCRYPTED: "luks2"} if encrypted else {})


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
    """Raise AlreadyExists if the name holds a volume of another door, or one that was asked for in other words."""
    if not is_ours(found):
        raise AlreadyExists(f"volume {found.id}", ["it was not made through the runtime interface"])
    has, wants = found.labels, request.labels
    differs = [
        f"{key.removeprefix('iri.')} is {has.get(key, '')!r}, asked for {wants.get(key, '')!r}"
        for key in _IDENTITY
        if has.get(key) != wants.get(key)
    ]
    if differs:
        raise AlreadyExists(f"volume {found.id}", differs)


def volume(found: Volume, grant: Grant | None, *, available: bool) -> pb.Volume:
    """Tell of a volume; without a grant nothing is said of the way to it."""
    about = metadata.object_metadata(found.id.image, found.labels, found.created)
    told = pb.Volume(metadata=about, spec=_spec(found.labels))
    told.spec.resources.storage_bytes = _asked_size(found)
    told.status.resources.storage_bytes = found.size
    told.status.state = pb.VOLUME_AVAILABLE if available else pb.VOLUME_PENDING
    if grant is not None:
        told.status.access.CopyFrom(access(found, grant))
    return told


def waiting(request: CreateRequest, volume: VolumeId) -> pb.Volume:
    """Tell of a volume that there isn't yet."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = pb.Volume(metadata=metadata.object_metadata(volume.image, request.labels, created), spec=_spec(request.labels))
    told.spec.resources.storage_bytes = request.size.required
    told.status.state = pb.VOLUME_PENDING
    return told


def _spec(kept: Mapping[str, str]) -> pb.VolumeSpec:
    spec = pb.VolumeSpec(**{"class": kept.get(metadata.CLASS, "")})  # type: ignore[arg-type]
    source = spec.volume_data_source
    if image := kept.get(_IMAGE):
        source.image_data_source.image = image
        source.image_data_source.architecture = kept.get(_ARCHITECTURE, "")
    if snapshot := kept.get(_SNAPSHOT):
        source.snapshot_data_source.snapshot_id = snapshot
    return spec


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
