"""The Controller service: each call in terms of one use case of the core."""

import logging
from collections.abc import Callable, Collection

from google.protobuf.wrappers_pb2 import Int64Value

from csi import capabilities, convert, sources
from csi.attach import CAPABILITIES as PUBLISHING_CAPABILITIES
from csi.attach import Publishing
from csi.health import CAPABILITIES as HEALTH_CAPABILITIES
from csi.health import Examining
from csi.listing import Listing
from csi.modify import Modify
from csi.pb import csi_pb2, csi_pb2_grpc
from csi.snapshots import CAPABILITIES as SNAPSHOT_CAPABILITIES
from csi.snapshots import Snapshotting
from csi.topology import Pools
from provisioner.core.encryption import PASSPHRASE, kept_by_kms
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.keys import VolumeKeys
from provisioner.core.model import MIB, Credentials, SizeRange, Volume
from provisioner.core.volumes import Volumes
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

_Rpc = csi_pb2.ControllerServiceCapability.RPC

CAPABILITIES = tuple(
    csi_pb2.ControllerServiceCapability(rpc=_Rpc(type=kind))
    for kind in (
        _Rpc.CREATE_DELETE_VOLUME,
        _Rpc.LIST_VOLUMES,
        _Rpc.GET_CAPACITY,
        _Rpc.EXPAND_VOLUME,
        _Rpc.GET_VOLUME,
        _Rpc.MODIFY_VOLUME,
        _Rpc.CLONE_VOLUME,
        *SNAPSHOT_CAPABILITIES,
        *PUBLISHING_CAPABILITIES,
        *HEALTH_CAPABILITIES,
    )
)


