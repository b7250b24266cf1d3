"""The class files: which classes a runtime offers, read again whenever the file changes.

A file is YAML or JSON, a list as ceph-provider reads it; what stands behind the capabilities is ours:

    - name: fast
      capabilities: {tps: 262144000, iops: 15000}     # bytes and operations per second
      parameters: {dataPool: fast-data}               # of a StorageClass: how images are laid out
      user: {userID: volumes, keyFile: /keys/volumes} # one cephx user for the class instead of one per volume

A class of buckets may have `quota: {bytes: N, objects: N}` instead (radosgw), or `storageClass` and `additionalConfig` (claims).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import yaml

from provisioner.core.buckets import Quota
from provisioner.core.errors import InvalidRequest, Unavailable
from provisioner.core.model import Credentials, Layout
from provisioner.core.parameters import read_parameters
from provisioner.core.qos import Qos
from provisioner.watched import WatchedFile

_LAYOUT = ("dataPool", "imageFeatures", "objectSize", "stripeUnit", "stripeCount")
_LARGEST = (1 << 63) - 1


class Named(Protocol):
    """A class of volumes or of buckets."""

    @property
    def name(self) -> str:
        """Its name."""


C = TypeVar("C", bound=Named)
S = TypeVar("S", bound="Named")


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a class promises: `tps` in bytes per second, `iops` in operations per second. Zero promises nothing."""

    tps: int = 0
    iops: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How a class's promises bound its volumes: bursts of `factor` times them for `seconds`, for whoever was idle before."""

    factor: int = 10
    seconds: int = 15

    def of(self, promised: Capabilities) -> Qos:
        """What an image is throttled to."""
        return Qos.of_rates(promised.iops, promised.tps, self.factor, self.seconds)


class _Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int = 0
    objects: int = 0


class _BucketClass(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    capabilities: Capabilities = Capabilities()
    quota: _Quota = _Quota()
    storageClass: str = ""  # noqa: N815  as in an ObjectBucketClaim
    additionalConfig: dict[str, str] = {}  # noqa: N815


class _User(msgspec.Struct, forbid_unknown_fields=True):
    userID: str  # noqa: N815  as in a CSI Secret
    keyFile: str  # noqa: N815


class _VolumeClass(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    capabilities: Capabilities = Capabilities()
    parameters: dict[str, str] = {}
    user: _User | None = None


@dataclass(frozen=True, slots=True)
class ClassUser:
    """A cephx user that the operator made for all volumes of a class."""

    user: str
    key_file: Path

    def credentials(self) -> Credentials:
        """The user with its key as the file holds it now. Raises Unavailable if it can't be read."""
        try:
            key = self.key_file.read_text().strip()
        except OSError as error:
            raise Unavailable(f"the key of client.{self.user}: {self.key_file}: {error.strerror}") from error
        if not key:
            raise Unavailable(f"the key of client.{self.user}: {self.key_file} is empty")
        return Credentials(self.user, key)


@dataclass(frozen=True, slots=True)
class VolumeClass:
    """One class of volumes."""

    name: str
    capabilities: Capabilities
    layout: Layout
    user: ClassUser | None = None


@dataclass(frozen=True, slots=True)
class BucketClass:
    """One class of buckets. Quotas are radosgw's to keep; storage class and settings are those of an ObjectBucketClaim."""

    name: str
    capabilities: Capabilities
    quota: Quota
    storage_class: str
    settings: Mapping[str, str]


class ClassFile(Generic[C]):
    """The classes as the file has them now; thread-safe."""

    def __init__(self, path: Path, parse: Callable[[Path], Mapping[str, C]]) -> None:
        """Raises InvalidRequest for a file that can't be used."""
        self._file = WatchedFile(path, parse, lambda classes: f"classes {', '.join(classes)}")

    def all(self) -> Mapping[str, C]:
        """Today's classes by name, in the file's order."""
        return self._file.now()

    def choose(self, field: str, name: str) -> C:
        """The class of that name. Raises InvalidRequest, naming the request's `field`."""
        classes = self.all()
        if name not in classes:
            raise InvalidRequest(field, name, f"known classes: {', '.join(classes) or 'none'}")
        return classes[name]


def read_volume_classes(path: Path) -> dict[str, VolumeClass]:
    """Read a file of volume classes. Raises InvalidRequest with the file and the class at fault."""
    given = read_list(path, "--volume-classes", _VolumeClass)
    return unique(path, "--volume-classes", [_volume_class(path, each) for each in given])


def read_bucket_classes(path: Path) -> dict[str, BucketClass]:
    """Read a file of bucket classes. Raises InvalidRequest with the file and the class at fault."""
    option = "--bucket-classes"
    return unique(path, option, [_bucket_class(path, each) for each in read_list(path, option, _BucketClass)])


def read_list(path: Path, option: str, kind: type[S]) -> list[S]:
    """Read the file's list. Raises InvalidRequest with the file and the place in it."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), list[kind])  # type: ignore[valid-type]
    except OSError as error:
        raise InvalidRequest(option, path, error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidRequest(option, path, str(error)) from error


def unique(path: Path, option: str, classes: list[C]) -> dict[str, C]:
    """The classes by name. Raises InvalidRequest for a name that is empty or there twice."""
    named = {each.name: each for each in classes}
    if len(named) != len(classes) or "" in named:
        raise InvalidRequest(option, path, "each class needs a name of its own")
    return named


def check_capabilities(path: Path, option: str, name: str, promised: Capabilities) -> Capabilities:
    """Raise InvalidRequest for a promise that can't be told on the wire."""
    for field, value in (("tps", promised.tps), ("iops", promised.iops)):
        if not 0 <= value <= _LARGEST:
            raise InvalidRequest(f"{option}: {path}: {name}.capabilities.{field}", value, "must be between 0 and 2^63 - 1")
    return promised


def _volume_class(path: Path, given: _VolumeClass) -> VolumeClass:
    where = f"--volume-classes: {path}: {given.name}"
    for parameter, value in given.parameters.items():
        if parameter not in _LAYOUT:
            raise InvalidRequest(f"{where}.parameters.{parameter}", value, f"is none of {', '.join(_LAYOUT)}")
    try:
        layout = read_parameters({**given.parameters, "pvType": "csi"}).layout
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}.{error.field}", error.value, error.why) from error
    promised = check_capabilities(path, "--volume-classes", given.name, given.capabilities)
    user = ClassUser(given.user.userID.removeprefix("client."), Path(given.user.keyFile)) if given.user else None
    return VolumeClass(given.name, promised, layout, user)


def _bucket_class(path: Path, given: _BucketClass) -> BucketClass:
    promised = check_capabilities(path, "--bucket-classes", given.name, given.capabilities)
    for field, value in (("bytes", given.quota.bytes), ("objects", given.quota.objects)):
        if not 0 <= value <= _LARGEST:
            raise InvalidRequest(f"--bucket-classes: {path}: {given.name}.quota.{field}", value, "must not be negative")
    quota = Quota(given.quota.bytes, given.quota.objects)
    return BucketClass(given.name, promised, quota, given.storageClass, given.additionalConfig)
