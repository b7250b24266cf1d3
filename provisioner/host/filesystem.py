"""File systems on devices: told apart, made where there is surely nothing, grown to their device.

Nothing is ever formatted over: a device on which something is recognized, or on which nothing is but bytes are, is an error.
Only a format that was begun, and noted on the image before it, is done again.
"""

import os
import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.core.errors import InvalidRequest, OutOfRange, Unavailable, Unfit
from provisioner.core.model import MIB
from provisioner.host.blocks import size_of
from provisioner.host.commands import CommandFailed, Commands

_PROBE_SECONDS, _FORMAT_SECONDS, _GROW_SECONDS, _CHECK_SECONDS = 30.0, 300.0, 300.0, 300.0
HEAD, TAIL, _STEP = 4 * MIB, MIB, 1 * MIB
"""Bytes at the start and at the end of a device that have to be empty where no file system is recognized."""
_NOTHING, _AMBIGUOUS = 2, 8
"""blkid(8): exit codes."""

_EXT_64BIT = 0x80
"""INCOMPAT_64BIT of ext4's superblock."""

_DEFAULTS = {
    "ext4": ("-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"),
    "ext3": ("-m0", "-Enodiscard,lazy_itable_init=1"),
    "xfs": ("-K",),
    "btrfs": ("--nodiscard",),
}
_FORCE = {"ext4": "-F", "ext3": "-F", "xfs": "-f", "btrfs": "-f"}
_QUIET = {"ext4": "-q", "ext3": "-q", "xfs": "-q", "btrfs": "-q"}
_ALWAYS = {"xfs": ("nouuid",)}
"""Mount options: a restored snapshot bears its origin's UUID, and both may be in use on one node."""
_NO_REPLAY = {"ext4": ("noload",), "ext3": ("noload",), "xfs": ("norecovery",)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The file system that is asked for: `kind` is "" for whatever is there, and ext4 where nothing is."""

    kind: str = ""
    mkfs_options: str = ""


class FileSystems:
    """Probes, makes, checks and grows."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def probe(self, device: Path) -> str:
        """What is on the device: a file system's name, or "" for surely nothing. Raises Unfit where that can't be told."""
        words = ["blkid", "--probe", "--output", "value", "--match-tag", "TYPE", str(device)]
        try:
            found = self._commands.run(str(device), words, _PROBE_SECONDS).strip()
        except CommandFailed as error:
            if error.code == _AMBIGUOUS:
                raise Unfit(str(device), "bears the signatures of several file systems") from error
            if error.code != _NOTHING:
                raise Unavailable(f"reading {device}: {error.said}") from error
            found = ""
        if found:
            return found
        if not is_empty(device):
            raise Unfit(str(device), "holds data that is no known file system: it is not formatted over")
        return ""

    def make(self, device: Path, wanted: Wanted) -> None:
        """Make the file system, whatever is there. Raises InvalidRequest for options that mkfs refuses."""
        kind = wanted.kind or "ext4"
        options = options_of(wanted.mkfs_options) or list(_DEFAULTS[kind])
        words = [f"mkfs.{kind}", _QUIET[kind], _FORCE[kind], *options, str(device)]
        try:
            self._commands.run(str(device), words, _FORMAT_SECONDS)
        except CommandFailed as error:
            if error.code == 127:
                raise Unfit("this node", f"has no {words[0]}") from error
            if "too small" in error.said or "must be larger" in error.said or "smallest" in error.said:
                raise OutOfRange("size", size_of(device), f"{words[0]}: {error.said}") from error
            if wanted.mkfs_options:
                raise InvalidRequest("mkfsOptions", wanted.mkfs_options, error.said) from error
            raise Unavailable(str(error)) from error

    def check(self, device: Path, kind: str) -> None:
        """Replay and repair what is safe to repair; a file system that was left clean costs a read. Raises Unfit."""
        if kind not in ("ext4", "ext3"):
            return  # xfs and btrfs look after themselves as they are mounted
        try:
            self._commands.run(str(device), ["e2fsck", "-p", str(device)], _CHECK_SECONDS)
        except CommandFailed as error:
            if error.code & ~3:
                raise Unfit(f"{kind} on {device}", f"is damaged, and a person has to repair it: {error.said}") from error

    def grow(self, device: Path, kind: str, target: Path) -> None:
        """Let a mounted file system fill its device; one that does so already is left alone."""
        words = {
            "ext4": ["resize2fs", str(device)],
            "ext3": ["resize2fs", str(device)],
            "xfs": ["xfs_growfs", str(target)],
            "btrfs": ["btrfs", "filesystem", "resize", "max", str(target)],
        }.get(kind)
        if words is None:
            raise Unfit(f"{kind} on {device}", "can't be grown")
        if not self.lags(device, kind):
            return
        try:
            self._commands.run(str(device), words, _GROW_SECONDS)
        except CommandFailed as error:
            if "Permission denied" in error.said or "Operation not permitted" in error.said:
                raise Unfit(f"{kind} on {device}", "can't be grown while mounted: that takes CAP_SYS_RESOURCE") from error
            raise Unavailable(f"growing {kind} on {device}: {error.said}") from error

    def lags(self, device: Path, kind: str) -> bool:
        """Whether the file system is smaller than its device, by more than its own rounding."""
        size = _SIZES[kind](device) if kind in _SIZES else 0
        return size_of(device) - size >= 16 * MIB or not size


def mount_options(kind: str, flags: Sequence[str], *, read_only: bool, untouched: bool) -> list[str]:
    """Options to mount with; `untouched` says that the device can't be written, not even to replay a journal."""
    always = [*_ALWAYS.get(kind, ()), *(["ro"] if read_only else []), *(_NO_REPLAY.get(kind, ()) if untouched else ())]
    return [*always, *(flag for flag in flags if flag not in always)]


def options_of(text: str) -> list[str]:
    """Split options as a shell would. Raises InvalidRequest for what can't be split, or names a file or device itself."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest("mkfsOptions", text, str(error)) from error
    for word in words:
        if word.startswith("/"):
            raise InvalidRequest("mkfsOptions", text, "must not name files or devices")
    return words


def is_empty(device: Path) -> bool:
    """Whether the first and the last MiBs of a device hold nothing but zeros."""
    size = size_of(device)
    with device.open("rb", buffering=0) as opened:
        spans = ((0, min(HEAD, size)), (max(size - TAIL, 0), size))
        return all(_is_zero(opened.fileno(), start, end) for start, end in spans)


def _is_zero(fd: int, start: int, end: int) -> bool:
    while start < end:
        try:
            read = os.pread(fd, min(_STEP, end - start), start)
        except OSError as error:
            raise Unavailable(f"reading the device: {error.strerror}") from error
        if not read or read.count(0) != len(read):
            return False
        start += len(read)
    return True


def _ext_size(device: Path) -> int:
    block = _read(device, 1024, 1024)
    low, order, features, high = (int.from_bytes(block[at : at + 4], "little") for at in (0x4, 0x18, 0x60, 0x150))
    return low + (high << 32 if features & _EXT_64BIT else 0) << 10 + order


def _xfs_size(device: Path) -> int:
    unit, blocks = struct.unpack_from(">IQ", _read(device, 0, 512), 4)
    return int(unit * blocks)


def _btrfs_size(device: Path) -> int:
    return int(struct.unpack_from("<Q", _read(device, 0x10000, 4096), 0x70)[0])


def _read(device: Path, offset: int, length: int) -> bytes:
    with device.open("rb", buffering=0) as opened:
        opened.seek(offset)
        return opened.read(length)


_SIZES: dict[str, Callable[[Path], int]] = {"ext4": _ext_size, "ext3": _ext_size, "xfs": _xfs_size, "btrfs": _btrfs_size}
