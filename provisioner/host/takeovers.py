"""Devices that lost the process which served them, as rbd-nbd's do with the container it ran in, served again by another one.

Mounts stay meanwhile, and what is written to them waits. The new process is a client of its own, recorded on the image as its
predecessor was. Where that is refused, since the volume was taken from this node, the device is left without one.
"""

from collections.abc import Sequence

from provisioner.core.ids import VolumeId
from provisioner.core.mapping import options_for
from provisioner.core.model import Credentials
from provisioner.host.clients import Clients
from provisioner.host.ports import Attachment, Images, Kind


class TakeOvers:
    """The lost devices of one node."""

    def __init__(self, images: Images, clients: Clients, kinds: Sequence[Kind]) -> None:
        self._images, self._clients, self._kinds = images, clients, kinds

    def lost(self) -> list[VolumeId]:
        """The volumes whose devices nobody serves."""
        return [volume for kind in self._kinds for volume in kind.lost()]

    def serve(self, volume: VolumeId, credentials: Credentials | None, map_options: str = "", *, recorded: bool = True) -> None:
        """Have the volume's lost device served again; one that isn't lost is left alone.

        `recorded` is whether the volume was attached to this node by the controller. Raises NotFound if it is not any more.
        """
        kind = next((kind for kind in self._kinds if volume in kind.lost()), None)
        if kind is None:
            return
        attachment = Attachment(self._images.opening(volume, credentials), options=options_for(kind.name, map_options))
        if recorded:
            self._clients.take_over(kind, attachment, credentials)
        else:
            kind.attach(attachment)
