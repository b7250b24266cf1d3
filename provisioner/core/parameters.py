"""The parameters of a StorageClass: one schema, two predecessors' names for it, and no silent typo.

Names follow ceph-csi where the meaning is the same; those of `ceph.com/rbd` classes are aliases, so that an old class only
changes its `provisioner:`. Like there, case does not matter. What can't be honoured is refused by name, with the reason.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from provisioner.core import encryption, mapping, qos, topology
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import FEATURES, Layout
from provisioner.core.qos import Qos
from provisioner.core.topology import ConstrainedPool

PvType = Literal["native", "csi", "auto"]
FS_TYPES = ("ext4", "ext3", "xfs", "btrfs")

MOUNTERS = ("rbd", "rbd-nbd", "fuse", "auto")

_SECRETS = (
    *("provisioner", "controller-expand", "controller-publish", "controller-modify"),
    *("node-stage", "node-publish", "node-expand"),
)
_KNOWN = (
    *("clusterID", "pool", "dataPool", "radosNamespace", "imageFeatures", "stripeUnit", "stripeCount", "objectSize"),
    *("pvType", "csi.storage.k8s.io/fstype", "mkfsOptions", "mapOptions", "unmapOptions", "mounter", "tryOtherMounters"),
    *("encrypted", "encryptionType", *encryption.PARAMETERS, "thickProvision"),
    *(f"csi.storage.k8s.io/{use}-secret-{part}" for use in _SECRETS for part in ("name", "namespace")),
    *("monitors", "adminId", "adminSecretName", "adminSecretNamespace"),
    *("userId", "userSecretName", "userSecretNamespace", "imageFormat"),
    *(topology.PARAMETER, *qos.NAMES),
)
_ALIASES = {"fstype": "csi.storage.k8s.io/fstype"}
_ON_NODES = ("mkfsOptions", "mapOptions", "unmapOptions", "mounter")
"""What a CSI node does with a volume; the kubelet's own rbd plugin knows none of them."""
_REFUSED = {
    "volumeNamePrefix": "an image is named as its PersistentVolume, so that a repeated request finds it",
    "cephLogDir": "no node keeps logs of librbd of its own; the host's ceph.conf says where they go",
    "cephLogStrategy": "no node keeps logs of librbd of its own; the host's ceph.conf says where they go",
    "snapshotNamePrefix": "belongs in a VolumeSnapshotClass",
    "flattenMode": "belongs in a VolumeReplicationClass",
}
_SPELLED = {name.lower(): name for name in _KNOWN} | _ALIASES
_REFUSED_LOWER = {name.lower(): why for name, why in _REFUSED.items()}
_NOT_TRUE = {
    "thickProvision": "images are thin; Ceph has no thick ones",
}
"""Switches that can be off only."""


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a Kubernetes Secret lies."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class GivenUser:
    """A cephx user that the class brings itself, for whoever maps the volume; "" as namespace is the claim's."""

    user: str
    secret: SecretRef


@dataclass(frozen=True, slots=True)
class ClassParameters:
    """What a StorageClass asks for, checked as far as that goes without asking Ceph."""

    cluster: str
    monitors: tuple[str, ...]
    pool: str
    """The pool of the class; of several, the one where it is noted which was chosen for a volume."""
    pools: tuple[ConstrainedPool, ...]
    """Those to choose from, by where they can be reached from; none if there is no choice."""
    namespace: str
    layout: Layout
    pv_type: PvType
    fs_type: str
    admin: SecretRef | None
    """The Secret with the credentials to work with in place of the cluster's own: `userID` and `userKey`, or `key`."""
    admin_user: str
    """The user of an old-style admin Secret, which holds a key only."""
    given_user: GivenUser | None
    on_nodes: Mapping[str, str]
    qos: Qos
    secrets: Mapping[str, SecretRef]
    """CSI secrets by use (`node-stage` ...), passed on into the PersistentVolume."""


def read_parameters(given: Mapping[str, str]) -> ClassParameters:
    """Check a StorageClass' parameters. Raises InvalidRequest naming the parameter and its value."""
    return _read(tuple(given.items()))


