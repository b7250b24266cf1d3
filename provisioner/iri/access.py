"""Keys for clients: a user per volume, or the one that the operator made for a class. Never the provisioner's own.

No key is kept anywhere but in Ceph's auth database; here one is remembered for a minute, since poollets list every few seconds.
"""

import threading
import time
from dataclasses import dataclass

from provisioner.core.errors import NotFound
from provisioner.core.model import Grant, Volume
from provisioner.core.volumes import Volumes
from provisioner.iri import metadata
from provisioner.iri.classes import ClassFile, ClassUser, VolumeClass

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Remembered:
    grant: Grant
    until: float


class Access:
    """Hands volumes out."""

    def __init__(self, volumes: Volumes, classes: ClassFile[VolumeClass], seconds: float = 60.0) -> None:
        """A key is asked for again after so many seconds."""
        self._volumes, self._classes, self._seconds = volumes, classes, seconds
        self._known: dict[str, _Remembered] = {}
        self._lock = threading.Lock()

    def grant(self, volume: Volume) -> Grant:
        """What a client needs to open the volume. One that was not handed out yet, is from now on."""
        if (user := self.class_user(volume)) is not None:
            self._volumes.mark_published(volume)
            return Grant(self._volumes.monitors(volume.id.place.cluster), user.credentials())
        known = self._known.get(volume.image_id)
        if volume.published and known is not None and known.until > time.monotonic():
            return known.grant
        grant = self._volumes.publish(volume)
        if volume.published:
            self._refuse_if_gone(volume)
        self._remember(volume.image_id, grant)
        return grant

    def withdraw(self, volume: Volume) -> None:
        """Take back the user of a volume that is gone."""
        with self._lock:
            self._known.pop(volume.image_id, None)
        if self.class_user(volume) is None:
            self._volumes.withdraw(volume)

    def class_user(self, volume: Volume) -> ClassUser | None:
        """The user of the volume's class, if it has one."""
        known = self._classes.all().get(volume.labels.get(metadata.CLASS, ""))
        return known.user if known is not None else None

    def _refuse_if_gone(self, volume: Volume) -> None:
        """Whoever deleted the volume since it was read, took its user away before we asked for it."""
        now = self._volumes.settle(volume.id)
        if now is None or now.image_id != volume.image_id:
            self._volumes.withdraw(volume)
            raise NotFound(f"volume {volume.id}")

    def _remember(self, image_id: str, grant: Grant) -> None:
        with self._lock:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[image_id] = _Remembered(grant, time.monotonic() + self._seconds)
