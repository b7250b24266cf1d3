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
    csi_pb2.PluginCapability(service=_Service(type=_Service.SNAPSHOT_METADATA_SERVICE)),
    csi_pb2.PluginCapability(volume_expansion=_Expansion(type=_Expansion.ONLINE)),
)


class Identity(csi_pb2_grpc.IdentityServicer):
    """The Identity service of a process that is the controller."""

    def __init__(self, name: str, pulse: Pulse) -> None:
        """`name` is the driver's, as a StorageClass's `provisioner` has it."""
        self._name, self._pulse = name, pulse

    def GetPluginInfo(  # noqa: N802
        self, request: csi_pb2.GetPluginInfoRequest, context: Context
    ) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=self._name, vendor_version=provisioner.__version__)

    def GetPluginCapabilities(  # noqa: N802
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: Context
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """Which services there are, and that volumes grow while in use."""
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=CAPABILITIES)

    def Probe(self, request: csi_pb2.ProbeRequest, context: Context) -> csi_pb2.ProbeResponse:  # noqa: N802
        """Ready while Ceph answers; the answer never takes a second."""
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self._pulse.beats()))