@functools.lru_cache(maxsize=64)  # there are few classes, and each call brings one
def _read(given: tuple[tuple[str, str], ...]) -> ClassParameters:
    said = _canonical(dict(given))
    _refuse_image_format(said)
    for name, why in _NOT_TRUE.items():
        if _switch(said, name):
            raise InvalidRequest(f"parameters.{name}", said[name], why)
    secrets = _secrets(said)
    admin, admin_user = _admin(said, secrets)
    pools = topology.read_pools(said.get(topology.PARAMETER, ""))
    parameters = ClassParameters(
        cluster=said.get("clusterID", ""),
        monitors=_list(said.get("monitors", "")),
        pool=said.get("pool", pools[0].pool if pools else "rbd"),
        pools=pools,
        namespace=said.get("radosNamespace", ""),
        layout=_layout(said),
        pv_type=_pv_type(said),
        fs_type=_choice(said, "csi.storage.k8s.io/fstype", FS_TYPES, "ext4"),
        admin=admin,
        admin_user=admin_user,
        given_user=_given_user(said),
        on_nodes=_on_nodes(said),
        qos=read_qos("parameters", {name: said[name] for name in qos.names_in(said)}).checked(),
        secrets=secrets,
    )
    _refuse_what_kubelets_cannot(parameters)
    return parameters


def read_qos(field: str, given: Mapping[str, str]) -> Qos:
    """Read what the request's `field` says on QoS, and nothing else. Raises InvalidRequest naming the parameter in it."""
    with _within(field):
        return Qos.parse(given)


