"""What can be changed of a volume while it lives: how fast it may be."""

from csi import convert
from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.core.volumes import Volumes
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802


class Modify(csi_pb2_grpc.ControllerServicer):
    """The part of the Controller that a VolumeAttributesClass speaks to."""

    _volumes: Volumes

    def ControllerModifyVolume(
        self, request: csi_pb2.ControllerModifyVolumeRequest, context: Context
    ) -> csi_pb2.ControllerModifyVolumeResponse:
        """Change what is named; what isn't stays."""
        changes = convert.mutable(request.mutable_parameters)
        with convert.found_volume(request.volume_id) as volume:
            self._volumes.modify(volume, changes, convert.credentials(request.secrets))
        return csi_pb2.ControllerModifyVolumeResponse()
