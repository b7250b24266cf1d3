"""From a StorageClass to a place in Ceph and the credentials to work there with."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from provisioner.ceph.cluster import ClusterConfig
from provisioner.cinder.offering import Offering
from provisioner.claims import cinder_class
from provisioner.core.choices import Reachable, reachable
from provisioner.core.encryption import PASSPHRASE
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, check_place
from provisioner.core.model import Credentials, SizeRange
from provisioner.core.parameters import ClassParameters, SecretRef, read_parameters
from provisioner.kube.errors import Forbidden, NotFound
from provisioner.kube.resources import SECRETS, Object
from provisioner.kube.transport import Api

_ADDRESS = re.compile(r"(?:v[12]:)?(?:\[(?P<bracketed>[^]]*)\]|(?P<plain>[^:/]+))(?::[0-9]+)?(?:/[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Class:
    """A StorageClass as the claims front end needs it."""

    name: str
    parameters: ClassParameters
    place: Place
    reclaim_policy: str
    mount_options: tuple[str, ...]
    segments: tuple[tuple[str, str], ...] = ()
    """From where it can be reached: pairs of domain label and value; none for everywhere."""
    allowed: tuple[Mapping[str, frozenset[str]], ...] = ()
    """`allowedTopologies`: values by node label, one of these has to hold; none for everywhere."""

    def each_pool(self) -> "list[Class]":
        """The class as it would be with one pool alone, for each of its pools; itself if it has but one."""
        return [self.with_pool(pool) for pool in self.pools()] if self.parameters.pools else [self]

    def pools(self) -> list[Reachable]:
        """Its pools, each with the segments that it can be reached from. Raises InvalidRequest for what can't be a pool."""
        return reachable(self.place, self.parameters.layout.data_pool, self.parameters.pools, dict(self.segments))

    def with_pool(self, pool: Reachable) -> "Class":
        """The class as it would be with this pool alone."""
        layout = replace(self.parameters.layout, data_pool=pool.candidate.data_pool)
        parameters = replace(self.parameters, layout=layout, pools=())
        return replace(self, place=pool.candidate.place, parameters=parameters, segments=tuple(pool.segments.items()))

    def rounded(self, size: SizeRange) -> SizeRange:
        """The size in the units of the class's backend. Raises OutOfRange where rounding goes over the limit."""
        layout = self.parameters.layout
        return layout.rounded(size) if isinstance(layout, Offering) else size

    @property
    def is_connected(self) -> bool:
        """Tell whether volumes of the class are reached through a connection that their store makes."""
        return isinstance(self.parameters.layout, Offering)

    @property
    def admin(self) -> str:
        """Where the class' own credentials lie, as `user@namespace/name`; "" for the cluster's."""
        secret = self.parameters.admin
        return f"{self.parameters.admin_user}@{secret.namespace}/{secret.name}" if secret else ""


