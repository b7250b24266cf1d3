"""The Node service: each call in terms of one thing that a node does with a volume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csi import capabilities, convert
from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.core.encryption import PASSPHRASE, Encryption, read_encryption
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import VolumeId
from provisioner.host.filesystem import Wanted
from provisioner.host.node import Node
from provisioner.host.requests import Publish, Stage
from provisioner.host.stats import Health, Usage
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

_Rpc = csi_pb2.NodeServiceCapability.RPC
_Mode = csi_pb2.VolumeCapability.AccessMode

CAPABILITIES = tuple(
    csi_pb2.NodeServiceCapability(rpc=_Rpc(type=kind))
    for kind in (
        _Rpc.STAGE_UNSTAGE_VOLUME,
        _Rpc.GET_VOLUME_STATS,
        _Rpc.EXPAND_VOLUME,
        _Rpc.SINGLE_NODE_MULTI_WRITER,
        _Rpc.GET_VOLUME_HEALTH,
        _Rpc.GET_STORAGE_HEALTH,
    )
)

_READERS = frozenset((_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY))
_UNITS = {"bytes": csi_pb2.VolumeUsage.BYTES, "inodes": csi_pb2.VolumeUsage.INODES}


@dataclass(frozen=True, slots=True)
class Place:
    """What the cluster manager is told of this node: its id, its topology, how many volumes it takes (0: any number)."""

    node_id: str
    topology: Mapping[str, str] = field(default_factory=dict)
    max_volumes: int = 0


class NodeService(csi_pb2_grpc.NodeServicer):
    """Volumes on this node over CSI. Errors of the core leave the methods as they are."""

    def __init__(self, node: Node, place: Place, silent: Callable[[], list[str]]) -> None:
        """`silent` names the clusters that do not answer."""
        self._node, self._place, self._silent = node, place, silent

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """What works."""
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=CAPABILITIES)

    def NodeGetInfo(self, request: csi_pb2.NodeGetInfoRequest, context: Context) -> csi_pb2.NodeGetInfoResponse:
        """Who and where this node is."""
        told = csi_pb2.NodeGetInfoResponse(node_id=self._place.node_id, max_volumes_per_node=self._place.max_volumes)
        if self._place.topology:
            told.accessible_topology.segments.update(self._place.topology)
        return told

    def NodeStageVolume(self, request: csi_pb2.NodeStageVolumeRequest, context: Context) -> csi_pb2.NodeStageVolumeResponse:
        """Attach, format if empty, mount."""
        self._node.stage(stage_request(request))
        return csi_pb2.NodeStageVolumeResponse()

    def NodeUnstageVolume(self, request: csi_pb2.NodeUnstageVolumeRequest, context: Context) -> csi_pb2.NodeUnstageVolumeResponse:
        """Unmount and detach."""
        self._node.unstage(_volume(request, "staging_target_path"), request.staging_target_path)
        return csi_pb2.NodeUnstageVolumeResponse()

    def NodePublishVolume(self, request: csi_pb2.NodePublishVolumeRequest, context: Context) -> csi_pb2.NodePublishVolumeResponse:
        """Show the staged volume to a workload."""
        self._node.publish(publish_request(request))
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take it away from a workload."""
        self._node.unpublish(_volume(request, "target_path"), request.target_path)
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeExpandVolume(self, request: csi_pb2.NodeExpandVolumeRequest, context: Context) -> csi_pb2.NodeExpandVolumeResponse:
        """Let the device and the file system follow the image's size."""
        volume, asked = _volume(request, "volume_path"), request.capacity_range.required_bytes
        passphrase = request.secrets.get(PASSPHRASE, "")
        size = self._node.expand(volume, request.volume_path, asked, convert.credentials(request.secrets), passphrase)
        return csi_pb2.NodeExpandVolumeResponse(capacity_bytes=size)

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: Context
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """How full it is."""
        measured = self._node.usage(_volume(request, "volume_path"), request.volume_path)
        return csi_pb2.NodeGetVolumeStatsResponse(usage=[_usage(each) for each in measured])

    def NodeGetVolumeHealth(
        self, request: csi_pb2.NodeGetVolumeHealthRequest, context: Context
    ) -> csi_pb2.NodeGetVolumeHealthResponse:
        """Whether it can still be read and written here."""
        path = request.volume_publish_path or request.staging_target_path
        ills = self._node.health(convert.volume_id(request.volume_id), path)
        return csi_pb2.NodeGetVolumeHealthResponse(volume_health=_health(request.volume_id, ills))

    def NodeGetStorageHealth(
        self, request: csi_pb2.NodeGetStorageHealthRequest, context: Context
    ) -> csi_pb2.NodeGetStorageHealthResponse:
        """Whether the clusters answer this node."""
        Backend = csi_pb2.NodeGetStorageHealthResponse.StorageBackendHealth  # noqa: N806
        return csi_pb2.NodeGetStorageHealthResponse(
            backend_health=[
                Backend(status=csi_pb2.STORAGE_UNREACHABLE, reason="NoAnswer", message=f"cluster {name} does not answer")
                for name in self._silent()
            ]
        )


