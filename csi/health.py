"""Health of volumes as the controller can tell it: what the clusters say, without a client of the volume."""

import time

from csi import convert
from csi.listing import Listing
from csi.pb import csi_pb2
from provisioner.core.errors import InvalidRequest
from provisioner.core.health import Health, Ill
from provisioner.core.model import Volume
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

_Rpc = csi_pb2.ControllerServiceCapability.RPC
_Entry = csi_pb2.VolumeHealth.VolumeHealthEntry

CAPABILITIES = (_Rpc.GET_VOLUME_HEALTH, _Rpc.LIST_VOLUME_HEALTH)
_SECONDS = 5.0
"""How long one call looks for a volume that something is wrong with before it lets the caller go on from there."""


class Examining:
    """The part of the Controller service that tells of health."""

    _health: Health
    _listing: Listing[Volume]

    def serve_health(self, health: Health) -> None:
        """Use this; once, before the first call."""
        self._health = health

    def ControllerGetVolumeHealth(
        self, request: csi_pb2.ControllerGetVolumeHealthRequest, context: Context
    ) -> csi_pb2.ControllerGetVolumeHealthResponse:
        """What is wrong with a volume. A cluster that does not answer is an answer."""
        with convert.found_volume(request.volume_id) as volume:
            ills = self._health.of(volume, convert.credentials(request.secrets))
        return csi_pb2.ControllerGetVolumeHealthResponse(volume_health=told(request.volume_id, ills))

    def ControllerListVolumeHealth(
        self, request: csi_pb2.ControllerListVolumeHealthRequest, context: Context
    ) -> csi_pb2.ControllerListVolumeHealthResponse:
        """The volumes that something is wrong with; a page may have none and yet not be the last."""
        if request.max_entries < 0:
            raise InvalidRequest("max_entries", request.max_entries, "must not be negative")
        token, deadline, ill = request.starting_token, time.monotonic() + _SECONDS, list[csi_pb2.VolumeHealth]()
        while not ill:
            volumes, token = self._listing.page(token, request.max_entries)
            ill = [told(str(volume.id), ills) for volume, ills in self._health.among(volumes)]
            if not token or time.monotonic() > deadline:
                break
        return csi_pb2.ControllerListVolumeHealthResponse(entries=ill, next_token=token)


def told(volume_id: str, ills: list[Ill]) -> csi_pb2.VolumeHealth:
    """A volume's health in the contract's words."""
    entries = [
        _Entry(status=csi_pb2.VolumeHealthErrorType.Value(ill.status), reason=ill.reason, message=ill.message) for ill in ills
    ]
    return csi_pb2.VolumeHealth(volume_id=volume_id, health_statuses=entries)
