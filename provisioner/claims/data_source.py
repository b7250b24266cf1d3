"""Where a claim's first content comes from: the volume of another claim, or a snapshot that our CSI driver took.

What stands in the way is told before anything is made: a source that is another driver's, too large, of another volume mode,
in a namespace that grants nothing. What passes by itself (a source that is not bound or not ready yet) is `Unavailable`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from provisioner.claims import objects, request
from provisioner.claims.quantity import to_bytes
from provisioner.core import errors
from provisioner.core.errors import InvalidRequest, OutOfRange, Unavailable
from provisioner.core.ids import SnapshotId, VolumeId
from provisioner.core.model import Source
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import (
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    REFERENCE_GRANTS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Object,
)
from provisioner.kube.transport import Api

_MODE_MAY_CHANGE = "snapshot.storage.kubernetes.io/allow-volume-mode-change"


@dataclass(frozen=True, slots=True)
class Original:
    """What a claim is to be a copy of: a source as the core takes it, and its size in bytes."""

    source: Source
    size: int


class Originals:
    """Finds and checks the sources of claims, as the API server has them now."""

    def __init__(self, api: Api, provisioner: str, driver: str) -> None:
        """`driver` names the CSI driver whose snapshots and PersistentVolumes are ours too."""
        self._api, self._provisioner, self._driver = api, provisioner, driver

    def of(self, claim: Object) -> Original | None:
        """Give the claim's source, None for one that begins empty.

        Raises InvalidRequest naming the field, OutOfRange for a claim that is too small, NotFound, and Unavailable while the
        source is not ready.
        """
        reference = request.source_of(claim)
        if reference is None:
            return None
        self._refuse_without_grant(claim, reference)
        original = self._snapshot(claim, reference) if reference.is_snapshot else self._volume(claim, reference)
        asked = request.size_of(claim).required
        if asked < original.size:
            raise OutOfRange(request.STORAGE, asked, f"{reference} has {original.size} bytes")
        return original

    def _refuse_without_grant(self, claim: Object, reference: request.Reference) -> None:
        if reference.namespace == claim["metadata"]["namespace"]:
            return
        try:
            grants = self._api.list_all(REFERENCE_GRANTS.path(reference.namespace)).items
        except NotFound:
            grants = []  # a Kubernetes that doesn't know the kind
        if not is_granted(claim["metadata"]["namespace"], reference, grants):
            raise _refused(reference, f"no ReferenceGrant in namespace {reference.namespace} allows it")

    def _volume(self, claim: Object, reference: request.Reference) -> Original:
        source = self._read(PERSISTENT_VOLUME_CLAIMS.path(reference.namespace, reference.name), reference)
        if _is_leaving(source, objects.CLONING, claim):
            raise _refused(reference, "is being deleted")
        if not objects.is_settled(source):
            raise Unavailable(f"{reference} is not bound yet")
        if objects.volume_mode(source) != objects.volume_mode(claim):
            raise _refused(reference, f"has volumeMode {objects.volume_mode(source)}, and a clone can't have another one")
        volume = self._read(PERSISTENT_VOLUMES.path(name=source["spec"]["volumeName"]), reference)
        if objects.claim_uid_of(volume) != objects.uid(source):
            raise _refused(reference, "names a PersistentVolume that is another claim's")
        size = to_bytes("spec.capacity.storage", (volume["spec"].get("capacity") or {}).get("storage", "0"))
        return Original(self._id_of(volume, reference), size)

    def _id_of(self, volume: Object, reference: request.Reference) -> VolumeId:
        csi = volume["spec"].get("csi") or {}
        if objects.is_served_by(volume, self._provisioner):
            return objects.volume_id(volume)
        if csi.get("driver") == self._driver:
            return VolumeId.parse(csi.get("volumeHandle", ""))
        raise _refused(reference, "has a PersistentVolume that this provisioner did not make")

    def _snapshot(self, claim: Object, reference: request.Reference) -> Original:
        snapshot = self._read(VOLUME_SNAPSHOTS.path(reference.namespace, reference.name), reference)
        status = snapshot.get("status") or {}
        if _is_leaving(snapshot, objects.SNAPSHOT_SOURCE, claim):
            raise _refused(reference, "is being deleted")
        if not status.get("readyToUse") or not status.get("boundVolumeSnapshotContentName"):
            raise Unavailable(f"{reference} is not ready yet")
        content = self._read(VOLUME_SNAPSHOT_CONTENTS.path(name=status["boundVolumeSnapshotContentName"]), reference)
        if (content["spec"].get("volumeSnapshotRef") or {}).get("uid") != objects.uid(snapshot):
            raise _refused(reference, "names a VolumeSnapshotContent that is another snapshot's")
        if content["spec"].get("driver") != self._driver:
            raise _refused(reference, f"was taken by {content['spec'].get('driver')}, not by {self._driver}")
        _refuse_other_mode(claim, content, reference)
        restored = to_bytes("status.restoreSize", status.get("restoreSize") or "0")
        return Original(SnapshotId.parse((content.get("status") or {}).get("snapshotHandle", "")), restored)

    def _read(self, path: str, reference: request.Reference) -> Object:
        try:
            return self._api.get(path)
        except NotFound as error:
            raise errors.NotFound(f"{request.SOURCE}: {reference}") from error


def is_granted(namespace: str, reference: request.Reference, grants: Iterable[Object]) -> bool:
    """Tell whether one of the grants of the source's namespace lets claims of `namespace` use it."""
    return any(
        any(_is_from(namespace, each) for each in grant["spec"].get("from") or [])
        and any(_is_to(reference, each) for each in grant["spec"].get("to") or [])
        for grant in grants
        if grant["metadata"]["namespace"] == reference.namespace
    )


def _is_from(namespace: str, allowed: Object) -> bool:
    told = (allowed.get("group", ""), allowed.get("kind"), allowed.get("namespace"))
    return told == ("", PERSISTENT_VOLUME_CLAIMS.kind, namespace)


def _is_to(reference: request.Reference, allowed: Object) -> bool:
    kind = (allowed.get("group", ""), allowed.get("kind")) == (reference.group, reference.kind)
    return kind and (allowed.get("name") or reference.name) == reference.name


def _is_leaving(source: Object, protection: str, claim: Object) -> bool:
    """Tell whether the source is on its way out; not so for a claim on whose behalf it was already held."""
    held = protection in objects.finalizers(source) and objects.CLAIM_FINALIZER in objects.finalizers(claim)
    return objects.is_being_deleted(source) and not held


def _refuse_other_mode(claim: Object, content: Object, reference: request.Reference) -> None:
    mode = content["spec"].get("sourceVolumeMode")
    if mode in (None, objects.volume_mode(claim)) or objects.annotations(content).get(_MODE_MAY_CHANGE) == "true":
        return
    name = content["metadata"]["name"]
    raise _refused(
        reference,
        f"was taken of a volume with volumeMode {mode}; an administrator allows another one by the annotation "
        f"{_MODE_MAY_CHANGE} on VolumeSnapshotContent {name}",
    )


def _refused(reference: request.Reference, why: str) -> InvalidRequest:
    return InvalidRequest(request.SOURCE, reference, why)
