"""Debian packages for the guest alone: unpacked into the cache, never installed."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UDEV = ("udev", "libsystemd-shared")
"""The daemon, and the library of just its version."""


def udev(say: Callable[[str], None]) -> Path:
    """The directory with bin/udevadm, downloaded and unpacked first if the cache has none (about 3 seconds)."""
    with locked_cache() as cache:
        directory = cache / "udev"
        if not directory.exists():
            say(f"fetching {' and '.join(_UDEV)}")
            with tempfile.TemporaryDirectory(dir=cache) as work:
                unpack(_UDEV, Path(work)).rename(directory)
        return directory


@contextmanager
def locked_cache() -> Iterator[Path]:
    """The cache of the guest's packages, changed by one process at a time."""
    cache = Path(os.environ.get("CEPH_PROVISIONER_CACHE") or Path.home() / ".cache/ceph-provisioner") / "krbd"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def unpack(packages: Sequence[str], work: Path) -> Path:
    """Download packages and unpack them all into one directory below `work`."""
    subprocess.run(["apt-get", "download", *packages], cwd=work, check=True, capture_output=True)
    for archive in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive.name, "root"], cwd=work, check=True)
    return work / "root"
