"""Sources that are being copied must stay: a finalizer on the source claim or snapshot, for as long as a claim needs it.

The names are external-provisioner's, so that either of us minds the other's. A source is let go by the last claim that was
made from it. Who needs one is known from the claims that bear our own finalizer, and from memory what is too new for the cache.
"""

import threading

from provisioner.claims import finalizers, objects, request
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS, Object
from provisioner.kube.store import Store
from provisioner.kube.transport import Api

BY_SOURCE = "source"
"""The index of the claims' cache that finds the claims made from a source."""


def sources_of(claim: Object) -> list[str]:
    """Name the claim's source, for the index."""
    reference = request.source_of(claim)
    return [reference.key] if reference else []


class Protection:
    """Holds and lets go of the sources of one provisioner's claims."""

    def __init__(self, api: Api, claims: Store, provisioner: str) -> None:
        self._api, self._claims, self._provisioner = api, claims, provisioner
        self._lock = threading.Lock()
        self._active = set[str]()
        """Uids of the claims being made: a claim's finalizer takes a moment to reach the cache."""

    def hold(self, claim: Object) -> None:
        """Keep the claim's source where it is. Raises KubeError, Conflict if somebody wrote to the source meanwhile."""
        reference = request.source_of(claim)
        if reference is None:
            return
        with self._lock:
            self._active.add(objects.uid(claim))
            source = self._api.get(_path(reference))
            held = objects.finalizers(source)
            if _finalizer(reference) not in held:
                metadata = {key: source["metadata"][key] for key in ("uid", "resourceVersion")}
                body = {"metadata": {**metadata, "finalizers": [*held, _finalizer(reference)]}}
                self._api.patch(_path(reference), body)

    def let_go(self, claim: Object) -> None:
        """The claim needs its source no more; the source goes free if no other claim needs it. Gone already is fine."""
        reference = request.source_of(claim)
        if reference is None:
            return
        with self._lock:
            self._active.discard(objects.uid(claim))
            self._free(reference, but_for=objects.uid(claim))

    def mind(self, claim: Object) -> None:
        """A claim of ours that waits for its end only because it was a source once: let it go if nobody needs it."""
        if objects.CLONING not in objects.finalizers(claim):
            return
        with self._lock:
            self._free(request.reference_to(claim))

    def sweep(self) -> None:
        """Let snapshots go that no claim waits for any more, as after a claim that was removed by force. Raises KubeError."""
        try:
            snapshots = self._api.list_all(VOLUME_SNAPSHOTS.path()).items
        except NotFound:  # a Kubernetes that doesn't know the kind
            return
        for snapshot in snapshots:
            if objects.SNAPSHOT_SOURCE in objects.finalizers(snapshot):
                with self._lock:
                    self._sweep(request.reference_to(snapshot))

    def _sweep(self, reference: request.Reference) -> None:
        """The finalizer may be another provisioner's: whoever's claim waits for the snapshot, it stays."""
        if all(objects.is_settled(each) for each in self._claims.by_index(BY_SOURCE, reference.key)):
            self._free(reference)

    def _free(self, reference: request.Reference, but_for: str = "") -> None:
        made_from_it = self._claims.by_index(BY_SOURCE, reference.key)
        if any(self._is_being_made(each) for each in made_from_it if objects.uid(each) != but_for):
            return
        try:
            source = self._api.get(_path(reference))
        except NotFound:
            return
        finalizers.take_off(self._api, _path(reference), source, _finalizer(reference))

    def _is_being_made(self, claim: Object) -> bool:
        if objects.asked_of(claim) not in ("", self._provisioner):  # what others do with it shows in the end only
            return not objects.is_settled(claim)
        return objects.uid(claim) in self._active or objects.CLAIM_FINALIZER in objects.finalizers(claim)


def _path(reference: request.Reference) -> str:
    resource = VOLUME_SNAPSHOTS if reference.is_snapshot else PERSISTENT_VOLUME_CLAIMS
    return resource.path(reference.namespace, reference.name)


def _finalizer(reference: request.Reference) -> str:
    return objects.SNAPSHOT_SOURCE if reference.is_snapshot else objects.CLONING
