"""The story of one claim: from Pending to a saved PersistentVolume, or to nothing at all.

    pending ──finalizer──> image ──> user and Secret ──> PersistentVolume saved ──finalizer off──> Kubernetes binds
       │ deleted meanwhile: user, Secret and image go, then the finalizer

Each step may be the last before a crash: all of them find what they made before. The finalizer stands exactly while something
of ours may be in Ceph that no PersistentVolume answers for.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.claims import objects
from provisioner.claims.classes import Class, Classes
from provisioner.claims.handout import Handouts
from provisioner.claims.nodes import Choice, Kubelets, choose
from provisioner.claims.outcomes import is_outcome_known
from provisioner.claims.quantity import to_bytes
from provisioner.claims.volume import Maker
from provisioner.core.errors import InvalidRequest, ProvisionerError, Unsupported
from provisioner.core.ids import VolumeId, image_name
from provisioner.core.model import CreateRequest, Credentials, SizeRange, Volume
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import Invalid, NotFound
from provisioner.kube.events import Recorder
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object
from provisioner.kube.store import Store
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setting:
    """Who we are in this Kubernetes."""

    provisioner: str
    kubernetes: str
    """The uid of the kube-system namespace: tells clusters apart that share a Ceph."""


@dataclass(frozen=True, slots=True)
class Caches:
    """What the reflectors keep."""

    claims: Store
    volumes: Store
    classes: Store


class Provisioner:
    """Brings one claim to where it should be."""

    def __init__(
        self,
        api: Api,
        volumes: Volumes,
        classes: Classes,
        handouts: Handouts,
        maker: Maker,
        kubelets: Kubelets,
        caches: Caches,
        recorder: Recorder,
        setting: Setting,
        on_saved: Callable[[Object], None],
    ) -> None:
        """`on_saved` hears of each claim whose PersistentVolume was just saved."""
        self._api, self._volumes, self._classes = api, volumes, classes
        self._handouts, self._maker, self._kubelets = handouts, maker, kubelets
        self._caches, self._recorder, self._setting = caches, recorder, setting
        self._on_saved = on_saved

    def reconcile(self, claim: Object) -> None:
        """Do the next steps for the claim. Raises the core's and Kubernetes' errors; safe to call again at any time."""
        if objects.is_being_deleted(claim):
            self._abandon(claim)
        elif objects.is_bound(claim) or self._caches.volumes.get(objects.volume_name(claim)):
            self._release(claim)
        elif (storage_class := self._class_of(claim)) is not None:
            self._provision(claim, storage_class)

    def _class_of(self, claim: Object) -> Object | None:
        """The claim's class, if it is for us to serve the claim now."""
        storage_class = self._caches.classes.get(objects.class_name(claim))
        if storage_class is None or storage_class.get("provisioner") != self._setting.provisioner:
            return None
        if objects.asked_of(claim) != self._setting.provisioner:
            return None
        if objects.waits_for_consumer(storage_class) and not objects.selected_node(claim):
            return None
        return storage_class

    def _provision(self, claim: Object, raw_class: Object) -> None:
        storage_class, choice = self._checked(claim, raw_class)
        target = VolumeId(storage_class.place, image_name(storage_class.place, objects.volume_name(claim)))
        credentials = self._classes.credentials(storage_class.admin)
        claim = self._hold(claim, storage_class, target)
        volume = self._made(claim, storage_class, credentials)
        handout, minted = self._handouts.give(claim, volume, storage_class, credentials)
        body = self._maker.body(claim, volume, storage_class, handout, minted, native=choice.native)
        self._maker.save(body)
        self._on_saved(claim)
        self._release(claim)
        self._recorder.event(claim, "Normal", "ProvisioningSucceeded", f"made {volume.id} of {volume.size} bytes")

    def _checked(self, claim: Object, raw_class: Object) -> tuple[Class, Choice]:
        refuse_what_cannot_work(claim)
        storage_class = self._classes.resolve(raw_class)
        pv_type = storage_class.parameters.pv_type
        choice = choose(pv_type, [] if pv_type == "csi" else self._kubelets.versions())
        if choice.warning:
            self._recorder.event(claim, "Warning", "NotEveryNodeCanMount", choice.warning)
        size_of(claim).choose()
        return storage_class, choice

    def _made(self, claim: Object, storage_class: Class, credentials: Credentials | None) -> Volume:
        name = claim["metadata"]["namespace"] + "/" + claim["metadata"]["name"]
        labels = {
            "provisioner": self._setting.provisioner,
            "kubernetes": self._setting.kubernetes,
            "claim": name,
            "claim-uid": objects.uid(claim),
            "class": storage_class.name,
        }
        request = CreateRequest(
            objects.volume_name(claim),
            storage_class.place,
            size_of(claim),
            storage_class.parameters.layout,
            labels,
            credentials,
        )
        try:
            return self._volumes.create(request)
        except ProvisionerError as error:
            if is_outcome_known(error):
                self._release(claim)
            raise

    def _hold(self, claim: Object, storage_class: Class, target: VolumeId) -> Object:
        """Put our finalizer on the claim, with what it takes to clean up should its class be gone by then."""
        noted = objects.annotations(claim)
        if noted.get(objects.VOLUME, str(target)) != str(target):
            self._forget(claim)
        wanted = {objects.VOLUME: str(target), objects.ADMIN_SECRET: storage_class.admin}
        held = objects.CLAIM_FINALIZER in objects.finalizers(claim)
        if held and all(noted.get(key, "") == value for key, value in wanted.items()):
            return claim
        self._recorder.event(claim, "Normal", "Provisioning", f"making {target}")
        metadata = {
            "uid": objects.uid(claim),
            "resourceVersion": claim["metadata"]["resourceVersion"],
            "finalizers": sorted({*objects.finalizers(claim), objects.CLAIM_FINALIZER}),
            "annotations": {key: value for key, value in wanted.items() if value},
        }
        return self._api.patch(_path(claim), {"metadata": metadata})

    def _release(self, claim: Object) -> None:
        """Take our finalizer off: by position, tested in the same step, so that no newer version of the claim matters."""
        while objects.CLAIM_FINALIZER in (held := objects.finalizers(claim)):
            at = f"/metadata/finalizers/{held.index(objects.CLAIM_FINALIZER)}"
            steps = [{"op": "test", "path": at, "value": objects.CLAIM_FINALIZER}, {"op": "remove", "path": at}]
            try:
                claim = self._api.patch(_path(claim), steps, "json")
            except Invalid:
                claim = self._api.get(_path(claim))
            except NotFound:
                return

    def _abandon(self, claim: Object) -> None:
        """The claim goes: without a PersistentVolume to answer for it, so does everything that was made for it."""
        if objects.CLAIM_FINALIZER not in objects.finalizers(claim):
            return
        if not self._is_saved(claim):
            self._forget(claim)
        self._release(claim)

    def _is_saved(self, claim: Object) -> bool:
        try:
            found = self._api.get(PERSISTENT_VOLUMES.path(name=objects.volume_name(claim)))
        except NotFound:
            return False
        return objects.claim_uid_of(found) == objects.uid(claim)

    def _forget(self, claim: Object) -> None:
        target = objects.volume_id(claim)
        self._handouts.take_back_secret(self._handouts.secret_of(claim))
        if target is not None:
            credentials = self._classes.credentials(objects.annotations(claim).get(objects.ADMIN_SECRET, ""))
            self._volumes.abandon(target, credentials)