def stage_request(request: csi_pb2.NodeStageVolumeRequest) -> Stage:
    """Read what is to be staged. Raises InvalidRequest, NotFound for an id that names nothing."""
    volume = _volume(request, "staging_target_path", "volume_capability")
    capability = _usable(request)
    context, mount = request.volume_context, capability.mount
    kind = mount.fs_type or context.get("fsType", "")
    wanted = Wanted(kind, context.get("mkfsOptions", ""))
    return Stage(
        volume,
        request.staging_target_path,
        None if capabilities.is_block(capability) else wanted,
        flags=_flags(mount.mount_flags),
        read_only=capability.access_mode.mode in _READERS or request.publish_context.get("readOnly") == "true",
        mounter=context.get("mounter", ""),
        map_options=context.get("mapOptions", ""),
        unmap_options=context.get("unmapOptions", ""),
        credentials=convert.credentials(request.secrets),
        encryption=_encryption(request),
        recorded=bool(request.publish_context),
    )


def _encryption(request: csi_pb2.NodeStageVolumeRequest) -> Encryption | None:
    context = request.volume_context
    if context.get("encrypted", "false").lower() != "true":
        return None
    return read_encryption(context, request.secrets.get(PASSPHRASE, ""))


def publish_request(request: csi_pb2.NodePublishVolumeRequest) -> Publish:
    """Read what is to be published where. Raises InvalidRequest, NotFound for an id that names nothing."""
    volume = _volume(request, "target_path", "volume_capability", "staging_target_path")
    capability = _usable(request)
    return Publish(
        volume,
        request.staging_target_path,
        request.target_path,
        block=capabilities.is_block(capability),
        read_only=request.readonly or capability.access_mode.mode in _READERS,
        alone=capability.access_mode.mode == _Mode.SINGLE_NODE_SINGLE_WRITER,
    )


def _usable(request: csi_pb2.NodeStageVolumeRequest | csi_pb2.NodePublishVolumeRequest) -> csi_pb2.VolumeCapability:
    if why := capabilities.refusal(request.volume_capability):
        raise InvalidRequest("volume_capability", _Mode.Mode.Name(request.volume_capability.access_mode.mode), why)
    return request.volume_capability


def _flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Mount options, each one word of mount(8). Raises InvalidRequest for what would be more than that."""
    for flag in flags:
        if not flag.isprintable() or len(flag) > 1024 or flag.split("=")[0] in _FORBIDDEN_FLAGS:
            raise InvalidRequest("mount_flags", flag, "is no option that a volume may be mounted with")
    return tuple(flags)


_FORBIDDEN_FLAGS = frozenset(("bind", "rbind", "move", "remount", "loop", "offset", "X-mount.mkdir", "helper", "uhelper"))
"""What would have mount(8) do something else than mount the device."""


def _volume(request: Any, *needed: str) -> VolumeId:
    """Read the id of a request that has all it needs. Raises InvalidRequest for the first field that is missing, NotFound."""
    given = {descriptor.name for descriptor, _ in request.ListFields()}
    for name in ("volume_id", *needed):
        if name not in given:
            raise InvalidRequest(name, "", "must be set")
    return convert.volume_id(request.volume_id)


def _usage(measured: Usage) -> csi_pb2.VolumeUsage:
    return csi_pb2.VolumeUsage(unit=_UNITS[measured.unit], total=measured.total, used=measured.used, available=measured.available)


def _health(volume_id: str, ills: Sequence[Health]) -> csi_pb2.VolumeHealth:
    Entry = csi_pb2.VolumeHealth.VolumeHealthEntry  # noqa: N806
    entries = [
        Entry(status=csi_pb2.VolumeHealthErrorType.Value(ill.status), reason=ill.reason, message=ill.message) for ill in ills
    ]
    return csi_pb2.VolumeHealth(volume_id=volume_id, health_statuses=entries)
