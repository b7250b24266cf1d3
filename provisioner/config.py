"""The config file: which clusters, clouds and KMS there are. Read once at the start, and again whenever it changes.

    clusters:
      dev: {conf: /etc/ceph/ceph.conf, user: provisioner, keyring: /etc/ceph/ceph.client.provisioner.keyring}
    clouds:
      openstack: {cloud: main, file: /etc/openstack/clouds.yaml}
    kms:
      safe: {encryptionKMSType: vault, vaultAddress: https://vault:8200, vaultRole: ceph-provisioner}

Errors name the file and the key. A file that turns bad while the program runs is reported, and the last good one stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml

from provisioner.ceph.cluster import ClusterConfig
from provisioner.cinder.cloud import INITIATOR, CloudConfig
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, check_place
from provisioner.kms.settings import KmsConfig, KmsSection
from provisioner.watched import WatchedFile


class _Cluster(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    conf: str = ""
    monitors: list[str] = []
    user: str = "provisioner"
    keyring: str = ""
    key_file: str = ""
    timeout: int = 15
    pools: tuple[str, ...] = ()
    segments: dict[str, str] = {}


class _Cloud(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    endpoint: str = ""
    user: str = "admin"
    project: str = "admin"
    cloud: str = ""
    file: str = ""
    region: str = ""
    timeout: int = 30
    patience: int = 60
    host: str = "ceph-provisioner"
    initiator: str = INITIATOR
    wwpns: tuple[str, ...] = ()
    multipath: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    clusters: dict[str, _Cluster] = {}
    clouds: dict[str, _Cloud] = {}
    kms: dict[str, KmsSection] = {}


@dataclass(frozen=True, slots=True)
class Known:
    """What the file says, checked."""

    clusters: dict[str, ClusterConfig]
    clouds: dict[str, CloudConfig] = field(default_factory=dict)
    kms: dict[str, KmsConfig] = field(default_factory=dict)


def parse(path: Path) -> dict[str, ClusterConfig]:
    """The clusters of the file."""
    return parse_all(path).clusters


def parse_all(path: Path) -> Known:
    """Read and check the file. Raises InvalidRequest with the file and the key at fault."""
    try:
        raw = yaml.safe_load(path.read_text())
        file = msgspec.convert(raw, _File)
    except OSError as error:
        raise InvalidRequest("--config", path, error.strerror or str(error)) from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise InvalidRequest("--config", path, str(error)) from error
    if not file.clusters and not file.clouds:
        raise InvalidRequest("--config", path, "clusters: names no cluster")
    if both := file.clusters.keys() & file.clouds.keys():
        raise InvalidRequest("--config", path, f"clouds.{min(both)}: is a cluster's name too, and both stand in volume ids")
    clouds = {name: _checked_cloud(path, name, cloud) for name, cloud in file.clouds.items()}
    kms = {name: section.checked(f"{path}: kms.{name}", name) for name, section in file.kms.items()}
    return Known({name: _checked(path, name, cluster) for name, cluster in file.clusters.items()}, clouds, kms)


def _checked(path: Path, name: str, given: _Cluster) -> ClusterConfig:
    key = f"{path}: clusters.{name}"
    if not name or "/" in name or "@" in name:
        raise InvalidRequest(key, name, "a cluster's name must not be empty nor hold '/' or '@'")
    if not given.conf and not given.monitors:
        raise InvalidRequest(key, "", "needs conf or monitors")
    if given.keyring and given.key_file:
        raise InvalidRequest(f"{key}.keyFile", given.key_file, "is given beside keyring: keep one")
    if not 1 <= given.timeout <= 600:
        raise InvalidRequest(f"{key}.timeout", given.timeout, "must be between 1 and 600 seconds")
    user = given.user.removeprefix("client.")
    return ClusterConfig(
        name,
        given.conf,
        tuple(given.monitors),
        user,
        given.keyring,
        given.key_file,
        given.timeout,
        tuple(_pool(key, name, pool) for pool in given.pools),
        tuple(sorted(given.segments.items())),
    )


def _checked_cloud(path: Path, name: str, given: _Cloud) -> CloudConfig:
    key = f"{path}: clouds.{name}"
    if not name or "/" in name or "@" in name:
        raise InvalidRequest(key, name, "a cloud's name must not be empty nor hold '/' or '@'")
    if given.endpoint and (given.cloud or given.file):
        raise InvalidRequest(f"{key}.endpoint", given.endpoint, "is of a Cinder without Keystone: keep it, or cloud and file")
    for part in ("timeout", "patience"):
        if not 1 <= getattr(given, part) <= 600:
            raise InvalidRequest(f"{key}.{part}", getattr(given, part), "must be between 1 and 600 seconds")
    return CloudConfig(name, **msgspec.structs.asdict(given))


def _pool(key: str, cluster: str, text: str) -> str:
    """Check a `pool` or `pool/namespace`."""
    pool, _, namespace = text.partition("/")
    try:
        check_place(Place(cluster, pool, namespace))
    except InvalidRequest as error:
        raise InvalidRequest(f"{key}.pools", text, error.why) from error
    return text


class ConfigFile:
    """The file as it is now; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest for a file that can't be used."""
        self._file = WatchedFile(path, parse_all, _names)

    def clusters(self) -> Mapping[str, ClusterConfig]:
        """Today's clusters by name."""
        return self._file.now().clusters

    def clouds(self) -> Mapping[str, CloudConfig]:
        """Today's clouds by name."""
        return self._file.now().clouds

    def kms(self) -> Mapping[str, KmsConfig]:
        """Today's KMS by name."""
        return self._file.now().kms


def _names(known: Known) -> str:
    return f"clusters {', '.join(sorted(known.clusters | known.clouds))}"
