"""Block devices, as sysfs tells of them."""

import errno
import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from provisioner.core.ids import VolumeId

SYS_BLOCK, SYS_NUMBERS = Path("/sys/block"), Path("/sys/dev/block")
_SECTOR = 512
_LOOP_GET_STATUS64, _LOOP_INFO64 = 0x4C05, 232
"""An ioctl and the bytes of what it fills in (linux/loop.h)."""


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


def unmounted_loops() -> list[Path]:
    """Loop devices over a whole mount that is gone: the kernel knows no path of their file. None that others are made of."""
    found = []
    for entry in SYS_BLOCK.glob("loop*"):
        with suppress(OSError):
            if (entry / "loop/backing_file").read_text() == "/\n" and not any((entry / "holders").iterdir()):
                found.append(Path("/dev") / entry.name)
    return sorted(found)


def is_cut_off(loop: Path) -> bool:
    """Whether the loop device's file is one of FUSE whose daemon has ended. Does not come back while a daemon keeps silent."""
    opened = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(opened, _LOOP_GET_STATUS64, bytearray(_LOOP_INFO64))
    except OSError as error:
        return error.errno == errno.ENOTCONN
    finally:
        os.close(opened)
    return False


def _sysfs(device: Path) -> Path:
    number = device.stat().st_rdev
    return SYS_NUMBERS / f"{os.major(number)}:{os.minor(number)}"
