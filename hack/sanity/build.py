"""How csi-sanity is built: like the development Kubernetes, by the same cache and lock."""

from dataclasses import dataclass
from pathlib import Path

from hack.kubernetes.build import Recipe, Say, built, go

MODULE = "github.com/kubernetes-csi/csi-test/v5"
RELEASE = "v5.6.0"


@dataclass(frozen=True, slots=True)
class _Sanity(Recipe):
    @property
    def source(self) -> Path:
        """The program's main.go, beside this file."""
        return Path(__file__).with_name("main.go")


def csi_sanity(say: Say) -> Path:
    """The path of the binary, built first if the cache has none (about a minute)."""
    return built(_Sanity("csi-sanity", RELEASE, _write_module), say)


def _write_module(work: Path) -> None:
    (work / "go.mod").write_text(f"module csi-sanity\n\ngo 1.25.0\n\nrequire {MODULE} {RELEASE}\n")
    go(work, "mod", "tidy")
