"""Block devices, as sysfs tells of them."""

import hashlib
import os
from pathlib import Path

from provisioner.core.ids import VolumeId

SYS_BLOCK = Path("/sys/block")
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


def holders(device: Path) -> list[str]:
    """Names of devices that are made of this one."""
    return sorted(os.listdir(_sysfs(device) / "holders"))


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
    return SYS_BLOCK / device.resolve().name
