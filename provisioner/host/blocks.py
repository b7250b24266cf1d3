"""Block devices, as sysfs tells of them."""

import hashlib
import os
from pathlib import Path

from provisioner.core.ids import VolumeId

SYS_BLOCK, SYS_NUMBERS = Path("/sys/block"), Path("/sys/dev/block")
_SECTOR = 512


def tag(volume: VolumeId) -> str:
    """A short name for a volume, as devices, keys and directories can bear it: the same on every node and after every restart."""
    return "cp-" + hashlib.sha256(str(volume).encode()).hexdigest()[:32]


def size_of(device: Path) -> int:
    """Bytes of a device, as the kernel has it now."""
    return int((_sysfs(device) / "size").read_text()) * _SECTOR


def is_read_only(device: Path) -> bool:
    """Whether the kernel refuses writes to the device."""
    return (_sysfs(device) / "ro").read_text().strip() == "1"


def loops_on(backing: Path) -> list[Path]:
    """Loop devices that show the file."""
    found = []
    for entry in SYS_BLOCK.glob("loop*"):
        try:
            shown = (entry / "loop/backing_file").read_text().rstrip("\n")
        except OSError:
            continue
        if shown.removesuffix(" (deleted)") == str(backing):
            found.append(Path("/dev") / entry.name)
    return sorted(found)


def _sysfs(device: Path) -> Path:
    number = device.stat().st_rdev
    return SYS_NUMBERS / f"{os.major(number)}:{os.minor(number)}"
