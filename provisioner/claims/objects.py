"""Reading claims, PersistentVolumes and classes: what the fields are called, and what is ours among them."""

from collections.abc import Mapping
from typing import Any

from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.ids import VolumeId, image_name
from provisioner.kube.resources import Object

DOMAIN = "ceph-provisioner.io"
CLAIM_FINALIZER = f"{DOMAIN}/image"
"""On a claim: something of ours may exist in Ceph that no PersistentVolume answers for yet."""
VOLUME_FINALIZER = f"{DOMAIN}/reclaim"
"""On a PersistentVolume: its reclaim policy has still to be honoured."""
VOLUME = f"{DOMAIN}/volume"
"""Annotation on both: the volume id."""
IMAGE_ID = f"{DOMAIN}/image-id"
"""Annotation on a PersistentVolume: Ceph's internal id of its image, so that a re-made name is not mistaken for it."""
USER = f"{DOMAIN}/user"
"""Annotation on a PersistentVolume: the cephx user that was made for it, and goes with it."""
SECRET = f"{DOMAIN}/secret"
"""Annotation on a PersistentVolume: `namespace/name` of the Secret that was made for it, and goes with it."""
CONNECTION = f"{DOMAIN}/connection"
"""Annotation on a PersistentVolume: the kind of connection that its store made, and that ends with it."""
CONTENT_SIZE = f"{DOMAIN}/content-size"
"""Annotation on a PersistentVolume just made: bytes of the smaller volume that it is a copy of, whose file system it holds."""
ADMIN_SECRET = f"{DOMAIN}/admin-secret"
"""Annotation on both: `user@namespace/name` of the credentials that the class brought, if any."""
CLONING = "provisioner.storage.kubernetes.io/cloning-protection"
"""Finalizer on a claim, shared with external-provisioner: its volume is being copied into another claim's."""
SNAPSHOT_SOURCE = "provisioner.storage.kubernetes.io/volumesnapshot-as-source-protection"
"""Finalizer on a VolumeSnapshot, shared with external-provisioner: a claim is being made from it."""
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_STORAGE_PROVISIONER = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def annotations(item: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's annotations, empty where it has none."""
    return item["metadata"].get("annotations") or {}


def finalizers(item: Mapping[str, Any]) -> list[str]:
    """The object's finalizers."""
    return item["metadata"].get("finalizers") or []


def is_being_deleted(item: Mapping[str, Any]) -> bool:
    """Tell whether somebody asked for the object to go."""
    return "deletionTimestamp" in item["metadata"]


def uid(item: Mapping[str, Any]) -> str:
    """The object's uid."""
    value: str = item["metadata"]["uid"]
    return value


def volume_name(claim: Object) -> str:
    """Name the claim's PersistentVolume and image: a pure function of its uid."""
    return f"pvc-{uid(claim)}"


def class_name(claim: Object) -> str:
    """Name the claim's StorageClass."""
    return annotations(claim).get(_CLASS_ANNOTATION) or claim["spec"].get("storageClassName") or ""


def asked_of(claim: Object) -> str:
    """Name the provisioner that Kubernetes wants to serve the claim; "" while it has not decided."""
    found = annotations(claim)
    return next((found[key] for key in _STORAGE_PROVISIONER if key in found), "")


def selected_node(claim: Object) -> str:
    """Name the node that the scheduler chose for the claim's first pod."""
    return annotations(claim).get(_SELECTED_NODE, "")


def waits_for_consumer(storage_class: Object) -> bool:
    """Tell whether volumes of the class are made only when a pod needs them."""
    return bool(storage_class.get("volumeBindingMode") == "WaitForFirstConsumer")


def is_bound(claim: Object) -> bool:
    """Tell whether the claim names its PersistentVolume."""
    return bool(claim["spec"].get("volumeName"))


def is_settled(claim: Object) -> bool:
    """Tell whether Kubernetes has finished binding the claim."""
    return is_bound(claim) and (claim.get("status") or {}).get("phase") == "Bound"


def is_bound_elsewhere(claim: Object) -> bool:
    """Tell whether the claim names a PersistentVolume that is not the one we would make for it."""
    return claim["spec"].get("volumeName", "") not in ("", volume_name(claim))


def volume_mode(claim: Object) -> str:
    """Filesystem or Block."""
    return claim["spec"].get("volumeMode") or "Filesystem"


def access_modes(claim: Object) -> list[str]:
    """The claim's access modes, as Kubernetes spells them."""
    return claim["spec"].get("accessModes") or []


def is_served_by(volume: Object, provisioner: str) -> bool:
    """Tell whether this provisioner made the PersistentVolume."""
    return annotations(volume).get(PROVISIONED_BY) == provisioner


def grown_by_hand(volume: Object) -> str:
    """The kind of a native PersistentVolume whose file system no kubelet can grow; "" for one that it can."""
    return next((kind for kind in ("iscsi", "fc") if kind in volume["spec"]), "")


def volume_id(volume: Object) -> VolumeId:
    """The id in a PersistentVolume's annotation. Raises InvalidRequest for one that names nothing: then it was edited."""
    said = annotations(volume).get(VOLUME, "")
    try:
        return VolumeId.parse(said)
    except NotFound as error:
        raise InvalidRequest(f"metadata.annotations[{VOLUME}]", said, "is no volume id") from error


def noted_target(claim: Object) -> VolumeId | None:
    """The image that the claim's annotation names, if that can be the claim's own.

    Whoever may edit claims writes annotations: one that names another claim's image must lead nowhere.
    """
    try:
        target = VolumeId.parse(annotations(claim).get(VOLUME, ""))
    except NotFound:
        return None
    return target if target.image == image_name(target.place, volume_name(claim)) else None


def claim_uid_of(volume: Object) -> str:
    """The uid of the claim that a PersistentVolume is bound or reserved to."""
    value: str = (volume["spec"].get("claimRef") or {}).get("uid", "")
    return value
