"""The versions that can be had, as versions.toml pins them, and how each one's programs are built.

k8s.io/kubernetes is not meant to be imported: its go.mod points at staging directories that a module zip lacks. A
module of ours around it requires the same versions and the published staging modules instead. One binary has all four
daemons, which saves half of the compiling and two thirds of the disk.
"""

import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .build import SOURCES, Recipe, go

KUBERNETES = "k8s.io/kubernetes"
ETCD = "go.etcd.io/etcd/server/v3"


@dataclass(frozen=True, slots=True)
class Pin:
    """One version: its release (`v1.30.14`), what the proxy lacks for it, and its etcd, None for Debian's."""

    release: str
    stubs: tuple[str, ...]
    unsummed: tuple[str, ...]
    etcd: str | None

    @property
    def staging(self) -> str:
        """The version of the staging modules: v1.30.14 is published as v0.30.14."""
        return "v0." + self.release.split(".", 1)[1]


def pins() -> tuple[dict[str, Pin], str]:
    """All versions by minor (`1.30`), and the default one's name."""
    table = tomllib.loads((SOURCES / "versions.toml").read_text())
    default = table.pop("default")
    return {minor: _pin(row) for minor, row in table.items()}, default


def _pin(row: Mapping[str, Any]) -> Pin:
    return Pin(row["release"], tuple(row["stubs"]), tuple(row.get("unsummed", ())), row.get("etcd"))


def kubernetes(pin: Pin) -> Recipe:
    """The binary with kube-apiserver, kube-controller-manager, kube-scheduler and kubelet."""
    major, minor, _ = pin.release.lstrip("v").split(".")
    # Without these the programs call themselves v0.0.0, and clients misjudge what they can do.
    facts = {"gitVersion": pin.release, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = tuple(f"{package}.{name}={value}" for package in packages for name, value in facts.items())
    return Recipe("hyperkube", pin.release, partial(_write_kubernetes, pin), stamps, pin.unsummed)


def etcd(release: str) -> Recipe:
    """The etcd server."""
    return Recipe("etcd", release, partial(_write_etcd, release))


def _write_etcd(release: str, work: Path) -> None:
    (work / "go.mod").write_text(f"module etcd\n\ngo 1.24\n\nrequire {ETCD} {release}\n")


def fetched(work: Path, module: str, unsummed: tuple[str, ...] = ()) -> Path:
    """The directory of a module (`path@version`) in Go's cache, fetched if need be."""
    return Path(json.loads(go(work, "mod", "download", "-json", module, unsummed=unsummed))["Dir"])


def _write_kubernetes(pin: Pin, work: Path) -> None:
    source = fetched(work, f"{KUBERNETES}@{pin.release}", pin.unsummed)
    theirs = json.loads(go(work, "mod", "edit", "-json", str(source / "go.mod")))
    (work / "go.mod").write_text(module_around(pin, theirs))
    # Their own sums spare hundreds of look-ups in the checksum database.
    shutil.copyfile(source / "go.sum", work / "go.sum")
    write_stubs(pin, theirs["Go"], work)


def write_stubs(pin: Pin, language: str, work: Path) -> None:
    """Empty modules in place of those that the proxy lacks and nobody imports; `language` is the version of Go."""
    for stub in pin.stubs:
        (work / "stubs" / stub).mkdir(parents=True)
        (work / "stubs" / stub / "go.mod").write_text(f"module {stub}\n\ngo {language}\n")


def module_around(pin: Pin, theirs: Mapping[str, Any]) -> str:
    """The go.mod of a module that builds `theirs` (k8s.io/kubernetes' go.mod as `go mod edit -json` prints it)."""
    staging = staged(theirs)
    required = {one["Path"]: one["Version"] for one in theirs["Require"]}
    required |= dict.fromkeys(staging, pin.staging) | {KUBERNETES: pin.release}
    lines = ["module hyperkube", f"go {theirs['Go']}"]
    lines += [f"godebug {one['Key']}={one['Value']}" for one in theirs.get("Godebug") or ()]
    lines += [f"require {path} {version}" for path, version in sorted(required.items())]
    # Their own go.mod asks for v0.0.0 of each staging module, which exists nowhere.
    return "\n".join([*lines, *replacements(pin, staging)]) + "\n"


def staged(theirs: Mapping[str, Any]) -> list[str]:
    """The staging modules of k8s.io/kubernetes."""
    return sorted(one["Old"]["Path"] for one in theirs["Replace"] or () if one["New"]["Path"].startswith("./staging/"))


def replacements(pin: Pin, staging: Iterable[str]) -> list[str]:
    """The lines of a go.mod that put the published staging modules, or stubs, where a path into a tree stands."""
    return [
        f"replace {path} => ./stubs/{path}" if path in pin.stubs else f"replace {path} => {path} {pin.staging}"
        for path in staging
    ]
