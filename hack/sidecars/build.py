"""How the sidecars are built: all in one module, so that what they share is compiled once.

Kubernetes' own go.mod decides the version of everything it names. The sidecars would take later ones, but work with these, and
then share nearly all their packages with the development Kubernetes (and with one another) in Go's build cache.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.kubernetes import versions
from hack.kubernetes.build import Recipe, Say, built, go, show_built

KUBERNETES = "1.36"
"""The version, of those in versions.toml, whose libraries the sidecars are built with."""

_CSI = "github.com/kubernetes-csi"
CRDS = f"{_CSI}/external-snapshotter/client/v8"
GRANTS = "sigs.k8s.io/gateway-api"
MODULES = {
    f"{_CSI}/external-attacher/v4": "v4.13.0",
    # 6.4.0 needs a sig-storage-lib-external-provisioner that the proxy does not serve
    f"{_CSI}/external-provisioner/v6": "v6.3.0",
    f"{_CSI}/external-resizer/v2": "v2.3.0",
    f"{_CSI}/external-snapshotter/v8": "v8.7.0",
    # built for their manifests: the CRDs of snapshots and group snapshots, and of grants across namespaces
    CRDS: "v8.7.0",
    GRANTS: "v1.5.1",
}
PROGRAMS = {
    "csi-attacher": f"{_CSI}/external-attacher/v4/cmd/csi-attacher",
    "csi-provisioner": f"{_CSI}/external-provisioner/v6/cmd/csi-provisioner",
    "csi-resizer": f"{_CSI}/external-resizer/v2/cmd/csi-resizer",
    "csi-snapshotter": f"{_CSI}/external-snapshotter/v8/cmd/csi-snapshotter",
    "snapshot-controller": f"{_CSI}/external-snapshotter/v8/cmd/snapshot-controller",
}


@dataclass(frozen=True, slots=True)
class _Sidecars(Recipe):
    @property
    def digest(self) -> str:
        """Every version that goes into them."""
        return hashlib.sha256(repr((MODULES, PROGRAMS)).encode()).hexdigest()[:8]


def sidecars(say: Say) -> Path:
    """The directory with the programs and `crds/*.yaml`, built first if the cache has none (minutes)."""
    pin = versions.pins()[0][KUBERNETES]
    return built(_Sidecars("sidecars", pin.release, _write_module, packages=tuple(PROGRAMS.values())), say)


def _write_module(work: Path) -> None:
    pin = versions.pins()[0][KUBERNETES]
    kubernetes = versions.fetched(work, f"{versions.KUBERNETES}@{pin.release}")
    theirs = json.loads(go(work, "mod", "edit", "-json", str(kubernetes / "go.mod")))
    versions.write_stubs(pin, theirs["Go"], work)
    (work / "go.mod").write_text(_module(pin, theirs))
    shutil.copyfile(kubernetes / "go.sum", work / "go.sum")
    _copy_crds(work)


def _module(pin: versions.Pin, theirs: Mapping[str, Any]) -> str:
    staging = versions.staged(theirs)
    others = [one for one in theirs["Require"] if one["Path"] not in staging]
    lines = ["module sidecars", f"go {theirs['Go']}"]
    lines += [f"require {path} {version}" for path, version in MODULES.items()]
    lines += versions.replacements(pin, staging)
    lines += [f"replace {one['Path']} => {one['Path']} {one['Version']}" for one in others]
    return "\n".join(lines) + "\n"


def _copy_crds(work: Path) -> None:
    target = work / "sidecars" / "crds"
    target.mkdir()
    snapshots = versions.fetched(work, f"{CRDS}@{MODULES[CRDS]}") / "config" / "crd"
    grants = versions.fetched(work, f"{GRANTS}@{MODULES[GRANTS]}") / "config" / "crd" / "standard"
    for manifest in (*snapshots.glob("*snapshot*.yaml"), *grants.glob("*referencegrants.yaml")):
        shutil.copyfile(manifest, target / manifest.name)


if __name__ == "__main__":
    sys.exit(show_built("sidecars", sidecars))
