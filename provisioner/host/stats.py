"""How full a mounted volume is, and whether it is well: asked with patience, since a dead device may never answer."""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provisioner.core.errors import Unavailable
from provisioner.host.blocks import size_of
from provisioner.host.mounts import Mount
from provisioner.host.patience import Patience

_SECONDS = 5.0
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """One measure of a volume; what can't be told is 0."""

    unit: Literal["bytes", "inodes"]
    total: int
    used: int = 0
    available: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """One thing that is wrong, in CSI's words."""

    status: Literal["DEGRADED", "INACCESSIBLE", "DATA_LOSS"]
    reason: str
    message: str


def usage(patience: Patience, mount: Mount, device: Path, used: int | None) -> list[Usage]:
    """Measure a mount; of a block volume its size, and `used` where the image could tell. Raises Unavailable."""
    if mount.fs_type in ("devtmpfs", "tmpfs"):
        total = size_of(device)
        return [Usage("bytes", total, used or 0, total - used if used is not None else 0)]
    try:
        found = patience.call(f"statvfs of {mount.target}", _SECONDS, lambda: os.statvfs(mount.target))
    except OSError as error:
        raise Unavailable(f"{mount.target} does not answer: {error.strerror}") from error
    unit = found.f_frsize
    return [
        Usage("bytes", found.f_blocks * unit, (found.f_blocks - found.f_bfree) * unit, found.f_bavail * unit),
        Usage("inodes", found.f_files, found.f_files - found.f_ffree, found.f_favail),
    ]


def look(patience: Patience, mount: Mount, device: Path, *, read_only: bool) -> list[Health]:
    """See whether a mount and its device are alive, and writable unless it is meant for reading only."""
    try:
        patience.call(f"a look at {device}", _SECONDS, lambda: _read_directly(device))
        if mount.fs_type not in ("devtmpfs", "tmpfs"):
            patience.call(f"a look at {mount.target}", _SECONDS, lambda: _touch(mount.target))
    except OSError as error:
        return [Health("INACCESSIBLE", "InputOutputError", f"{mount.target}: {error.strerror}")]
    except Unavailable as error:
        return [Health("INACCESSIBLE", "NoAnswer", str(error))]
    if "ro" in mount.super_options and mount.fs_type not in ("devtmpfs", "tmpfs") and not read_only:
        return [Health("DEGRADED", "ReadOnly", f"{mount.fs_type} at {mount.target} turned read-only after an error")]
    return []


def _touch(path: str) -> None:
    os.statvfs(path)
    with os.scandir(path) as entries:
        next(entries, None)


def _read_directly(device: Path) -> None:
    """Read from the device itself: a file system answers from memory for long after its device is gone."""
    opened = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _BLOCK) as aligned:
            os.preadv(opened, [aligned], 0)
    finally:
        os.close(opened)
