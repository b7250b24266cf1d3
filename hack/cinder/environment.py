"""The Python environment that Cinder and Keystone run in: from PyPI, pinned, kept outside the tree, made once.

It stands under a digest of its pins. A mark written last tells a whole one from what a killed installation left, and a lock
lets one process install while others wait. With it are kept the databases of a fresh Cinder and a fresh Keystone, since
bringing an empty one up to date takes longer than everything else that a start does.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hack.directories import Say, alone

from .identity import REGION
from .settings import PASSWORD, cinder_conf, keystone_conf

HERE = Path(__file__).resolve().parent
PINS = HERE / "requirements.txt"
_BINDINGS = Path("/usr/lib/python3/dist-packages")
_INSTALL_SECONDS, _STEP_SECONDS = 900, 300


class InstallError(Exception):
    """The environment can't be made; the text says which step failed and what it said."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A whole one."""

    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    @property
    def etc(self) -> Path:
        """Cinder's own default files."""
        return self.home / "etc" / "cinder"

    def fresh_database(self, service: str) -> Path:
        """The database of a `cinder` or `keystone` that nobody used yet."""
        return self.home / "fresh" / f"{service}.sqlite"


def cache_directory() -> Path:
    """Where environments are kept: below CEPH_PROVISIONER_CACHE, else below the user's cache directory."""
    if chosen := os.environ.get("CEPH_PROVISIONER_CACHE"):
        return Path(chosen) / "cinder"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ceph-provisioner" / "cinder"


def made(say: Say) -> Environment:
    """The environment, made first if the cache has none (one to four minutes)."""
    home = cache_directory() / hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    if not (home / "whole").exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with alone(home.with_suffix(".lock"), "installs Cinder", say):
            if not (home / "whole").exists():
                _make(Environment(home), say)
    return Environment(home)


def _make(environment: Environment, say: Say) -> None:
    home, started = environment.home, time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    say(f"installing Cinder and Keystone from PyPI into {home}: about 370 MB, a minute or two")
    _run([sys.executable, "-m", "venv", str(home)], _STEP_SECONDS)
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    _run([*pip, "--timeout", "30", "--only-binary", ":all:", "--requirement", str(PINS)], _INSTALL_SECONDS)
    (packages,) = home.glob("lib/python3*/site-packages")
    for binding in [*_BINDINGS.glob("rados.*.so"), *_BINDINGS.glob("rbd.*.so")]:
        (packages / binding.name).symlink_to(binding)
    say("making the databases of a fresh Cinder and Keystone")
    (home / "fresh" / "log").mkdir(parents=True)
    _fill(environment, "cinder", cinder_conf(home / "fresh", environment.etc), ["db", "sync"])
    for keys in ("fernet-keys", "credential-keys"):
        (home / "fresh" / keys).mkdir(mode=0o700)
    owner = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    bootstrap = ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION]
    steps = (["db_sync"], ["fernet_setup", *owner], ["credential_setup", *owner], bootstrap)
    _fill(environment, "keystone", keystone_conf(home / "fresh"), *steps)
    (home / "whole").touch()
    say(f"Cinder is installed: {time.monotonic() - started:.0f} s")


def _fill(environment: Environment, service: str, conf: str, *steps: list[str]) -> None:
    path = environment.home / "fresh" / f"{service}.conf"
    path.write_text(conf)
    for words in steps:
        _run([str(environment.home / "bin" / f"{service}-manage"), "--config-file", str(path), *words], _STEP_SECONDS)


def _run(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{' '.join(command)}: not done after {seconds:.0f} s") from error
    if done.returncode:
        raise InstallError(f"{' '.join(command)} failed:\n" + "\n".join(done.stdout.splitlines()[-15:]))
