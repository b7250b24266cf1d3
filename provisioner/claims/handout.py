"""The user Secret of a PersistentVolume: made with it, named by it, gone with it.

By default the volume gets a cephx user of its own that opens nothing else; a class that brings a user (`userId`,
`userSecretName`) has that one used as it is, and it is never touched.
"""

import base64
from dataclasses import dataclass

from provisioner.claims.classes import Class
from provisioner.claims.objects import DOMAIN, volume_name
from provisioner.claims.sources import Handout
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import Credentials, Grant, Volume
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


class Handouts:
    """Makes and removes what nodes need to map volumes."""

    def __init__(self, api: Api, volumes: Volumes, namespace: str) -> None:
        """Secrets are made in `namespace`, where the people who make claims can't read them."""
        self._api, self._volumes, self._namespace = api, volumes, namespace

    def give(
        self, claim: Object, volume: Volume, storage_class: Class, credentials: Credentials | None
    ) -> tuple[Handout, Minted]:
        """Hand the volume out; the same again each time."""
        given = storage_class.parameters.given_user
        if given is not None:
            monitors = self._volumes.monitors(volume.id.place.cluster, credentials)
            self._volumes.mark_published(volume, credentials)
            secret = SecretRef(given.secret.namespace or claim["metadata"]["namespace"], given.secret.name)
            return Handout(tuple(monitors), given.user, secret), Minted()
        grant = self._volumes.publish(volume, credentials)
        secret = SecretRef(self._namespace, secret_name(volume_name(claim)))
        self._write(secret, volume, grant)
        minted = Minted(grant.credentials.user, f"{secret.namespace}/{secret.name}")
        return Handout(tuple(grant.monitors), grant.credentials.user, secret), minted

    def take_back_secret(self, where: str) -> None:
        """Delete a Secret that was made here (`namespace/name`); gone already is fine."""
        namespace, _, name = where.partition("/")
        if namespace != self._namespace or not name.endswith(_SUFFIX):
            raise InvalidRequest("Secret", where, "was not made by this provisioner")
        try:
            self._api.delete(SECRETS.path(namespace, name))
        except NotFound:
            return

    def secret_of(self, claim: Object) -> str:
        """Where the Secret of the claim's volume would lie, as `namespace/name`."""
        return f"{self._namespace}/{secret_name(volume_name(claim))}"

    def _write(self, secret: SecretRef, volume: Volume, grant: Grant) -> None:
        body = _body(secret, volume, grant.credentials)
        try:
            self._api.create(SECRETS.path(secret.namespace), body)
        except AlreadyExists:
            path = SECRETS.path(secret.namespace, secret.name)
            self._api.patch(path, {"data": body["data"]})


_SUFFIX = "-cephx"


def secret_name(volume: str) -> str:
    """Name the Secret of a PersistentVolume."""
    return volume + _SUFFIX


def _body(secret: SecretRef, volume: Volume, credentials: Credentials) -> Object:
    """A Secret of the type that the kubelet's rbd plugin insists on; `userID` and `userKey` are what CSI nodes read."""
    data = {"key": credentials.key, "userID": credentials.user, "userKey": credentials.key}
    return SECRETS.body(
        {
            "namespace": secret.namespace,
            "name": secret.name,
            "labels": _MANAGED,
            "annotations": {f"{DOMAIN}/volume": str(volume.id)},
        },
        type="kubernetes.io/rbd",
        data={name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    )