@contextmanager
def _within(field: str) -> Iterator[None]:
    """What the block refuses is a part of the request's `field`."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}.{error.field}", error.value, error.why) from error


def _canonical(given: Mapping[str, str]) -> dict[str, str]:
    said: dict[str, str] = {}
    for name, value in given.items():
        if name.lower() in _REFUSED_LOWER:
            raise InvalidRequest(f"parameters.{name}", value, _REFUSED_LOWER[name.lower()])
        canonical = _SPELLED.get(name.lower())
        if canonical is None:
            raise InvalidRequest(f"parameters.{name}", value, f"unknown parameter; known: {', '.join(_KNOWN)}")
        if said.setdefault(canonical, value) != value:
            raise InvalidRequest(f"parameters.{name}", value, f"is given twice; the other value is {said[canonical]!r}")
    return said


def _layout(said: Mapping[str, str]) -> Layout:
    features = frozenset(_list(said.get("imageFeatures", ""))) or frozenset(FEATURES)
    return Layout(
        features=features,
        data_pool=said.get("dataPool", ""),
        object_size=_number(said, "objectSize"),
        stripe_unit=_number(said, "stripeUnit"),
        stripe_count=_number(said, "stripeCount"),
    )


def _number(said: Mapping[str, str], name: str) -> int:
    text = said.get(name, "0")
    if not text.isascii() or not text.isdecimal():
        raise InvalidRequest(f"parameters.{name}", text, "must be a whole number")
    return int(text)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _choice(said: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = said.get(name) or default
    if value not in choices:
        raise InvalidRequest(f"parameters.{name}", value, f"must be one of {', '.join(choices)}")
    return value


def _switch(said: Mapping[str, str], name: str) -> bool:
    return _choice({name: said.get(name, "").lower()}, name, ("true", "false"), "false") == "true"


def _on_nodes(said: Mapping[str, str]) -> dict[str, str]:
    """What a node has to know. With `tryOtherMounters` it takes the first kind of device that works there."""
    told = {name: said[name] for name in _ON_NODES if name in said}
    mounter = _choice(said, "mounter", MOUNTERS, "auto")
    if _switch(said, "tryOtherMounters"):
        if mounter not in ("rbd", "auto"):
            why = f"the node would try rbd before {mounter}; say mounter auto if that is meant"
            raise InvalidRequest("parameters.tryOtherMounters", said["tryOtherMounters"], why)
        told["mounter"] = mounter = "auto"
    if _pv_type(said) != "native":  # which can't carry them at all
        _check_mapping(said, mounter)
    return told | _encryption(said)


def _check_mapping(said: Mapping[str, str], mounter: str) -> None:
    with _within("parameters"):
        mapping.check_map_options(said.get("mapOptions", ""), mounter)
        mapping.check_unmap_options(said.get("unmapOptions", ""), mounter)


def _encryption(said: Mapping[str, str]) -> dict[str, str]:
    """How a node encrypts. Where a kubelet might map the image itself, nobody would: refused, lest it be written in the clear."""
    if not _switch(said, "encrypted"):
        _refuse_without(said, "encrypted", "encryptionType", *encryption.PARAMETERS)
        return {}
    if _pv_type(said) != "csi":
        raise InvalidRequest("parameters.encrypted", said["encrypted"], "only CSI nodes encrypt; use pvType csi")
    _choice(said, "encryptionType", ("block",), "block")
    how = {name: said[name] for name in encryption.PARAMETERS if name in said}
    with _within("parameters"):
        encryption.read_encryption(how, passphrase="comes with the request")  # noqa: S106
    return {"encrypted": "true"} | how


def _pv_type(said: Mapping[str, str]) -> PvType:
    match said.get("pvType", "native"):
        case "native" | "csi" | "auto" as chosen:
            return chosen
        case other:
            raise InvalidRequest("parameters.pvType", other, "must be one of native, csi, auto")


def _refuse_image_format(said: Mapping[str, str]) -> None:
    if said.get("imageFormat", "2") != "2":
        raise InvalidRequest("parameters.imageFormat", said["imageFormat"], "only format 2 exists in today's Ceph")


def _secrets(said: Mapping[str, str]) -> dict[str, SecretRef]:
    found = {}
    for use in _SECRETS:
        name_key, space_key = (f"csi.storage.k8s.io/{use}-secret-{part}" for part in ("name", "namespace"))
        name, space = said.get(name_key, ""), said.get(space_key, "")
        if bool(name) != bool(space):
            raise InvalidRequest(f"parameters.{name_key}", name, f"goes together with {space_key}")
        if "${" in name + space:
            raise InvalidRequest(f"parameters.{name_key}", name, "templates are not supported: one Secret per class")
        if name:
            found[use] = SecretRef(space, name)
    return found


def _admin(said: Mapping[str, str], secrets: Mapping[str, SecretRef]) -> tuple[SecretRef | None, str]:
    """The Secret to work with, and the user of one that holds a key only: ceph-csi's names for it, or the old ones."""
    name = said.get("adminSecretName", "")
    if not name:
        _refuse_without(said, "adminSecretName", "adminId", "adminSecretNamespace")
        return secrets.get("provisioner"), "admin"
    if "provisioner" in secrets:
        raise InvalidRequest("parameters.adminSecretName", name, "is given beside csi.storage.k8s.io/provisioner-secret-name")
    return SecretRef(said.get("adminSecretNamespace") or "default", name), said.get("adminId") or "admin"


def _given_user(said: Mapping[str, str]) -> GivenUser | None:
    name = said.get("userSecretName", "")
    if not name:
        _refuse_without(said, "userSecretName", "userId", "userSecretNamespace")
        return None
    user = said.get("userId") or said.get("adminId") or "admin"
    return GivenUser(user, SecretRef(said.get("userSecretNamespace", ""), name))


def _refuse_without(said: Mapping[str, str], needed: str, *names: str) -> None:
    for name in names:
        if said.get(name):
            raise InvalidRequest(f"parameters.{name}", said[name], f"means nothing without {needed}")


def _refuse_what_kubelets_cannot(parameters: ClassParameters) -> None:
    if parameters.pv_type != "native":
        return
    if parameters.namespace:
        raise InvalidRequest(
            "parameters.radosNamespace", parameters.namespace, "a native PersistentVolume can't name one; use pvType csi"
        )
    for name, value in parameters.on_nodes.items():
        raise InvalidRequest(f"parameters.{name}", value, "a native PersistentVolume can't carry it; use pvType csi")
    for name, number in parameters.qos.settings:
        raise InvalidRequest(f"parameters.{name}", number, "the kernel maps a native PersistentVolume, and knows no limits")
