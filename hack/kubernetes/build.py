"""Kubernetes built from the Go module proxy: one binary with apiserver, controller-manager, scheduler and kubelet.

k8s.io/kubernetes is not meant to be imported: its go.mod points at staging directories that a module zip lacks. A
module of ours around it requires the same versions and the published staging modules instead.

Binaries live outside the tree, one per recipe. A lock file lets one process build while others wait for its result;
a rename publishes it, so that a killed build leaves nothing that looks finished.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODULE = "k8s.io/kubernetes"
SECONDS_BETWEEN_WORDS = 10.0

Say = Callable[[str], None]


class BuildError(Exception):
    """Kubernetes cannot be built here; the text says what is missing or which step failed."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One buildable version: its release (`v1.30.14`) and what the proxy lacks for it."""

    release: str
    stubs: tuple[str, ...]
    unsummed: tuple[str, ...]

    @property
    def staging(self) -> str:
        """The version of the staging modules: v1.30.14 is published as v0.30.14."""
        return "v0." + self.release.split(".", 1)[1]


def pins() -> tuple[dict[str, Pin], str]:
    """All buildable versions by minor (`1.30`), and the default one's name."""
    table = tomllib.loads((HERE / "versions.toml").read_text())
    default = table.pop("default")
    made = {minor: Pin(row["release"], tuple(row["stubs"]), tuple(row["unsummed"])) for minor, row in table.items()}
    return made, default


def cache_directory() -> Path:
    """Where binaries are kept: CEPH_PROVISIONER_CACHE, else below the user's cache directory."""
    if chosen := os.environ.get("CEPH_PROVISIONER_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ceph-provisioner"


def hyperkube(pin: Pin, say: Say) -> Path:
    """The path of the binary for `pin`, building it first if the cache has none (minutes)."""
    home = cache_directory() / "kubernetes"
    binary = home / f"hyperkube-{pin.release}-{_recipe(pin)}"
    if binary.exists():
        return binary
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home / f"{pin.release}.lock", say):
        if not binary.exists():
            _build(pin, home / f"{pin.release}.work", binary, say)
    return binary


def _recipe(pin: Pin) -> str:
    """A short digest of what the binary is made from, so that an edited main.go is never served by an old one."""
    source = (HERE / "hyperkube" / "main.go").read_bytes()
    return hashlib.sha256(repr(pin).encode() + source).hexdigest()[:8]


@contextmanager
def _alone(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process builds this version (holds {path}): waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(pin: Pin, work: Path, binary: Path, say: Say) -> None:
    started = time.monotonic()
    if shutil.which("go") is None:
        raise BuildError("no `go` on the PATH: Kubernetes is compiled with it (https://go.dev/dl)")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    say(f"Kubernetes {pin.release}: fetching its modules")
    _write_module(pin, work)
    total = _count_packages(pin, work)
    say(f"Kubernetes {pin.release}: compiling up to {total} packages, about 10 minutes on two cores")
    _compile(pin, work, total, say)
    os.replace(work / "hyperkube", binary)
    shutil.rmtree(work)
    say(f"Kubernetes {pin.release}: built in {time.monotonic() - started:.0f} s, {binary}")


def _write_module(pin: Pin, work: Path) -> None:
    source = Path(json.loads(_go(pin, HERE, "mod", "download", "-json", f"{MODULE}@{pin.release}"))["Dir"])
    theirs = json.loads(_go(pin, HERE, "mod", "edit", "-json", str(source / "go.mod")))
    (work / "go.mod").write_text(module_text(pin, theirs))
    # Their own sums spare hundreds of look-ups in the checksum database.
    shutil.copyfile(source / "go.sum", work / "go.sum")
    shutil.copyfile(HERE / "hyperkube" / "main.go", work / "main.go")
    for stub in pin.stubs:
        (work / "stubs" / stub).mkdir(parents=True)
        (work / "stubs" / stub / "go.mod").write_text(f"module {stub}\n\ngo {theirs['Go']}\n")


def module_text(pin: Pin, theirs: Mapping[str, Any]) -> str:
    """The go.mod of a module that builds `theirs` (k8s.io/kubernetes' go.mod as `go mod edit -json` prints it)."""
    staging = sorted(one["Old"]["Path"] for one in theirs["Replace"] or () if one["New"]["Path"].startswith("./staging/"))
    required = {one["Path"]: one["Version"] for one in theirs["Require"]}
    required |= dict.fromkeys(staging, pin.staging) | {MODULE: pin.release}
    lines = ["module hyperkube", f"go {theirs['Go']}"]
    lines += [f"godebug {one['Key']}={one['Value']}" for one in theirs.get("Godebug") or ()]
    lines += [f"require {path} {version}" for path, version in sorted(required.items())]
    # Their own go.mod asks for v0.0.0 of each staging module, which exists nowhere.
    lines += [
        f"replace {path} => ./stubs/{path}" if path in pin.stubs else f"replace {path} => {path} {pin.staging}"
        for path in staging
    ]
    return "\n".join(lines) + "\n"


def _environment(pin: Pin) -> dict[str, str]:
    unsummed = [*filter(None, [os.environ.get("GONOSUMDB")]), *pin.unsummed]
    return os.environ | {"CGO_ENABLED": "0", "GONOSUMDB": ",".join(unsummed), "GOWORK": "off"}


def _go(pin: Pin, directory: Path, *words: str) -> str:
    done = subprocess.run(["go", *words], cwd=directory, env=_environment(pin), capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"go {' '.join(words)} failed:\n{done.stderr or done.stdout}")
    return done.stdout


def _count_packages(pin: Pin, work: Path) -> int:
    return len(_go(pin, work, "list", "-mod=mod", "-deps", ".").splitlines())


def _link_flags(pin: Pin) -> str:
    """Without these the programs call themselves v0.0.0, and clients misjudge what they can do."""
    major, minor, _ = pin.release.lstrip("v").split(".")
    facts = {"gitVersion": pin.release, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = [f"-X {package}.{name}={value}" for package in packages for name, value in facts.items()]
    return " ".join(["-s", "-w", *stamps])


def _compile(pin: Pin, work: Path, total: int, say: Say) -> None:
    command = ["nice", "-n", "10", "go", "build", "-v", "-mod=mod", "-trimpath", "-buildvcs=false"]
    command += ["-ldflags", _link_flags(pin), "-o", "hyperkube", "."]
    with subprocess.Popen(command, cwd=work, env=_environment(pin), stderr=subprocess.PIPE, text=True) as build:
        try:
            last_words = _follow(build.stderr or (), f"Kubernetes {pin.release}", total, say)
        except BaseException:
            build.terminate()
            raise
    if build.returncode:
        raise BuildError(f"go build ended with {build.returncode}:\n{last_words}")


def _follow(lines: Iterable[str], what: str, total: int, say: Say) -> str:
    """Say now and then how far a `go build -v` is: it prints a line per package. Returns the last lines."""
    started = said = time.monotonic()
    last = deque[str](maxlen=20)
    for compiled, line in enumerate(lines, start=1):
        last.append(line)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_WORDS:
            said = now
            say(f"{what}: {compiled} of up to {total} packages compiled, {now - started:.0f} s")
    return "".join(last)