class Classes:
    """Resolves classes against the config file and reads their credentials."""

    def __init__(
        self,
        api: Api,
        clusters: Callable[[], Mapping[str, ClusterConfig]],
        clouds: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._api, self._clusters, self._clouds = api, clusters, clouds

    def resolve(self, storage_class: Object) -> Class:
        """Check the class. Raises InvalidRequest with the parameter at fault."""
        parameters = self._parameters(storage_class.get("parameters") or {})
        place = check_place(self._place(parameters))
        cluster = self._clusters().get(place.cluster)
        found = Class(
            name=storage_class["metadata"]["name"],
            parameters=parameters,
            place=place,
            reclaim_policy=storage_class.get("reclaimPolicy") or "Delete",
            mount_options=tuple(storage_class.get("mountOptions") or ()),
            segments=cluster.segments if cluster else (),
            allowed=tuple(map(_allowed, storage_class.get("allowedTopologies") or ())),
        )
        found.pools()
        return found

    def is_cloud(self, cluster: str) -> bool:
        """Tell whether the name is a cloud's, whose volumes are connected."""
        return cluster in self._clouds()

    def _parameters(self, given: Mapping[str, str]) -> ClassParameters:
        clouds = self._clouds()
        if cinder_class.is_cinders(given, clouds, self._clusters()):
            return cinder_class.read(given, clouds)
        return read_parameters(given)

    def _place(self, parameters: ClassParameters) -> Place:
        cluster = parameters.cluster if self.is_cloud(parameters.cluster) else self._cluster(parameters)
        return Place(cluster, parameters.pool, parameters.namespace)

    def credentials(self, admin: str) -> Credentials | None:
        """Read the Secret that `Class.admin` names; None for the cluster's own credentials."""
        if not admin:
            return None
        user, _, where = admin.partition("@")
        namespace, _, name = where.partition("/")
        return read_credentials(self._api, SecretRef(namespace, name), user)

    def passphrase(self, storage_class: Class) -> str:
        """What some kinds of KMS seal keys with, as the provisioner's Secret has it; "" without a Secret."""
        secret = storage_class.parameters.admin
        return _decoded(*read_secret(self._api, secret), PASSPHRASE) if secret else ""

    def _cluster(self, parameters: ClassParameters) -> str:
        known = self._clusters()
        if parameters.cluster:
            if parameters.cluster not in known:
                raise InvalidRequest("parameters.clusterID", parameters.cluster, f"known clusters: {', '.join(sorted(known))}")
            return parameters.cluster
        if len(known) == 1:
            return next(iter(known))
        for name, config in known.items():
            if set(parameters.monitors) & set(config.monitors):
                return name
        if parameters.monitors:
            raise InvalidRequest(
                "parameters.monitors",
                ",".join(parameters.monitors),
                "are no cluster's `monitors` in the config file; set clusterID",
            )
        raise InvalidRequest("parameters.clusterID", "", f"must be one of {', '.join(sorted(known))}")


def _allowed(term: Object) -> dict[str, frozenset[str]]:
    return {each["key"]: frozenset(each["values"]) for each in term.get("matchLabelExpressions") or ()}


def refuse_other_cluster(storage_class: Class, monitors: Sequence[str]) -> None:
    """Raise InvalidRequest if the class' own list can't be of the cluster whose monitors these are.

    The image would be made in one cluster and looked for in another. Names are taken on trust: only their resolver knows.
    """
    given = storage_class.parameters.monitors
    hosts = [_host(monitor) for monitor in given]
    if all(hosts) and not set(hosts) & {_host(monitor) for monitor in monitors}:
        why = f"cluster {storage_class.place.cluster!r} has the monitors {', '.join(monitors)}; set clusterID"
        raise InvalidRequest("parameters.monitors", ",".join(given), why)


def _host(monitor: str) -> str:
    """The IP address in a monitor's address, "" if it has a name."""
    match = _ADDRESS.fullmatch(monitor)
    try:
        return str(ipaddress.ip_address(match["bracketed"] or match["plain"])) if match else ""
    except ValueError:
        return ""


def read_credentials(api: Api, secret: SecretRef, old_user: str) -> Credentials:
    """Read `userID` and `userKey` (ceph-csi) or `key` (ceph.com/rbd; the user is `old_user`) from a Secret."""
    where, data = read_secret(api, secret)
    user = _decoded(where, data, "userID").removeprefix("client.") or old_user
    key = _decoded(where, data, "userKey") or _decoded(where, data, "key")
    if not key:
        raise InvalidRequest("Secret", where, "has neither userKey nor key")
    return Credentials(user, key)


def read_secret(api: Api, secret: SecretRef) -> tuple[str, Mapping[str, str]]:
    """Give a Secret's `namespace/name`, and its data in base64. Raises InvalidRequest naming it if it can't be read."""
    where = f"{secret.namespace}/{secret.name}"
    try:
        return where, api.get(SECRETS.path(secret.namespace, secret.name)).get("data") or {}
    except NotFound as error:
        raise InvalidRequest("Secret", where, "does not exist") from error
    except Forbidden as error:
        raise InvalidRequest("Secret", where, "the provisioner's service account may not read it") from error


def _decoded(where: str, data: Mapping[str, str], key: str) -> str:
    try:
        return base64.b64decode(data.get(key, ""), validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidRequest("Secret", where, f"its {key} is not text in base64") from error
