"""Buckets by ObjectBucketClaims: whoever answers them (Rook, say) makes the bucket, its owner and the Secret.

A claim is named as the bucket, so that a repeated request finds it; what the bucket's asker is to be told again stands in an
annotation. Lists come from a watch, and a Secret is read once for each state of its claim. A claim that is broken is an error
of its bucket, and no other's.
"""

import base64
import binascii
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from provisioner.core.buckets import Bucket, BucketAccess, BucketRequest, BucketState
from provisioner.core.errors import AlreadyExists, Denied, InvalidRequest, NotFound, Unavailable
from provisioner.kube import errors as kube
from provisioner.kube.reflector import Reflector
from provisioner.kube.resources import CONFIG_MAPS, SECRETS, Object, Resource
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)

CLAIMS = Resource("objectbucket.io", "v1alpha1", "objectbucketclaims", "ObjectBucketClaim", namespaced=True)
MANAGER = "ceph-provisioner.io/manager"
_OURS = "iri-buckets"
_LABELS = "ceph-provisioner.io/labels"
_PHASES = {"Bound": BucketState.AVAILABLE, "Failed": BucketState.FAILED}
_STALE = 60.0
"""Seconds without news after which a troubled watch answers for nothing any more."""


@dataclass(frozen=True, slots=True)
class Claiming:
    """How claims are made: in which namespace, of which StorageClass where a class names none, and what clients are told.

    `endpoint` is HOST[:PORT]; where it is empty, the claim's ConfigMap tells.
    """

    namespace: str
    storage_class: str = ""
    endpoint: str = ""


