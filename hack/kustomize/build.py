"""How kustomize is built: like the development Kubernetes, by the same cache and lock."""

import sys
from dataclasses import dataclass
from pathlib import Path

from hack.kubernetes.build import BuildError, Recipe, Say, built, go

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


def main() -> int:
    """Build it and print its path."""
    try:
        print(kustomize(lambda text: print(text, file=sys.stderr, flush=True)))
    except (BuildError, OSError) as error:
        print(f"kustomize: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
