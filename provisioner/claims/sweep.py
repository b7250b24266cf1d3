"""At the start: images that a killed provisioner made for a claim that is gone by now, finalizer or not.

Only an image that was never handed out is taken away. One that was, and whose claim and PersistentVolume are gone, may have
been kept on purpose (policy Retain, a move to another Kubernetes): it is counted and named in the log, never touched.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from provisioner.claims.claim import Setting
from provisioner.claims.classes import Class, Classes
from provisioner.claims.outcomes import HANDLED
from provisioner.core.errors import NotFound
from provisioner.core.model import Credentials, Volume
from provisioner.core.volumes import Volumes
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object, Resource
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: images taken away, and orphans that it left alone."""

    removed: int
    orphans: int


class Sweeper:
    """Looks through the places of our classes."""

    def __init__(self, api: Api, volumes: Volumes, classes: Classes, setting: Setting) -> None:
        self._api, self._volumes, self._classes, self._setting = api, volumes, classes, setting

    def sweep(self, storage_classes: Iterable[Object]) -> Swept:
        """Sweep every place that one of the classes names; what can't be reached or removed is left for the next start."""
        removed = orphans = 0
        for storage_class in self._places(storage_classes):
            try:
                found = self._left_over(storage_class)
            except HANDLED as error:
                log.warning("sweeping %s: %s", storage_class.place, error)
                continue
            for volume in found:
                orphans += volume.published
                removed += not volume.published and self._removed(volume, storage_class)
        return Swept(removed, orphans)

    def _removed(self, volume: Volume, storage_class: Class) -> bool:
        try:
            self._volumes.abandon(volume.id, self._classes.credentials(storage_class.admin))
        except HANDLED as error:
            log.warning("%s was made for a claim that is gone, and can't be removed now: %s", volume.id, error)
            return False
        log.info("%s was made for a claim that is gone; taken away", volume.id)
        return True

    def _places(self, storage_classes: Iterable[Object]) -> list[Class]:
        found: dict[object, Class] = {}
        for raw in storage_classes:
            if raw.get("provisioner") != self._setting.provisioner:
                continue
            try:
                resolved = self._classes.resolve(raw)
            except HANDLED as error:
                log.warning("StorageClass %s: %s", raw["metadata"]["name"], error)
                continue
            for each in resolved.each_pool():
                found.setdefault((each.place, each.admin), each)
        return list(found.values())

    def _left_over(self, storage_class: Class) -> list[Volume]:
        credentials = self._classes.credentials(storage_class.admin)
        self._volumes.attend(storage_class.place, credentials)
        ours = [volume for volume in self._volumes.volumes(storage_class.place, credentials) if self._is_ours(volume)]
        # asked of the server itself, and after the images: what is on neither list now was there before its image
        known = {item["known"] for item in self._listed(PERSISTENT_VOLUME_CLAIMS) + self._listed(PERSISTENT_VOLUMES)}
        left = [volume for volume in ours if known.isdisjoint((volume.labels.get("claim-uid"), volume.name))]
        return [volume for volume in left if not volume.published or self._is_orphan(volume, credentials)]

    def _is_orphan(self, volume: Volume, credentials: Credentials | None) -> bool:
        """Look again: claim, PersistentVolume and image may all have gone since the image was listed."""
        try:
            self._volumes.get(volume.id, credentials)
        except NotFound:
            return False
        log.warning("%s was handed out, but no claim and no PersistentVolume knows it; kept", volume.id)
        return True

    def _is_ours(self, volume: Volume) -> bool:
        made_by = (volume.labels.get("provisioner"), volume.labels.get("kubernetes"))
        return made_by == (self._setting.provisioner, self._setting.kubernetes)

    def _listed(self, resource: Resource) -> list[Object]:
        return self._api.list_all(resource.path(), trim=_identity).items


def _identity(item: Object) -> Object:
    metadata = item["metadata"]
    return {"known": metadata["name"] if item.get("kind") == PERSISTENT_VOLUMES.kind else metadata["uid"]}