class ClaimedBuckets:
    """Implements `core.buckets.BucketStore`; thread-safe."""

    def __init__(self, api: Api, claiming: Claiming) -> None:
        self._api, self._claiming = api, claiming
        path, selectors = CLAIMS.path(claiming.namespace), {"labelSelector": f"{MANAGER}={_OURS}"}
        self._claims = Reflector(api, path, self._changed, selectors=selectors)
        self._accesses: dict[str, tuple[str, BucketAccess]] = {}
        self._deleted: set[str] = set()

    def start(self) -> None:
        """Begin to watch."""
        self._claims.start()

    def stop(self) -> None:
        """End the watch."""
        self._claims.stop()

    def unready(self) -> list[str]:
        """What keeps lists from being told."""
        return [] if self._claims.synced and not self._claims.trouble else [self._claims.trouble or "claims were not read yet"]

    def create(self, request: BucketRequest) -> Bucket:
        """Make the claim, or give the bucket of the one there is."""
        storage_class = request.storage_class or self._claiming.storage_class
        if not storage_class:
            raise InvalidRequest("bucket.spec.class", "", "neither the class nor --storage-class names a StorageClass")
        with _explained(f"claiming bucket {request.name}"):
            try:
                claim = self._api.create(CLAIMS.path(self._claiming.namespace), self._body(request, storage_class))
            except kube.AlreadyExists:
                claim = self._api.get(self._path(request.name))
        if claim["metadata"].get("labels", {}).get(MANAGER) != _OURS:
            raise AlreadyExists(f"bucket {request.name}", ["a claim of that name was not made here"])
        if claim["metadata"].get("deletionTimestamp"):
            raise Unavailable(f"the former bucket {request.name} is still being removed")
        return self._bucket(claim)

    def find(self, name: str) -> Bucket | None:
        """The bucket of that name, as the API server has its claim now."""
        claim = self._claim(name)
        return None if claim is None else self._bucket(claim)

    def all(self) -> Sequence[Bucket]:
        """Every bucket, as far as the watch knows; what was deleted here is not told any more."""
        if not self._claims.synced or (self._claims.trouble and self._claims.silent_for() > _STALE):
            raise Unavailable(f"ObjectBucketClaims: {self._claims.trouble or 'not read yet'}")
        return [self._bucket(claim) for claim in self._claims.store.items() if self._is_alive(claim)]

    def delete(self, name: str) -> None:
        """Delete the claim; whoever made the bucket removes it. NotFound."""
        claim = self._claim(name)
        if claim is None:
            raise NotFound(f"bucket {name}")
        uid = claim["metadata"]["uid"]
        with _explained(f"deleting bucket {name}"):
            try:
                self._api.delete(self._path(name), {"preconditions": {"uid": uid}})
            except kube.NotFound:
                raise NotFound(f"bucket {name}") from None
        self._deleted.add(uid)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            uid = old["metadata"]["uid"]
            self._deleted.discard(uid)
            self._accesses.pop(uid, None)

    def _claim(self, name: str) -> Object | None:
        with _explained(f"reading the claim of bucket {name}"):
            try:
                claim = self._api.get(self._path(name))
            except kube.NotFound:
                return None
        ours = claim["metadata"].get("labels", {}).get(MANAGER) == _OURS
        return claim if ours and self._is_alive(claim) else None

    def _is_alive(self, claim: Object) -> bool:
        return not claim["metadata"].get("deletionTimestamp") and claim["metadata"]["uid"] not in self._deleted

    def _path(self, name: str) -> str:
        return CLAIMS.path(self._claiming.namespace, name)

    def _body(self, request: BucketRequest, storage_class: str) -> Object:
        bounds = {"maxSize": request.quota.bytes, "maxObjects": request.quota.objects}
        settings = {key: str(value) for key, value in bounds.items() if value} | dict(request.settings)
        metadata = {
            "name": request.name,
            "labels": {MANAGER: _OURS},
            "annotations": {_LABELS: msgspec.json.encode(dict(request.labels), order="sorted").decode()},
        }
        spec = {"storageClassName": storage_class, "bucketName": request.name}
        return CLAIMS.body(metadata, spec=spec | ({"additionalConfig": settings} if settings else {}))

    def _bucket(self, claim: Object) -> Bucket:
        metadata, phase = claim["metadata"], (claim.get("status") or {}).get("phase", "")
        state, access, why = _PHASES.get(phase, BucketState.PENDING), None, ""
        if state is BucketState.FAILED:
            why = f"the claim is {phase}"
        elif state is BucketState.AVAILABLE:
            try:
                access = self._access(claim)
            except NotFound as error:
                state, why = BucketState.FAILED, str(error)
                log.warning("bucket %s: %s", metadata["name"], error)
        return Bucket(metadata["name"], _labels(claim), metadata["creationTimestamp"], state, access, why)

    def _access(self, claim: Object) -> BucketAccess:
        """The way to a bound claim's bucket, read again when the claim changed. NotFound if the claim left none."""
        uid, version = claim["metadata"]["uid"], claim["metadata"]["resourceVersion"]
        known = self._accesses.get(uid)
        if known is not None and known[0] == version:
            return known[1]
        access = BucketAccess(self._endpoint(claim), self._secrets(claim["metadata"]["name"]))
        self._accesses[uid] = (version, access)
        return access

    def _endpoint(self, claim: Object) -> str:
        bucket, name = claim["spec"].get("bucketName") or "", claim["metadata"]["name"]
        if self._claiming.endpoint and bucket:
            return f"{bucket}.{self._claiming.endpoint}"
        told = self._read(CONFIG_MAPS, name).get("data") or {}
        host, port = told.get("BUCKET_HOST", ""), told.get("BUCKET_PORT", "")
        if not host:
            raise NotFound(f"BUCKET_HOST in ConfigMap {name}")
        return f"{told.get('BUCKET_NAME') or bucket}.{self._claiming.endpoint or (f'{host}:{port}' if port else host)}"

    def _secrets(self, name: str) -> dict[str, bytes]:
        data = self._read(SECRETS, name).get("data") or {}
        try:
            secrets = {key: base64.b64decode(value) for key, value in data.items()}
        except (binascii.Error, ValueError):
            secrets = {}
        if not secrets:
            raise NotFound(f"data in Secret {name}")
        return secrets

    def _read(self, resource: Resource, name: str) -> Object:
        with _explained(f"reading {resource.kind} {name}"):
            try:
                return self._api.get(resource.path(self._claiming.namespace, name))
            except kube.NotFound:
                raise NotFound(f"{resource.kind} {name} of a bound claim") from None


class _Forbidden(Denied):
    """The API server does not let us."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.args = (what,)


def _labels(claim: Object) -> dict[str, str]:
    try:
        return msgspec.json.decode(claim["metadata"].get("annotations", {}).get(_LABELS, "{}"), type=dict[str, str])
    except msgspec.DecodeError:  # edited by hand
        return {}


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Raise the API server's refusals in the core's words."""
    try:
        yield
    except kube.Forbidden as error:
        raise _Forbidden(f"{doing}: {error}") from error
    except kube.Invalid as error:
        raise InvalidRequest("bucket", doing, str(error)) from error
    except kube.KubeError as error:
        raise Unavailable(f"{doing}: {error}") from error
