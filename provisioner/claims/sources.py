"""PersistentVolume sources: one small class per kind, each saying what a kubelet needs to find the image.

`rbd` is the native one, which kubelets up to 1.30 map themselves; `csi` is for the CSI node service.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from provisioner.claims.classes import Class
from provisioner.core.errors import InvalidRequest
from provisioner.core.model import Volume
from provisioner.core.parameters import SecretRef


@dataclass(frozen=True, slots=True)
class Handout:
    """What a node maps a volume with."""

    monitors: tuple[str, ...]
    user: str
    secret: SecretRef


class Source(Protocol):
    """Builds the part of a PersistentVolume's spec that names the image."""

    def spec(self, volume: Volume, storage_class: Class, handout: Handout, *, read_only: bool, block: bool) -> dict[str, Any]:
        """The fields to merge into `spec`."""


class NativeSource:
    """`spec.rbd`, for the kubelet's own rbd plugin."""

    def spec(self, volume: Volume, storage_class: Class, handout: Handout, *, read_only: bool, block: bool) -> dict[str, Any]:
        """Monitors as "host:port", pool, image, user and the Secret with that user's key."""
        source: dict[str, Any] = {
            "monitors": list(handout.monitors),
            "pool": volume.id.place.pool,
            "image": volume.id.image,
            "user": handout.user,
            "secretRef": {"namespace": handout.secret.namespace, "name": handout.secret.name},
            "readOnly": read_only,
        }
        if not block:
            source["fsType"] = storage_class.parameters.fs_type
        return {"rbd": source}


_DRIVER = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def driver_name(said: str) -> str:
    """Name the CSI driver: as said, or for a provisioner's name such as `example.com/rbd`, `rbd.example.com`.

    Raises InvalidRequest for what Kubernetes would refuse in each PersistentVolume.
    """
    domain, slash, kind = said.partition("/")
    name = f"{kind}.{domain}".lower() if slash else said
    if len(name) > 63 or not _DRIVER.fullmatch(name):
        raise InvalidRequest("--csi-driver", name, "must be a lower-case domain name of at most 63 characters")
    return name


class CsiSource:
    """`spec.csi`, for a CSI node service of that driver name."""

    _REFS: Mapping[str, str] = {
        "node-stage": "nodeStageSecretRef",
        "node-publish": "nodePublishSecretRef",
        "node-expand": "nodeExpandSecretRef",
        "controller-expand": "controllerExpandSecretRef",
        "controller-publish": "controllerPublishSecretRef",
    }

    def __init__(self, driver: str) -> None:
        self._driver = driver

    def spec(self, volume: Volume, storage_class: Class, handout: Handout, *, read_only: bool, block: bool) -> dict[str, Any]:
        """The volume id as handle; monitors stay out, since they change."""
        place, parameters = volume.id.place, storage_class.parameters
        attributes = {"clusterID": place.cluster, "pool": place.pool, "imageName": volume.id.image, **parameters.on_nodes}
        if place.namespace:
            attributes["radosNamespace"] = place.namespace
        secrets = {"node-stage": handout.secret, **parameters.secrets}
        refs = {
            self._REFS[use]: {"namespace": ref.namespace, "name": ref.name} for use, ref in secrets.items() if use in self._REFS
        }
        source = {"driver": self._driver, "volumeHandle": str(volume.id), "volumeAttributes": attributes, **refs}
        if not block:
            source["fsType"] = parameters.fs_type
        return {"csi": {**source, "readOnly": read_only}}
