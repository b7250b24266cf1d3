"""A tool's use of a volume that no node has: recorded on the image as that of a node of its own, for as long as it lasts.

So no node gets the volume meanwhile, and a tool that died, or was cut off with something still to write, is fenced by whoever
runs the same errand next, wherever that is. Its client is no other volume's, so that a fence hits the errand alone.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioner.core.attachments import Attachments
from provisioner.core.attachments import Node as NodeEntry
from provisioner.core.errors import InUse, ProvisionerError
from provisioner.core.ids import VolumeId
from provisioner.core.model import Opening
from provisioner.core.uses import Mode, Use
from provisioner.host.blocks import tag
from provisioner.host.clients import Clients
from provisioner.host.ports import Attachment, Kind

_USE = Use(Mode.SINGLE_NODE_SINGLE_WRITER, block=True)


class Errand:
    """One kind of errand, on this machine."""

    def __init__(self, attachments: Attachments, name: str) -> None:
        """`name` is what it does: with the volume's tag it makes the node's id, the same everywhere."""
        self._attachments, self._name = attachments, name

    def is_begun(self, volume: VolumeId) -> bool:
        """Whether one is under way, here or elsewhere, or was killed on the way."""
        return self._attachments.has(volume, self._node(volume))

    def end(self, volume: VolumeId, kinds: Sequence[Kind]) -> None:
        """End one that was begun: what is left of it here is detached, what is left elsewhere fenced."""
        for kind in kinds:
            address = kind.address(volume)
            kind.detach(volume)
            if address:
                self._attachments.clear_client(volume, self._node(volume), address)
        self._attachments.detach(volume, self._node(volume))

    @contextmanager
    def device(self, kind: Kind, image: Opening) -> Iterator[Path]:
        """Have the image attached for the block. Raises InUse while a node, or another errand, has the volume."""
        volume, node = image.volume, self._node(image.volume)
        self._begin(volume, node)
        attachment, own = kind.apart(Attachment(image)), list[str]()
        try:
            Clients(self._attachments, node).attach(kind, attachment, None)
            own += self._sole_client(volume, node)
            yield kind.attach(attachment)
        finally:
            own += filter(None, [kind.address(volume)])
            kind.detach(volume)
            self._leave(volume, node, own)

    def _begin(self, volume: VolumeId, node: str) -> None:
        """Take the volume: before that, a device of it here may be a node's."""
        cluster = volume.place.cluster
        self._attachments.enrol_node(cluster, NodeEntry(node))
        try:
            self._attachments.attach(volume, node, _USE)
        except ProvisionerError:
            self._attachments.forget_node(cluster, node)
            raise
        if others := self._attachments.clients(volume, node):
            raise InUse(f"volume {volume}", others)

    def _sole_client(self, volume: VolumeId, node: str) -> Sequence[str]:
        """Our client, once it is recorded. Of two that began at once, the later at least sees both, and has written nothing."""
        recorded = self._attachments.clients(volume, node)
        if len(recorded) > 1:
            raise InUse(f"volume {volume}", recorded)
        return recorded

    def _leave(self, volume: VolumeId, node: str, own: Collection[str]) -> None:
        """Strike off our clients, and the entry unless it is another's by now, who took us for dead."""
        for client in own:
            self._attachments.clear_client(volume, node, client)
        self._attachments.leave(volume, node)
        if not self._attachments.has(volume, node):
            self._attachments.forget_node(volume.place.cluster, node)

    def _node(self, volume: VolumeId) -> str:
        return f"{self._name}.{tag(volume)}"
