"""Growing a bound claim's native volume: image, PersistentVolume, then what the claim says of itself.

A copy that is larger than its original holds the original's file system: the claim says so, and its node grows that too.

The order is that of Kubernetes' own resizers: capacity is never promised before it is there. A block volume is done when the
image has grown; a file system is grown by the kubelet, which the claim's condition FileSystemResizePending asks for.
"""

from enum import Enum

from provisioner.claims import objects, request
from provisioner.claims.classes import Classes
from provisioner.claims.quantity import from_bytes, to_bytes
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import NotFound
from provisioner.kube.events import Recorder
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.store import Store
from provisioner.kube.times import now_seconds
from provisioner.kube.transport import Api

_RESIZING, _FS_PENDING = "Resizing", "FileSystemResizePending"


class Step(Enum):
    """What is due to a bound claim's size."""

    NOTHING = "it has what it asks for, or its node has to act"
    GROW = "the image and the PersistentVolume are too small"
    TELL = "the volume has grown, and the claim does not say so"


def next_step(claim: Object, volume: Object) -> Step:
    """Compare what the claim requests, what it says that it has, and what the PersistentVolume has."""
    wanted, has = request.requested_bytes(claim), _capacity(volume["spec"])
    if not is_short(claim):
        return Step.NOTHING
    if wanted > has:
        return Step.GROW
    return Step.NOTHING if _waits_for_node(claim) else Step.TELL


def is_short(claim: Object) -> bool:
    """Tell whether the claim requests more than it says that it has; one that says nothing yet is just being bound."""
    tells = _capacity(claim.get("status") or {})
    return 0 < tells < request.requested_bytes(claim)


class Resizer:
    """Brings the size of one bound claim's volume to what the claim requests."""

    def __init__(
        self, api: Api, volumes: Volumes, classes: Classes, cached_volumes: Store, recorder: Recorder, provisioner: str
    ) -> None:
        self._api, self._volumes, self._classes = api, volumes, classes
        self._cached, self._recorder, self._provisioner = cached_volumes, recorder, provisioner

    def reconcile(self, claim: Object) -> None:
        """Grow what is too small. Raises the core's and Kubernetes' errors; safe to call again."""
        if objects.is_being_deleted(claim) or not objects.is_bound(claim):
            return
        self._tell_content(claim)
        if not is_short(claim):
            return
        volume = self._volume_of(claim)
        if volume is None or not self._is_ours_to_grow(claim, volume):
            return
        step = next_step(claim, volume)
        if step is Step.GROW:
            volume = self._grow(claim, volume)
        if step is not Step.NOTHING:
            self._tell(claim, volume)

    def _tell_content(self, claim: Object) -> None:
        """Have the claim say that it has the size of its original, once: Kubernetes lets a bound claim's word stand."""
        volume = self._cached.get(claim["spec"]["volumeName"])
        if volume is None or objects.claim_uid_of(volume) != objects.uid(claim) or not objects.is_settled(claim):
            return
        content = objects.annotations(volume).get(objects.CONTENT_SIZE, "")
        if not content.isdecimal() or not objects.is_served_by(volume, self._provisioner):
            return
        self._write(claim, {"capacity": {"storage": from_bytes(int(content))}, "conditions": [*_others(claim), _pending()]})
        noted = {"metadata": {"annotations": {objects.CONTENT_SIZE: None}}}
        self._api.patch(PERSISTENT_VOLUMES.path(name=volume["metadata"]["name"]), noted)

    def _volume_of(self, claim: Object) -> Object | None:
        """Ask the server itself: should a cache not have the volume yet, nobody would look at this claim again."""
        name = claim["spec"]["volumeName"]
        known = self._cached.get(name)
        if known is not None and not self._is_ours_to_grow(claim, known):
            return None
        try:
            return self._api.get(PERSISTENT_VOLUMES.path(name=name))
        except NotFound:
            return None

    def _is_ours_to_grow(self, claim: Object, volume: Object) -> bool:
        native = any(source in volume["spec"] for source in ("rbd", "iscsi", "fc"))
        bound = objects.claim_uid_of(volume) == objects.uid(claim)
        return native and bound and objects.is_served_by(volume, self._provisioner)

    def _grow(self, claim: Object, volume: Object) -> Object:
        target, wanted = objects.volume_id(volume), request.size_of(claim)
        self._recorder.event(claim, "Normal", "Resizing", f"growing {target} to {wanted.required} bytes")
        credentials = self._classes.credentials(objects.annotations(volume).get(objects.ADMIN_SECRET, ""))
        grown = self._volumes.expand(target, wanted, credentials)
        body = {"spec": {"capacity": {"storage": from_bytes(grown.size)}}}
        return self._api.patch(PERSISTENT_VOLUMES.path(name=volume["metadata"]["name"]), body)

    def _tell(self, claim: Object, volume: Object) -> None:
        size, others = _capacity(volume["spec"]), _others(claim)
        done: Object = {"capacity": {"storage": from_bytes(size)}, "conditions": others}
        if objects.volume_mode(claim) == "Block":
            self._recorder.event(claim, "Normal", "VolumeResizeSuccessful", f"the volume has {size} bytes")
        elif kind := objects.grown_by_hand(volume):
            told = f"the volume has {size} bytes; no kubelet grows a file system over {kind}: rescan and grow it on its node"
            self._recorder.event(claim, "Warning", "FileSystemResizeRequired", told)
        else:
            done = {"conditions": [*others, _pending()]}
            told = f"the image has {size} bytes; the node grows its file system"
            self._recorder.event(claim, "Normal", "FileSystemResizeRequired", told)
        self._write(claim, done)

    def _write(self, claim: Object, status: Object) -> None:
        path = PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"], "status")
        self._api.patch(path, {"metadata": {"resourceVersion": claim["metadata"]["resourceVersion"]}, "status": status})


def _others(claim: Object) -> list[Object]:
    """The claim's conditions that are not about its size."""
    return [c for c in (claim.get("status") or {}).get("conditions") or [] if c["type"] not in (_RESIZING, _FS_PENDING)]


def _pending() -> Object:
    return {
        "type": _FS_PENDING,
        "status": "True",
        "lastTransitionTime": now_seconds(),
        "message": "Waiting for a pod to use the volume, so that its node grows the file system.",
    }


def _waits_for_node(claim: Object) -> bool:
    conditions = (claim.get("status") or {}).get("conditions") or []
    return objects.volume_mode(claim) != "Block" and any(condition["type"] == _FS_PENDING for condition in conditions)


def _capacity(part: Object) -> int:
    return to_bytes("capacity.storage", (part.get("capacity") or {}).get("storage", "0"))
