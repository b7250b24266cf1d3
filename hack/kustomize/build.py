"""How kustomize is built: like the development Kubernetes, by the same cache and lock."""

import sys
from dataclasses import dataclass
from pathlib import Path

from hack.kubernetes.build import Recipe, Say, built, go, show_built

MODULE = "sigs.k8s.io/kustomize/api"
RELEASE = "v0.21.1"


@dataclass(frozen=True, slots=True)
class _Kustomize(Recipe):
    @property
    def source(self) -> Path:
        """The program's main.go, beside this file."""
        return Path(__file__).with_name("main.go")


def kustomize(say: Say) -> Path:
    """The path of the binary, built first if the cache has none (under a minute): `kustomize DIR` prints YAML."""
    return built(_Kustomize("kustomize", RELEASE, _write_module), say)


def _write_module(work: Path) -> None:
    (work / "go.mod").write_text(f"module kustomize\n\ngo 1.24.0\n\nrequire {MODULE} {RELEASE}\n")
    go(work, "mod", "tidy")


if __name__ == "__main__":
    sys.exit(show_built("kustomize", kustomize))
