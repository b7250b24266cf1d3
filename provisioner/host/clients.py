"""Which Ceph clients of this node have a volume: told to the image's record before a device is used, and struck off after it.

So whoever takes the volume from this node knows whom to fence, also when nobody can ask this node any more.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Sequence

from provisioner.core.attachments import Attachments
from provisioner.core.attachments import Node as NodeEntry
from provisioner.core.errors import Conflict, Denied, NotFound, ProvisionerError
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials
from provisioner.host.ports import Attachment, Kind

log = logging.getLogger(__name__)


class Clients:
    """The clients of one node."""

    def __init__(self, attachments: Attachments, node: str) -> None:
        self._attachments, self._node = attachments, node

    def enrol(self, clusters: Collection[str], topology: dict[str, str]) -> list[str]:
        """Make the node known in each cluster; gives those that could not be told, with the reason."""
        failed = []
        for cluster in clusters:
            try:
                self._attachments.enrol_node(cluster, NodeEntry(self._node, (), topology, time.time()))
            except ProvisionerError as error:
                failed.append(f"{cluster}: {error}")
        return failed

    def lift_fences(self, clusters: Collection[str], kinds: Sequence[Kind]) -> None:
        """End the fences of clients that this node has no more. Where a kind can't name its clients, all fences stay."""
        living: list[str] = []
        for kind in kinds:
            told = kind.living()
            if told is None:
                return
            living += told
        for cluster in clusters:
            try:
                for address in self._attachments.lift_fences(cluster, self._node, living):
                    log.info("the fence of %s in cluster %s has served", address, cluster)
            except ProvisionerError as error:
                log.warning("lifting fences in cluster %s: %s", cluster, error)

    def attach(self, kind: Kind, attachment: Attachment, credentials: Credentials | None) -> None:
        """Attach, and record the client before anybody uses the device. Raises NotFound if the node does not have the volume.

        A client that was fenced, for whatever volume, is good for nothing any more: another one is taken.
        """
        volume = attachment.image.volume
        recorded = self._attachments.clients(volume, self._node, credentials)
        if kind.find(volume) is not None and not recorded:
            kind.detach(volume)  # attached by a process that was killed before it recorded: nobody has used it
        try:
            self._attach(kind, attachment, credentials)
        except Conflict:
            kind.detach(volume)
            self._attach(kind, kind.apart(attachment), credentials)

    def _attach(self, kind: Kind, attachment: Attachment, credentials: Credentials | None) -> None:
        volume, was_there = attachment.image.volume, kind.find(attachment.image.volume) is not None
        before = self._watching(volume, credentials)
        kind.attach(attachment)
        address = kind.address(volume)
        ours = {address} if address else set() if was_there else self._watching(volume, credentials) - before
        try:
            for client in sorted(ours):
                self._attachments.record_client(volume, self._node, client, credentials)
        except ProvisionerError:
            with contextlib.suppress(ProvisionerError):
                kind.detach(volume)
            raise

    def gone(self, volume: VolumeId) -> None:
        """Strike off what was recorded, now that no device of the volume is left here."""
        try:
            for client in self._attachments.clients(volume, self._node):
                self._attachments.clear_client(volume, self._node, client)
        except NotFound:
            return
        except Denied as error:  # the cluster's own user may be without rights where classes bring theirs
            log.warning("the clients of %s stay recorded: %s", volume, error)

    def _watching(self, volume: VolumeId, credentials: Credentials | None) -> set[str]:
        return set(self._attachments.watching(volume, credentials))
