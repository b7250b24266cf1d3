"""Who we are, what we can do, and whether we can do it now."""

from google.protobuf.wrappers_pb2 import BoolValue

import provisioner
from csi.pb import csi_pb2, csi_pb2_grpc
from csi.pulse import Pulse
from provisioner.rpc.boundary import Context

_Service = csi_pb2.PluginCapability.Service
_Expansion = csi_pb2.PluginCapability.VolumeExpansion

CAPABILITIES = (
    csi_pb2.PluginCapability(service=_Service(type=_Service.CONTROLLER_SERVICE)),
    csi_pb2.PluginCapability(service=_Service(type=_Service.GROUP_CONTROLLER_SERVICE)),
    csi_pb2.PluginCapability(service=_Service(type=_Service.SNAPSHOT_METADATA_SERVICE)),
    csi_pb2.PluginCapability(volume_expansion=_Expansion(type=_Expansion.ONLINE)),
)

_TOPOLOGY = csi_pb2.PluginCapability(service=_Service(type=_Service.VOLUME_ACCESSIBILITY_CONSTRAINTS))


class Identity(csi_pb2_grpc.IdentityServicer):
    """The Identity service of a process that is the controller."""

    def __init__(self, name: str, pulse: Pulse, *, topology: bool = False) -> None:
        """`name` is the driver's, as a StorageClass's `provisioner` has it; `topology` says that nodes tell where they are."""
        self._name, self._pulse, self._topology = name, pulse, topology

    def GetPluginInfo(  # noqa: N802
        self, request: csi_pb2.GetPluginInfoRequest, context: Context
    ) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=self._name, vendor_version=provisioner.__version__)

    def GetPluginCapabilities(  # noqa: N802
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: Context
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """Which services there are, that volumes grow while in use, and whether they are made where they can be reached from."""
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[*CAPABILITIES, *([_TOPOLOGY] if self._topology else [])])

    def Probe(self, request: csi_pb2.ProbeRequest, context: Context) -> csi_pb2.ProbeResponse:  # noqa: N802
        """Ready while Ceph answers; the answer never takes a second."""
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self._pulse.beats()))
