"""The user Secret of a PersistentVolume: made with it, named by it, gone with it.

By default the volume gets a cephx user of its own that opens nothing else; a class that brings a user (`userId`,
`userSecretName`) has that one used as it is, and it is never touched.

An encrypted volume whose key a KMS has bears that before anybody can be told of it, as over CSI: a clone that was never staged
would else have nothing but its source's key, which goes with the source.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace

from provisioner.claims.classes import Class, Classes
from provisioner.claims.objects import DOMAIN, volume_name
from provisioner.claims.sources import Handout
from provisioner.core.encryption import kept_by_kms
from provisioner.core.errors import InvalidRequest
from provisioner.core.keys import VolumeKeys
from provisioner.core.model import Credentials, Volume
from provisioner.core.parameters import SecretRef
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import AlreadyExists, NotFound
from provisioner.kube.resources import SECRETS, Object
from provisioner.kube.transport import Api

_MANAGED = {"app.kubernetes.io/managed-by": "ceph-provisioner"}


@dataclass(frozen=True, slots=True)
class Minted:
    """What was made for one volume, and has to go with it; both "" for a class that brings its user."""

    user: str = ""
    secret: str = ""
    """As `namespace/name`."""
    connection: str = ""
    """The kind of the connection that was made, for a volume that its store exports."""


class Handouts:
    """Makes and removes what nodes need to map volumes."""

    def __init__(self, api: Api, volumes: Volumes, classes: Classes, keys: VolumeKeys, namespace: str) -> None:
        """Secrets are made in `namespace`, where the people who make claims can't read them."""
        self._api, self._volumes, self._namespace = api, volumes, namespace
        self._classes, self._keys = classes, keys

    def check(self, storage_class: Class) -> None:
        """Raise InvalidRequest for a KMS that isn't known, before anything is made."""
        if (how := kept_by_kms(storage_class.parameters.on_nodes)) is not None:
            self._keys.check(how)

    def give(
        self, claim: Object, volume: Volume, storage_class: Class, credentials: Credentials | None, *, native: bool
    ) -> tuple[Handout, Minted]:
        """Hand the volume out, to kubelets or to a CSI node service; the same again each time."""
        if (how := kept_by_kms(storage_class.parameters.on_nodes)) is not None:
            sealed_with = self._classes.passphrase(storage_class)
            self._keys.provide(volume.id, replace(how, passphrase=sealed_with), credentials)
        given = storage_class.parameters.given_user
        if given is not None:
            monitors = self._volumes.monitors(volume.id.place.cluster, credentials)
            self._volumes.mark_published(volume, credentials)
            secret = SecretRef(given.secret.namespace or claim["metadata"]["namespace"], given.secret.name)
            return Handout(tuple(monitors), given.user, secret), Minted()
        grant = self._volumes.publish(volume, credentials)
        secret = SecretRef(self._namespace, secret_name(volume_name(claim)))
        self.write(secret, "kubernetes.io/rbd", _cephx(grant.credentials, native=native), volume)
        minted = Minted(grant.credentials.user, f"{secret.namespace}/{secret.name}")
        return Handout(tuple(grant.monitors), grant.credentials.user, secret), minted

    def take_back_secret(self, where: str) -> None:
        """Delete a Secret that was made here (`namespace/name`); gone already is fine."""
        namespace, _, name = where.partition("/")
        if namespace != self._namespace or not name.endswith((_SUFFIX, _CONNECTION)):
            raise InvalidRequest("Secret", where, "was not made by this provisioner")
        try:
            self._api.delete(SECRETS.path(namespace, name))
        except NotFound:
            return

    def secret_of(self, claim: Object, *, is_connected: bool = False) -> str:
        """Where the Secret of the claim's volume would lie, as `namespace/name`."""
        name = self.connection_secret(claim).name if is_connected else secret_name(volume_name(claim))
        return f"{self._namespace}/{name}"

    def connection_secret(self, claim: Object) -> SecretRef:
        """Where the Secret for a connection of the claim's volume lies, if it takes one."""
        return SecretRef(self._namespace, volume_name(claim) + _CONNECTION)

    def write(self, secret: SecretRef, kind: str, data: Mapping[str, str], volume: Volume) -> None:
        """Have a Secret of this type and with these entries; one that is there gets them, and loses others."""
        body = _secret(secret, kind, data, volume)
        try:
            self._api.create(SECRETS.path(secret.namespace), body)
        except AlreadyExists:
            path = SECRETS.path(secret.namespace, secret.name)
            self._api.patch(path, [{"op": "add", "path": "/data", "value": body["data"]}], "json")


_SUFFIX, _CONNECTION = "-cephx", "-connection"


def secret_name(volume: str) -> str:
    """Name the Secret of a PersistentVolume."""
    return volume + _SUFFIX


def _cephx(credentials: Credentials, *, native: bool) -> Mapping[str, str]:
    """What a CSI node reads, or the kubelet's rbd plugin: which takes any entry for the key, so that there must be one only."""
    return {"key": credentials.key} if native else {"userID": credentials.user, "userKey": credentials.key}


def _secret(secret: SecretRef, kind: str, data: Mapping[str, str], volume: Volume) -> Object:
    return SECRETS.body(
        {
            "namespace": secret.namespace,
            "name": secret.name,
            "labels": _MANAGED,
            "annotations": {f"{DOMAIN}/volume": str(volume.id)},
        },
        type=kind,
        data={name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    )
