"""Keys go after their images: what a KMS keeps for each volume is forgotten once the image is gone, from the trash too.

Not sooner, since snapshots of a deleted volume can be restored, and what is in the trash can be taken back. A killed delete
leaves nothing behind: the next look finds it.
"""

import logging
import threading

from provisioner.ceph.nodes import NodeImages
from provisioner.core.errors import ProvisionerError
from provisioner.kms.build import KeyServices

log = logging.getLogger(__name__)


class KeySweep:
    """A thread that looks now and then, until stopped."""

    def __init__(self, images: NodeImages, services: KeyServices, every: float = 300.0) -> None:
        """Look `every` so many seconds."""
        self._images, self._services, self._every = images, services, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forget keys", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout)

    def sweep(self) -> int:
        """Look once; gives how many keys were forgotten. Raises what a KMS or a cluster raises."""
        forgotten = 0
        for vault, keys in self._services.vaults():
            for token, image in vault.kept():
                if self._stop.is_set():
                    return forgotten
                if self._images.is_gone(image.fsid, image.pool, image.namespace, image.image_id):
                    keys.forget(token)
                    forgotten += 1
                    log.info("the key at %s is forgotten: image %s is gone", token, image.image_id)
        return forgotten

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.sweep()
            except ProvisionerError as error:
                log.warning("forgetting keys goes on later: %s", error)
