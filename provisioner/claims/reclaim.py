"""The end of a PersistentVolume: what its reclaim policy says, in whatever order claim and volume were deleted.

Delete: image, user and Secret go, then the object. Retain: the image stays; when the object goes, so do its user and Secret.
"""

import logging

from provisioner.claims import objects
from provisioner.claims.classes import Classes
from provisioner.claims.handout import Handouts
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)


class Reclaimer:
    """Brings one PersistentVolume of ours to its end when that has come."""

    def __init__(self, api: Api, volumes: Volumes, classes: Classes, handouts: Handouts) -> None:
        self._api, self._volumes = api, volumes
        self._classes, self._handouts = classes, handouts

    def reconcile(self, volume: Object) -> None:
        """Do what the policy says if the volume is free. Raises the core's and Kubernetes' errors; safe to call again."""
        policy, leaving = volume["spec"].get("persistentVolumeReclaimPolicy"), objects.is_being_deleted(volume)
        released = (volume.get("status") or {}).get("phase") in ("Released", "Failed")
        if not (leaving or (released and policy == "Delete")):
            return
        if objects.VOLUME_FINALIZER not in objects.finalizers(volume) or self._is_claimed(volume):
            return
        if policy == "Delete":
            self._delete_image(volume)
        if policy == "Delete" or leaving:
            self._take_back(volume)
            self._let_go(volume, leaving=leaving)

    def _is_claimed(self, volume: Object) -> bool:
        """Ask the server itself: a cache may not have heard of a claim that was just made."""
        reference = volume["spec"].get("claimRef") or {}
        if not reference.get("uid"):
            return False
        try:
            claim = self._api.get(PERSISTENT_VOLUME_CLAIMS.path(reference["namespace"], reference["name"]))
        except NotFound:
            return False
        return objects.uid(claim) == objects.claim_uid_of(volume)

    def _delete_image(self, volume: Object) -> None:
        target, noted = objects.volume_id(volume), objects.annotations(volume)
        if target is not None:
            credentials = self._classes.credentials(noted.get(objects.ADMIN_SECRET, ""))
            self._volumes.delete(target, credentials, noted.get(objects.IMAGE_ID, ""))

    def _take_back(self, volume: Object) -> None:
        target, noted = objects.volume_id(volume), objects.annotations(volume)
        if (user := noted.get(objects.USER)) and target is not None:
            credentials = self._classes.credentials(noted.get(objects.ADMIN_SECRET, ""))
            self._volumes.revoke(target, user, credentials)
        if secret := noted.get(objects.SECRET):
            self._handouts.take_back_secret(secret)

    def _let_go(self, volume: Object, *, leaving: bool) -> None:
        path = PERSISTENT_VOLUMES.path(name=volume["metadata"]["name"])
        try:
            if not leaving:
                volume = self._api.delete(path, {"preconditions": {"uid": objects.uid(volume)}})
            rest = [name for name in objects.finalizers(volume) if name != objects.VOLUME_FINALIZER]
            version = volume["metadata"]["resourceVersion"]
            self._api.patch(path, {"metadata": {"finalizers": rest, "resourceVersion": version}})
        except NotFound:
            return
