"""CSI's words into the core's values, and back."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from csi import capabilities
from csi.pb import csi_pb2
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.ids import GroupId, Place, SnapshotId, VolumeId, check_place
from provisioner.core.model import MIB, CreateRequest, Credentials, SizeRange, Source, Volume
from provisioner.core.parameters import ClassParameters, read_parameters, read_qos
from provisioner.core.qos import Qos

T = TypeVar("T")

DEFAULT_FS_TYPE = "ext4"
DEFAULT_SIZE = 1 << 30
"""Bytes of a volume whose asker names no size."""

METADATA = "csi.storage.k8s.io/"
"""Opens the names of parameters that the sidecars add of their own."""
_LABELS = {f"{METADATA}pvc/name": "claim", f"{METADATA}pvc/namespace": "namespace", f"{METADATA}pv/name": "volume"}
"""What external-provisioner's --extra-create-metadata puts among the parameters."""

_BY_SECRET = ("monitors", "adminId", "adminSecretName", "adminSecretNamespace", "userId", "userSecretName", "userSecretNamespace")
_BY_SECRET_LOWER = frozenset(name.lower() for name in _BY_SECRET)


@dataclass(frozen=True, slots=True)
class Class:
    """A class's parameters, resolved: where its volumes lie, and who asked, as far as that was told."""

    parameters: ClassParameters
    place: Place
    labels: Mapping[str, str]

    @property
    def on_nodes(self) -> dict[str, str]:
        """What a node has to know: not every caller passes the file system on by itself, as Kubernetes does."""
        kind = self.parameters.fs_type
        return {**self.parameters.on_nodes, **({"fsType": kind} if kind != DEFAULT_FS_TYPE else {})}


def read_class(given: Mapping[str, str], clusters: Collection[str]) -> Class:
    """Check a class's parameters. Raises InvalidRequest naming the parameter."""
    labels = {label: given[key] for key, label in _LABELS.items() if key in given}
    said = {key: value for key, value in given.items() if key not in _LABELS}
    for name, value in said.items():
        if name.lower() in _BY_SECRET_LOWER:
            raise InvalidRequest(f"parameters.{name}", value, "a CSI class has clusterID, and its secrets come with each call")
    if not any(name.lower() == "pvtype" for name in said):
        said["pvType"] = "csi"
    parameters = read_parameters(said)
    if parameters.pv_type == "native":
        raise InvalidRequest("parameters.pvType", "native", "a volume made through CSI has a csi PersistentVolume")
    place = Place(_cluster(parameters.cluster, clusters), parameters.pool, parameters.namespace)
    return Class(parameters, check_place(place), labels)


def _cluster(name: str, clusters: Collection[str]) -> str:
    if not name and len(clusters) == 1:
        return next(iter(clusters))
    if name not in clusters:
        raise InvalidRequest("parameters.clusterID", name, f"known clusters: {', '.join(sorted(clusters)) or 'none'}")
    return name


def create_request(
    request: csi_pb2.CreateVolumeRequest, chosen: Class, source: Source | None = None, size: int = 0
) -> CreateRequest:
    """Read what is to be made of `source`, which has `size` bytes. Raises InvalidRequest, OutOfRange."""
    if not request.name:
        raise InvalidRequest("name", "", "must not be empty")
    capabilities.check(request.volume_capabilities, empty=source is None)
    return CreateRequest(
        request.name,
        chosen.place,
        size_to_make(request.capacity_range) if source is None else size_to_copy(request.capacity_range, size),
        chosen.parameters.layout,
        chosen.labels,
        credentials(request.secrets),
        source=source,
        qos=chosen.parameters.qos.changed(mutable(request.mutable_parameters)),
    )


def size_to_make(asked: csi_pb2.CapacityRange) -> SizeRange:
    """Read the size of a new volume: without a lower bound, a GiB, or all that the upper one allows. Raises OutOfRange."""
    if asked.required_bytes:
        return SizeRange(asked.required_bytes, asked.limit_bytes)
    most = asked.limit_bytes // MIB * MIB if asked.limit_bytes else DEFAULT_SIZE
    return SizeRange(min(DEFAULT_SIZE, most), asked.limit_bytes)


def size_to_copy(asked: csi_pb2.CapacityRange, size: int) -> SizeRange:
    """Read the size of a volume with the content of `size` bytes: without a lower bound, just these. Raises OutOfRange."""
    if asked.required_bytes:
        return SizeRange(asked.required_bytes, asked.limit_bytes)
    return SizeRange(max(size, MIB), asked.limit_bytes)


def credentials(secrets: Mapping[str, str]) -> Credentials | None:
    """Read the cephx user that a call brings along; None without one. Raises InvalidRequest, never with the key in it."""
    user, key = secrets.get("userID", "").strip().removeprefix("client."), secrets.get("userKey", "").strip()
    if not user and not key:
        return None
    if not user or not key:
        raise InvalidRequest("secrets.userID" if key else "secrets.userKey", "", "userID and userKey go together")
    return Credentials(user, key)


def mutable(given: Mapping[str, str]) -> Qos:
    """Read the parameters that may be changed at any time. Raises InvalidRequest naming the one at fault."""
    return read_qos("mutable_parameters", given)


def volume_id(text: str) -> VolumeId:
    """Read an id. Raises InvalidRequest without one, NotFound for text that names nothing."""
    if not text:
        raise InvalidRequest("volume_id", "", "must not be empty")
    return VolumeId.parse(text)


def found_volume(text: str, field: str = "volume_id") -> AbstractContextManager[VolumeId]:
    """A volume to look for. A cluster or a pool that there isn't holds none: NotFound, as for text that names nothing."""
    return _found("volume", VolumeId.parse, text, field)


def found_snapshot(text: str, field: str = "snapshot_id") -> AbstractContextManager[SnapshotId]:
    """A snapshot to look for. NotFound as for volumes."""
    return _found("snapshot", SnapshotId.parse, text, field)


def found_group(text: str) -> AbstractContextManager[GroupId]:
    """A group snapshot to look for. NotFound as for volumes."""
    return _found("group snapshot", GroupId.parse, text, "group_snapshot_id")


@contextmanager
def _found(kind: str, parse: Callable[[str], T], text: str, field: str) -> Iterator[T]:
    if not text:
        raise InvalidRequest(field, "", "must not be empty")
    found = parse(text)
    try:
        yield found
    except InvalidRequest as error:
        if error.field in ("clusterID", "pool"):
            raise NotFound(f"{kind} {found}") from error
        raise


def volume(found: Volume, on_nodes: Mapping[str, str] | None = None) -> csi_pb2.Volume:
    """Tell of a volume; `on_nodes` are the parameters that a node needs."""
    place = found.id.place
    context = {
        "clusterID": place.cluster,
        "pool": place.pool,
        "radosNamespace": place.namespace,
        "dataPool": found.data_pool,
        "imageName": found.id.image,
    }
    told = {key: value for key, value in context.items() if value} | dict(on_nodes or {})
    return csi_pb2.Volume(
        capacity_bytes=found.size,
        volume_id=str(found.id),
        volume_context=told,
        content_source=_content_source(found.asked.get("source", "")),
    )


def _content_source(source: str) -> csi_pb2.VolumeContentSource | None:
    if not source:
        return None
    if "@" in source:
        return csi_pb2.VolumeContentSource(snapshot=csi_pb2.VolumeContentSource.SnapshotSource(snapshot_id=source))
    return csi_pb2.VolumeContentSource(volume=csi_pb2.VolumeContentSource.VolumeSource(volume_id=source))
