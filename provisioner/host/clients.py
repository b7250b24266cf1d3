"""Which Ceph clients of this node have a volume: told to the image's record before a device is used, and struck off after it.

So whoever takes the volume from this node knows whom to fence, also when nobody can ask this node any more.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Sequence

from provisioner.core.attachments import Attachments
from provisioner.core.attachments import Node as NodeEntry
from provisioner.core.errors import Conflict, Denied, InvalidRequest, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials
from provisioner.host import blocks
from provisioner.host.ports import Attachment, Kind

log = logging.getLogger(__name__)

_ROUNDS = 5
"""Times that other nodes may begin to use an image at the very moment that this one does."""


class Clients:
    """The clients of one node."""

    def __init__(self, attachments: Attachments, node: str, max_volumes: int = 0) -> None:
        """`max_volumes` is how many volumes the node takes, 0 for any number."""
        self._attachments, self._node, self._max_volumes = attachments, node, max_volumes

    def enrol(self, clusters: Collection[str], topology: dict[str, str]) -> list[str]:
        """Make the node known in each cluster; gives those that could not be told, with the reason."""
        failed = []
        for cluster in clusters:
            try:
                entry = NodeEntry(self._node, (), topology, time.time(), self._max_volumes)
                self._attachments.enrol_node(cluster, entry)
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
        found = kind.find(volume) is not None
        if found and not recorded and (kind.address(volume) or not attachment.read_only):
            kind.detach(volume)  # attached by a process that was killed before it recorded: nobody has used it
        try:
            self._attach(kind, attachment, credentials)
        except Conflict:
            kind.detach(volume)
            self._attach(kind, kind.apart(attachment), credentials)

    def _attach(self, kind: Kind, attachment: Attachment, credentials: Credentials | None) -> None:
        volume = attachment.image.volume
        try:
            if client := self._client(kind, attachment, credentials):
                self._attachments.record_client(volume, self._node, client, credentials)
        except ProvisionerError:
            with contextlib.suppress(ProvisionerError):
                kind.detach(volume)
            raise

    def _client(self, kind: Kind, attachment: Attachment, credentials: Credentials | None) -> str:
        """Attach, and give the address of the client that did; "" for one that is recorded already, or can't write.

        A kind that can't name its client has the one that began to watch the image meanwhile. Where several did, another
        node's are among them, and nobody could say which is whose: then it is done again, with those known.
        """
        volume = attachment.image.volume
        for _ in range(_ROUNDS):
            was_there = kind.find(volume) is not None
            before = self._watching(volume, credentials)
            kind.attach(attachment)
            if address := kind.address(volume):
                return address
            if was_there or attachment.read_only:
                return ""
            fresh = self._watching(volume, credentials) - before
            if len(fresh) == 1:
                return fresh.pop()
            kind.detach(volume)
        raise Unavailable(f"volume {volume}: which client is this node's can't be told, so many begin to use it at once")

    def take_over(self, kind: Kind, attachment: Attachment, credentials: Credentials | None) -> None:
        """Have a lost device, which may be in use, served by a new client, and record that. Refused, it is lost again.

        Raises NotFound if the node does not have the volume, Unavailable where the client can't be told from others'.
        """
        volume = attachment.image.volume
        self._attachments.clients(volume, self._node, credentials)
        before = self._watching(volume, credentials)
        writes = not blocks.is_read_only(kind.attach(attachment))
        try:
            fresh = self._watching(volume, credentials) - before if writes else set()
            if len(fresh) != writes:
                raise Unavailable(f"volume {volume}: which client is this node's can't be told")
            for client in fresh:
                self._attachments.record_client(volume, self._node, client, credentials)
        except ProvisionerError:
            kind.let_go(volume)
            raise

    def gone(self, volume: VolumeId) -> None:
        """Strike off what was recorded, now that no device of the volume is left here."""
        try:
            for client in self._attachments.clients(volume, self._node):
                self._attachments.clear_client(volume, self._node, client)
        except NotFound:
            return
        except (Denied, InvalidRequest) as error:
            # the cluster's own user may be without rights where classes bring theirs; the config file may name it no more
            log.warning("the clients of %s stay recorded: %s", volume, error)

    def _watching(self, volume: VolumeId, credentials: Credentials | None) -> set[str]:
        return set(self._attachments.watching(volume, credentials))
