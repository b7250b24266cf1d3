"""The story of one claim: from Pending to a saved PersistentVolume, or to nothing at all.

    pending ──finalizer──> image ──> user and Secret ──> PersistentVolume saved ──finalizer off──> Kubernetes binds
       │ deleted meanwhile: user, Secret and image go, then the finalizer

A claim with a source holds that too, right after its own finalizer, and lets go of it right before.

Each step may be the last before a crash: all of them find what they made before. The finalizer stands exactly while something
of ours may be in Ceph that no PersistentVolume answers for.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.claims import finalizers, objects, request
from provisioner.claims.classes import Class, Classes, refuse_other_cluster
from provisioner.claims.connected import Connected
from provisioner.claims.data_source import Original, Originals
from provisioner.claims.handout import Handouts
from provisioner.claims.nodes import Choice, Kubelets, choose
from provisioner.claims.outcomes import is_outcome_known
from provisioner.claims.protection import Protection
from provisioner.claims.reach import bind_to_nodes, selector
from provisioner.claims.selection import Selection
from provisioner.claims.volume import Maker, note_content
from provisioner.core.errors import AlreadyExists, InvalidRequest, OutOfSpace, ProvisionerError
from provisioner.core.ids import VolumeId, image_name
from provisioner.core.model import CreateRequest, Credentials, Volume
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import NotFound
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
        originals: Originals,
        kubelets: Kubelets,
        caches: Caches,
        recorder: Recorder,
        setting: Setting,
        on_saved: Callable[[Object], None],
        selection: Selection,
        connected: Connected | None = None,
    ) -> None:
        """`on_saved` hears of each claim whose PersistentVolume was just saved."""
        self._api, self._volumes, self._classes = api, volumes, classes
        self._handouts, self._maker, self._kubelets = handouts, maker, kubelets
        self._caches, self._recorder, self._setting = caches, recorder, setting
        self._originals, self._protection = originals, Protection(api, caches.claims, setting.provisioner)
        self._on_saved, self._selection, self._connected = on_saved, selection, connected

    def reconcile(self, claim: Object) -> None:
        """Do the next steps for the claim. Raises the core's and Kubernetes' errors; safe to call again at any time."""
        if objects.asked_of(claim) != self._setting.provisioner:
            return
        if objects.is_being_deleted(claim) or objects.is_bound_elsewhere(claim):
            self._abandon(claim)
            self._mind(claim)
        elif objects.is_bound(claim) or self._is_ours(self._caches.volumes.get(objects.volume_name(claim))):
            self._release(claim)
        elif (storage_class := self._class_of(claim)) is not None:
            self._provision(claim, storage_class)

    def sweep(self) -> None:
        """What a new leader makes up for: sources that are held for claims which are gone. Raises KubeError."""
        self._protection.sweep()

    def _is_ours(self, volume: Object | None) -> bool:
        """Tell whether the PersistentVolume of the claim's name answers for its image, whichever claim it is bound to by now."""
        return volume is not None and objects.is_served_by(volume, self._setting.provisioner)

    def _class_of(self, claim: Object) -> Object | None:
        """The claim's class, if it is for us to serve the claim now."""
        storage_class = self._caches.classes.get(objects.class_name(claim))
        if storage_class is None or storage_class.get("provisioner") != self._setting.provisioner:
            return None
        if request.is_populated_by_others(claim):
            return None
        if objects.waits_for_consumer(storage_class) and not objects.selected_node(claim):
            return None
        return storage_class

    def _provision(self, claim: Object, raw_class: Object) -> None:
        storage_class, choice = self._checked(claim, raw_class)
        credentials = self._classes.credentials(storage_class.admin)
        if storage_class.parameters.monitors:
            refuse_other_cluster(storage_class, self._volumes.monitors(storage_class.place.cluster, credentials))
        original = self._originals.of(claim)
        made = self._made_somewhere(claim, storage_class, credentials, original)
        if made is None:
            return
        held, storage_class, volume = made
        body = self._body(held, volume, storage_class, credentials, native=choice.native)
        if original is not None:
            note_content(body, volume, original.size)
        if storage_class.segments:
            bind_to_nodes(body, selector(dict(storage_class.segments), self._kubelets.labels()))
        self._maker.save(body)
        self._on_saved(held)
        self._release(held)
        told = f"made {volume.id} of {volume.size} bytes" + (f" from {original.source}" if original else "")
        self._recorder.event(held, "Normal", "ProvisioningSucceeded", told)

    def _body(
        self,
        claim: Object,
        volume: Volume,
        storage_class: Class,
        credentials: Credentials | None,
        *,
        native: bool,
    ) -> Object:
        """Hand the volume out, and give the PersistentVolume to save."""
        if storage_class.is_connected and self._connected:
            source, minted = self._connected.give(claim, volume, storage_class)
            return self._maker.body_with(source, claim, volume, storage_class, minted)
        handout, minted = self._handouts.give(claim, volume, storage_class, credentials, native=native)
        return self._maker.body(claim, volume, storage_class, handout, minted, native=native)

    def _checked(self, claim: Object, raw_class: Object) -> tuple[Class, Choice]:
        request.refuse_what_cannot_work(claim)
        request.size_of(claim)
        storage_class = self._classes.resolve(raw_class)
        self._handouts.check(storage_class)
        pv_type = storage_class.parameters.pv_type
        if storage_class.is_connected:  # which kubelets can mount it shows with the connection
            return storage_class, Choice(native=True)
        choice = choose(pv_type, [] if pv_type == "csi" else self._kubelets.versions())
        if choice.warning:
            self._recorder.event(claim, "Warning", "NotEveryNodeCanMount", choice.warning)
        return storage_class, choice

    def _made_somewhere(
        self, claim: Object, storage_class: Class, credentials: Credentials | None, original: Original | None
    ) -> tuple[Object, Class, Volume] | None:
        """The volume, with the claim that it is held by and the class as it was made by; None if the claim is gone.

        Of a class with several pools, each is noted on the claim before anything is made there, and the one before undone.
        """
        wanted = self._wanted(claim, storage_class, credentials, original)
        if not storage_class.parameters.pools:
            if (held := self._held(claim, storage_class)) is None:
                return None
            return held, storage_class, self._created(claim, held, wanted)
        pools = self._selection.pools(claim, storage_class, wanted)
        refusal = OutOfSpace("every pool")
        for pool in pools:
            held = self._held(claim, storage_class.with_pool(pool))
            if held is None:
                return None
            try:
                return held, storage_class.with_pool(pool), self._selection.create(wanted, storage_class, pool)
            except OutOfSpace as error:
                claim, refusal = held, error
        raise refusal

    def _held(self, claim: Object, storage_class: Class) -> Object | None:
        held = self._hold(claim, storage_class)
        if held is not None:
            self._protection.hold(held)
        return held

    def _created(self, claim: Object, held: Object, wanted: CreateRequest) -> Volume:
        try:
            return self._volumes.create(wanted)
        except ProvisionerError as error:
            if objects.CLAIM_FINALIZER not in objects.finalizers(claim) and is_outcome_known(error):
                self._release(held)  # an earlier try may have left something: then only a cleaning up lets the claim go
            raise

    def _wanted(
        self, claim: Object, storage_class: Class, credentials: Credentials | None, original: Original | None
    ) -> CreateRequest:
        name = claim["metadata"]["namespace"] + "/" + claim["metadata"]["name"]
        labels = {
            "provisioner": self._setting.provisioner,
            "kubernetes": self._setting.kubernetes,
            "claim": name,
            "claim-uid": objects.uid(claim),
            "class": storage_class.name,
        }
        return CreateRequest(
            objects.volume_name(claim),
            storage_class.place,
            storage_class.rounded(request.size_of(claim)),
            storage_class.parameters.layout,
            labels,
            credentials,
            original.source if original else None,
            qos=storage_class.parameters.qos,
        )

    def _hold(self, claim: Object, storage_class: Class) -> Object | None:
        """Put our finalizer on the claim, with what cleaning up takes without its class; None if the claim is gone."""
        target = VolumeId(storage_class.place, image_name(storage_class.place, objects.volume_name(claim)))
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
            "annotations": {key: value or None for key, value in wanted.items()},
        }
        try:
            return self._api.patch(_path(claim), {"metadata": metadata})
        except NotFound:
            return None

    def _release(self, claim: Object) -> None:
        if objects.CLAIM_FINALIZER in objects.finalizers(claim):
            self._protection.let_go(claim)
        finalizers.take_off(self._api, _path(claim), claim, objects.CLAIM_FINALIZER)

    def _abandon(self, claim: Object) -> None:
        """The claim goes its own way: without a PersistentVolume to answer for it, so does everything that was made for it."""
        if objects.CLAIM_FINALIZER not in objects.finalizers(claim):
            return
        if not self._is_saved(claim):
            self._forget(claim)
        self._release(claim)

    def _mind(self, claim: Object) -> None:
        if objects.is_being_deleted(claim):
            self._protection.mind(claim)

    def _is_saved(self, claim: Object) -> bool:
        try:
            return self._is_ours(self._api.get(PERSISTENT_VOLUMES.path(name=objects.volume_name(claim))))
        except NotFound:
            return False

    def _forget(self, claim: Object) -> None:
        """Undo what was made for the claim. Raises what may pass; what says that nothing of ours is there is the end of it."""
        target = objects.noted_target(claim)
        is_connected = target is not None and self._classes.is_cloud(target.place.cluster)
        self._handouts.take_back_secret(self._handouts.secret_of(claim, is_connected=is_connected))
        if target is None:
            return
        credentials = self._classes.credentials(objects.annotations(claim).get(objects.ADMIN_SECRET, ""))
        try:
            self._volumes.abandon(target, credentials)
        except AlreadyExists as error:
            log.warning("claim %s: %s; left alone", objects.uid(claim), error)
        except InvalidRequest as error:
            if error.field != "pool":
                raise
            log.warning("claim %s: %s; so there is nothing to remove", objects.uid(claim), error)


def _path(claim: Object) -> str:
    return PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"])
