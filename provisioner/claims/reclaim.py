"""The end of a PersistentVolume: what its reclaim policy says, in whatever order claim and volume were deleted.

Delete: image, user and Secret go, then the object. Retain: the image stays; when the object goes, so do its user and Secret.
"""

from enum import Enum

from provisioner.claims import finalizers, objects
from provisioner.claims.classes import Classes
from provisioner.claims.connected import Connected
from provisioner.claims.handout import Handouts
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.transport import Api


class End(Enum):
    """What is due to a PersistentVolume, were it nobody's any more."""

    NOT_YET = "it serves, or is kept"
    KEEP_IMAGE = "the object goes, with its user and Secret"
    DELETE_IMAGE = "everything goes"


def end_of(volume: Object) -> End:
    """Tell what the policy says of the volume as it is."""
    policy, leaving = volume["spec"].get("persistentVolumeReclaimPolicy"), objects.is_being_deleted(volume)
    released = (volume.get("status") or {}).get("phase") in ("Released", "Failed")
    if objects.VOLUME_FINALIZER not in objects.finalizers(volume) or not (leaving or released):
        return End.NOT_YET
    if policy == "Delete":
        return End.DELETE_IMAGE
    return End.KEEP_IMAGE if leaving else End.NOT_YET


class Reclaimer:
    """Brings one PersistentVolume of ours to its end when that has come."""

    def __init__(self, api: Api, volumes: Volumes, classes: Classes, handouts: Handouts, connected: Connected | None) -> None:
        self._api, self._volumes = api, volumes
        self._classes, self._handouts, self._connected = classes, handouts, connected

    def reconcile(self, volume: Object) -> None:
        """Do what the policy says if the volume is free. Raises the core's and Kubernetes' errors; safe to call again."""
        if end_of(volume) is End.NOT_YET:
            return
        fresh = self._as_it_is_now(volume)
        if fresh is None or (end := end_of(fresh)) is End.NOT_YET or self._is_claimed(fresh):
            return
        self._take_away(fresh, end)
        self._let_go(fresh)

    def _as_it_is_now(self, volume: Object) -> Object | None:
        """Ask the server itself: a cache may not have heard that somebody changed the policy to save the data."""
        try:
            found = self._api.get(_path(volume))
        except NotFound:
            return None
        return found if objects.uid(found) == objects.uid(volume) else None

    def _is_claimed(self, volume: Object) -> bool:
        """Tell whether the claim that the volume is reserved to is there, and didn't take another volume."""
        reference = volume["spec"].get("claimRef") or {}
        if not reference.get("uid"):
            return False
        try:
            claim = self._api.get(PERSISTENT_VOLUME_CLAIMS.path(reference["namespace"], reference["name"]))
        except NotFound:
            return False
        name = claim["spec"].get("volumeName") or volume["metadata"]["name"]
        return objects.uid(claim) == reference["uid"] and bool(name == volume["metadata"]["name"])

    def _take_away(self, volume: Object, end: End) -> None:
        target, noted = objects.volume_id(volume), objects.annotations(volume)
        credentials = self._classes.credentials(noted.get(objects.ADMIN_SECRET, ""))
        if end is End.DELETE_IMAGE:
            self._volumes.delete(target, credentials, noted.get(objects.IMAGE_ID, ""))
        elif self._connected and objects.CONNECTION in noted:
            self._connected.take_back(volume)
        if user := noted.get(objects.USER):
            self._volumes.revoke(target, user, credentials)
        if secret := noted.get(objects.SECRET):
            self._handouts.take_back_secret(secret)

    def _let_go(self, volume: Object) -> None:
        if not objects.is_being_deleted(volume):
            try:
                self._api.delete(_path(volume), {"preconditions": {"uid": objects.uid(volume)}})
            except NotFound:
                return
        finalizers.take_off(self._api, _path(volume), volume, objects.VOLUME_FINALIZER)


def _path(volume: Object) -> str:
    return PERSISTENT_VOLUMES.path(name=volume["metadata"]["name"])
