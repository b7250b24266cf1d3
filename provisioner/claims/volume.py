"""The PersistentVolume that answers a claim: what stands in it, and saving it once."""

from collections.abc import Mapping

from provisioner.claims import objects
from provisioner.claims.classes import Class
from provisioner.claims.handout import Minted
from provisioner.claims.quantity import from_bytes
from provisioner.claims.sources import CsiSource, Handout, NativeSource
from provisioner.core.errors import AlreadyExists
from provisioner.core.model import Volume
from provisioner.kube.errors import AlreadyExists as NameTaken
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.transport import Api


class Maker:
    """Builds and saves PersistentVolumes of one provisioner."""

    def __init__(self, api: Api, provisioner: str, csi_driver: str) -> None:
        self._api, self._provisioner = api, provisioner
        self._native, self._csi = NativeSource(), CsiSource(csi_driver)

    def body(
        self, claim: Object, volume: Volume, storage_class: Class, handout: Handout, minted: Minted, *, native: bool
    ) -> Object:
        """The object to save. Its capacity is the image's real size."""
        block, modes = objects.volume_mode(claim) == "Block", objects.access_modes(claim)
        source = (self._native if native else self._csi).spec(
            volume, storage_class, handout, read_only=modes == ["ReadOnlyMany"], block=block
        )
        return self.body_with(source, claim, volume, storage_class, minted)

    def body_with(self, source: Object, claim: Object, volume: Volume, storage_class: Class, minted: Minted) -> Object:
        """The object to save, with a source that is built already."""
        block = objects.volume_mode(claim) == "Block"
        metadata = {
            "name": objects.volume_name(claim),
            "annotations": self._annotations(volume, storage_class, minted),
            "finalizers": [objects.VOLUME_FINALIZER],
        }
        return PERSISTENT_VOLUMES.body(
            metadata,
            spec={
                "capacity": {"storage": from_bytes(volume.size)},
                "accessModes": objects.access_modes(claim),
                "volumeMode": objects.volume_mode(claim),
                "persistentVolumeReclaimPolicy": storage_class.reclaim_policy,
                "storageClassName": storage_class.name,
                "claimRef": _reference(claim),
                **({"mountOptions": list(storage_class.mount_options)} if storage_class.mount_options and not block else {}),
                **source,
            },
        )

    def save(self, body: Object) -> None:
        """Save it; saved before for the same claim is fine. Raises AlreadyExists if the name is another claim's."""
        try:
            self._api.create(PERSISTENT_VOLUMES.path(), body)
        except NameTaken as error:
            name = body["metadata"]["name"]
            there = self._api.get(PERSISTENT_VOLUMES.path(name=name))
            if objects.claim_uid_of(there) != objects.claim_uid_of(body):
                raise AlreadyExists(f"PersistentVolume {name}", ["it belongs to another claim"]) from error

    def _annotations(self, volume: Volume, storage_class: Class, minted: Minted) -> Mapping[str, str]:
        noted = {
            objects.PROVISIONED_BY: self._provisioner,
            objects.VOLUME: str(volume.id),
            objects.IMAGE_ID: volume.image_id,
            objects.USER: minted.user,
            objects.SECRET: minted.secret,
            objects.CONNECTION: minted.connection,
            objects.ADMIN_SECRET: storage_class.admin,
        }
        return {key: value for key, value in noted.items() if value}


def note_content(body: Object, volume: Volume, content: int) -> None:
    """Note on a PersistentVolume to save that it is a copy of `content` bytes, if its node has to grow the file system."""
    if content < volume.size and body["spec"]["volumeMode"] != "Block" and not objects.grown_by_hand(body):
        body["metadata"]["annotations"] = {**body["metadata"]["annotations"], objects.CONTENT_SIZE: str(content)}


def _reference(claim: Object) -> Object:
    metadata = claim["metadata"]
    return {
        "apiVersion": PERSISTENT_VOLUME_CLAIMS.api_version,
        "kind": PERSISTENT_VOLUME_CLAIMS.kind,
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
