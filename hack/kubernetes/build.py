"""Go programs built from the module proxy and kept outside the tree, one binary per recipe.

A lock file lets one process build while others wait for its result; a rename publishes it, so that a killed build
leaves nothing that looks finished.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.directories import Say, alone

SOURCES = Path(__file__).resolve().parent
SECONDS_BETWEEN_WORDS = 10.0


class BuildError(Exception):
    """A program cannot be built here; the text says what is missing or which step failed."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A program: `name`/main.go beside this file, in a module that `write_module` writes into a directory.

    `stamps` are the linker's values for variables (`package.name=value`); `unsummed` the modules that the checksum
    database does not know. With `packages`, the programs of other modules are built instead, into one directory, together
    with whatever `write_module` leaves in the subdirectory of the recipe's name.
    """

    name: str
    release: str
    write_module: Callable[[Path], None]
    stamps: tuple[str, ...] = ()
    unsummed: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def source(self) -> Path:
        """The program's main.go."""
        return SOURCES / self.name / "main.go"

    @property
    def digest(self) -> str:
        """What the binary is made of, in short: an edited main.go makes another one."""
        made_of = repr(self.packages).encode() if self.packages else self.source.read_bytes()
        return hashlib.sha256(made_of + repr(self.stamps).encode()).hexdigest()[:8]

    @property
    def binary(self) -> Path:
        """Where the binary is kept, or the directory of them."""
        return cache_directory() / f"{self.name}-{self.release}-{self.digest}"


def cache_directory() -> Path:
    """Where binaries are kept: below CEPH_PROVISIONER_CACHE, else below the user's cache directory."""
    if chosen := os.environ.get("CEPH_PROVISIONER_CACHE"):
        return Path(chosen) / "kubernetes"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ceph-provisioner" / "kubernetes"


def built(recipe: Recipe, say: Say) -> Path:
    """The path of the binary, building it first if the cache has none (minutes)."""
    binary = recipe.binary
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with alone(binary.with_name(f"{recipe.name}-{recipe.release}.lock"), "builds this", say):
            if not binary.exists():
                _build(recipe, binary.with_name(f"{recipe.name}-{recipe.release}.work"), say)
    return binary


def show_built(name: str, build: Callable[[Say], Path]) -> int:
    """What `python3 -m hack.NAME.build` does: build, print where it is, or why it isn't there; gives the exit code."""
    try:
        print(build(lambda text: print(text, file=sys.stderr, flush=True)))
    except (BuildError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


def go(directory: Path, *words: str, unsummed: Iterable[str] = ()) -> str:
    """What a `go` command prints."""
    done = subprocess.run(["go", *words], cwd=directory, env=_environment(unsummed), capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"go {' '.join(words)} failed:\n{done.stderr or done.stdout}")
    return done.stdout


def _environment(unsummed: Iterable[str]) -> dict[str, str]:
    modules = [*filter(None, [os.environ.get("GONOSUMDB")]), *unsummed]
    return os.environ | {"CGO_ENABLED": "0", "GONOSUMDB": ",".join(modules), "GOWORK": "off"}


def _build(recipe: Recipe, work: Path, say: Say) -> None:
    started = time.monotonic()
    if shutil.which("go") is None:
        raise BuildError(f"no `go` on the PATH: {recipe.name} is compiled with it (https://go.dev/dl)")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if recipe.packages:
        (work / recipe.name).mkdir()
    else:
        shutil.copyfile(recipe.source, work / "main.go")
    say(f"{recipe.name} {recipe.release}: fetching modules")
    recipe.write_module(work)
    wanted = recipe.packages or (".",)
    packages = go(work, "list", "-mod=mod", "-deps", *wanted, unsummed=recipe.unsummed).splitlines()
    say(f"{recipe.name} {recipe.release}: compiling up to {len(packages)} packages")
    _compile(recipe, work, len(packages), say)
    (work / recipe.name).replace(recipe.binary)
    shutil.rmtree(work)
    say(f"{recipe.name} {recipe.release}: built in {time.monotonic() - started:.0f} s")


def _compile(recipe: Recipe, work: Path, total: int, say: Say) -> None:
    linked = " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in recipe.stamps)])
    command = ["nice", "-n", "10", "go", "build", "-v", "-mod=mod", "-trimpath", "-buildvcs=false"]
    command += ["-ldflags", linked, "-o", recipe.name, *(recipe.packages or (".",))]
    environment = _environment(recipe.unsummed)
    with subprocess.Popen(command, cwd=work, env=environment, stderr=subprocess.PIPE, text=True) as build:
        try:
            last_words = _follow(build.stderr or (), f"{recipe.name} {recipe.release}", total, say)
        except BaseException:
            build.terminate()
            raise
    if build.returncode:
        raise BuildError(f"go build of {recipe.name} ended with {build.returncode}:\n{last_words}")


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
