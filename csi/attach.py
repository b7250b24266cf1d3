"""Publishing, the controller's side: which node has a volume is told to the core; the node is told what it needs to map it."""

import logging
from collections.abc import Callable, Collection, Sequence

from csi import capabilities, convert
from csi.pb import csi_pb2
from provisioner.core.attachments import Attachments
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.model import Credentials, Volume
from provisioner.core.uses import Mode, Use
from provisioner.core.volumes import Volumes
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

_FOR_NODES = ("mapOptions", "unmapOptions", "mounter")
"""What of a volume's context says how it is mapped."""


_Rpc = csi_pb2.ControllerServiceCapability.RPC

CAPABILITIES = (
    _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    _Rpc.PUBLISH_READONLY,
    _Rpc.LIST_VOLUMES_PUBLISHED_NODES,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)


class Publishing:
    """The part of the Controller service that publishes volumes."""

    _volumes: Volumes
    _attachments: Attachments
    _clusters: Callable[[], Collection[str]]

    def serve_attachments(self, attachments: Attachments) -> None:
        """Use these; once, before the first call."""
        self._attachments = attachments

    def ControllerPublishVolume(
        self, request: csi_pb2.ControllerPublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerPublishVolumeResponse:
        """Let a node have a volume. One that a single node may have is refused to a second."""
        _check(request)
        credentials = convert.credentials(request.secrets)
        with convert.found_volume(request.volume_id) as volume:
            attached = self._attachments.attach(volume, request.node_id, _use(request), credentials)
        monitors = self._volumes.monitors(attached.id.place.cluster, credentials)
        told = publish_context(attached, monitors, credentials, readonly=request.readonly)
        told |= {name: request.volume_context[name] for name in _FOR_NODES if name in request.volume_context}
        return csi_pb2.ControllerPublishVolumeResponse(publish_context=told)

    def ControllerUnpublishVolume(
        self, request: csi_pb2.ControllerUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerUnpublishVolumeResponse:
        """Take a volume from a node, or from all. Once this is answered, nothing of theirs can write to it.

        What can't be there is unpublished; of a cluster that isn't configured (any more) nobody can say so.
        """
        done = csi_pb2.ControllerUnpublishVolumeResponse()
        try:
            volume = convert.volume_id(request.volume_id)
        except NotFound as error:
            log.info("nothing to unpublish: %s", error)
            return done
        if volume.place.cluster not in self._clusters():
            raise NotFound(f"cluster {volume.place.cluster!r}, where {volume} may still be in use,")
        self._attachments.detach(volume, request.node_id, convert.credentials(request.secrets))
        return done


def publish_context(
    volume: Volume, monitors: Sequence[str], credentials: Credentials | None, *, readonly: bool
) -> dict[str, str]:
    """What a node needs to map the volume, but for the key. The internal id tells it the image from a namesake."""
    place = volume.id.place
    told = {
        "clusterID": place.cluster,
        "monitors": ",".join(monitors),
        "pool": place.pool,
        "radosNamespace": place.namespace,
        "dataPool": volume.data_pool,
        "imageName": volume.id.image,
        "imageID": volume.image_id,
        "user": credentials.user if credentials else "",
        "readOnly": "true" if readonly else "",
    }
    return {key: value for key, value in told.items() if value}


def _check(request: csi_pb2.ControllerPublishVolumeRequest) -> None:
    for field in ("volume_id", "node_id"):
        if not getattr(request, field):
            raise InvalidRequest(field, "", "must not be empty")
    if not request.HasField("volume_capability"):
        raise InvalidRequest("volume_capability", "", "must be set")
    capabilities.check([request.volume_capability])


def _use(request: csi_pb2.ControllerPublishVolumeRequest) -> Use:
    mode = csi_pb2.VolumeCapability.AccessMode.Mode.Name(request.volume_capability.access_mode.mode)
    return Use(Mode[mode], request.readonly, capabilities.is_block(request.volume_capability))