def refuse_what_cannot_work(claim: Object) -> None:
    """Raise InvalidRequest or Unsupported for a claim that no class could serve."""
    spec = claim["spec"]
    if spec.get("selector"):
        raise InvalidRequest("spec.selector", spec["selector"], "a volume made for a claim can't be selected by labels")
    source = spec.get("dataSourceRef") or spec.get("dataSource")
    if source:
        name = f"{source.get('kind')}/{source.get('name')}"
        raise Unsupported(f"spec.dataSource {name!r}: making a volume from another one is not supported yet")
    modes, block = objects.access_modes(claim), objects.volume_mode(claim) == "Block"
    if "ReadWriteMany" in modes and not block:
        raise InvalidRequest(
            "spec.accessModes", ",".join(modes), "ReadWriteMany needs volumeMode Block: no file system on RBD has two writers"
        )


def size_of(claim: Object) -> SizeRange:
    """What the claim requests, and limits, in bytes. Raises InvalidRequest naming the field."""
    resources = claim["spec"].get("resources") or {}
    required = (resources.get("requests") or {}).get("storage", "0")
    limit = (resources.get("limits") or {}).get("storage", "0")
    return SizeRange(to_bytes("spec.resources.requests.storage", required), to_bytes("spec.resources.limits.storage", limit))


def _path(claim: Object) -> str:
    return PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"])