class Controller(Modify, Snapshotting, Publishing, Examining, csi_pb2_grpc.ControllerServicer):
    """Volumes over CSI. Errors of the core leave the methods as they are: the boundary has the table to status codes."""

    def __init__(
        self,
        volumes: Volumes,
        clusters: Callable[[], Collection[str]],
        listing: Listing[Volume],
        pools: Pools,
        keys: VolumeKeys,
    ) -> None:
        """`clusters` gives the names of today's clusters."""
        self._volumes, self._clusters, self._listing, self._pools = volumes, clusters, listing, pools
        self._keys = keys

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """What works."""
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=CAPABILITIES)

    def CreateVolume(self, request: csi_pb2.CreateVolumeRequest, context: Context) -> csi_pb2.CreateVolumeResponse:
        """Make a volume, once per name: empty, or with the content of a snapshot or another volume."""
        chosen = convert.read_class(request.parameters, self._clusters())
        how = kept_by_kms(chosen.on_nodes, request.secrets.get(PASSPHRASE, ""))
        if how is not None:
            self._keys.check(how)
        needs, origin = request.accessibility_requirements, sources.look_up(request, self._volumes, self._snapshots)
        with origin.told_missing():
            wanted = convert.create_request(request, chosen, origin.source, origin.size)
            made = self._pools.create(wanted, chosen, needs)
        if how is not None:
            self._keys.provide(made.id, how, wanted.credentials)
        volume = convert.volume(made, chosen.on_nodes)
        volume.accessible_topology.extend(self._pools.topology(made, chosen, needs))
        return csi_pb2.CreateVolumeResponse(volume=volume)

    def DeleteVolume(self, request: csi_pb2.DeleteVolumeRequest, context: Context) -> csi_pb2.DeleteVolumeResponse:
        """Take a volume away. What can't be there is gone: an id that names nothing, a pool that there isn't."""
        credentials = convert.credentials(request.secrets)
        try:
            self._volumes.delete(convert.volume_id(request.volume_id), credentials)
        except NotFound as error:
            log.info("nothing to delete: %s", error)
        except InvalidRequest as error:
            if error.field != "pool":
                raise
            log.warning("nothing to delete for %s: %s", request.volume_id, error)
        return csi_pb2.DeleteVolumeResponse()

    def ControllerExpandVolume(
        self, request: csi_pb2.ControllerExpandVolumeRequest, context: Context
    ) -> csi_pb2.ControllerExpandVolumeResponse:
        """Grow a volume, in use or not."""
        if not request.HasField("capacity_range"):
            raise InvalidRequest("capacity_range", "", "must be set")
        size = SizeRange(request.capacity_range.required_bytes, request.capacity_range.limit_bytes)
        with convert.found_volume(request.volume_id) as volume:
            credentials = convert.credentials(request.secrets)
            grown = self._volumes.expand(volume, size, credentials)
            # a node that has a block volume may have a loop device, an nbd or LUKS there: these don't follow the image by
            # themselves. One that is attached from now on is staged with its new size.
            is_block = capabilities.is_block(request.volume_capability)
            on_node = not is_block or bool(self._volumes.get(volume, credentials).nodes)
        return csi_pb2.ControllerExpandVolumeResponse(capacity_bytes=grown.size, node_expansion_required=on_node)

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: Context
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Say whether a volume can be used so, and was made so."""
        found = self._get(request.volume_id, convert.credentials(request.secrets))
        if not request.volume_capabilities:
            raise InvalidRequest("volume_capabilities", "", "must not be empty")
        if why := self._refusal(request, found):
            return csi_pb2.ValidateVolumeCapabilitiesResponse(message=why)
        return csi_pb2.ValidateVolumeCapabilitiesResponse(
            confirmed=csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
                mutable_parameters=request.mutable_parameters,
            )
        )

    def ListVolumes(self, request: csi_pb2.ListVolumesRequest, context: Context) -> csi_pb2.ListVolumesResponse:
        """Every volume of ours, in every cluster and pool."""
        if request.max_entries < 0:
            raise InvalidRequest("max_entries", request.max_entries, "must not be negative")
        volumes, token = self._listing.page(request.starting_token, request.max_entries)
        return csi_pb2.ListVolumesResponse(entries=map(_entry, volumes), next_token=token)

    def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest, context: Context
    ) -> csi_pb2.ControllerGetVolumeResponse:
        """A volume as Ceph has it now."""
        found = self._get(request.volume_id, None)
        status = csi_pb2.ControllerGetVolumeResponse.VolumeStatus(published_node_ids=found.nodes)
        return csi_pb2.ControllerGetVolumeResponse(volume=convert.volume(found), status=status)

    def GetCapacity(self, request: csi_pb2.GetCapacityRequest, context: Context) -> csi_pb2.GetCapacityResponse:
        """What the pool of such a class can still give; nothing for volumes that can't be made."""
        chosen = convert.read_class(request.parameters, self._clusters())
        if any(capabilities.refusal(capability, empty=True) for capability in request.volume_capabilities):
            return csi_pb2.GetCapacityResponse(available_capacity=0)
        room = self._pools.capacity(chosen, request.accessible_topology)
        return csi_pb2.GetCapacityResponse(
            available_capacity=room.available,
            maximum_volume_size=Int64Value(value=room.largest),
            minimum_volume_size=Int64Value(value=MIB),
        )

    def _get(self, volume_id: str, credentials: Credentials | None) -> Volume:
        with convert.found_volume(volume_id) as volume:
            return self._volumes.get(volume, credentials)

    def _refusal(self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, found: Volume) -> str:
        for capability in request.volume_capabilities:
            if why := capabilities.refusal(capability):
                return why
        try:
            found.throttle.qos.changed(convert.mutable(request.mutable_parameters))
            if not request.parameters:
                return ""
            chosen = convert.read_class(request.parameters, self._clusters())
        except InvalidRequest as error:
            return str(error)
        return "" if self._pools.made_so(found, chosen) else "the volume was made with other parameters"


def _entry(volume: Volume) -> csi_pb2.ListVolumesResponse.Entry:
    status = csi_pb2.ListVolumesResponse.VolumeStatus(published_node_ids=volume.nodes)
    return csi_pb2.ListVolumesResponse.Entry(volume=convert.volume(volume), status=status)
