"""Mounts, as the kernel tells of them in mountinfo (proc(5)): asked every time, remembered never."""

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.core.errors import InUse, InvalidRequest, OutOfSpace, Unavailable, Unfit
from provisioner.host.commands import CommandFailed, Commands

_SECONDS = 60.0
_LONGEST = 4095
DEAD = (errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ESHUTDOWN)
"""What a path says whose file system has lost its device."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device` is major and minor of the file system, `root` what of it is mounted."""

    device: tuple[int, int]
    root: str
    target: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written here, because of the mount or of the file system under it."""
        return "ro" in self.options or "ro" in self.super_options


def parse_mountinfo(text: str) -> list[Mount]:
    """Read mountinfo, in its order: of several mounts on one target, the last is the one that is seen."""
    return [_mount(line) for line in text.splitlines() if " - " in line]


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, root, target, options = before.split(" ")[:6]
    fs_type, source, super_options = [*after.split(" "), "", ""][:3]
    major, _, minor = device.partition(":")
    return Mount(
        (int(major), int(minor)),
        _plain(root),
        _plain(target),
        frozenset(options.split(",")),
        fs_type,
        _plain(source),
        frozenset(super_options.split(",")),
    )


def _plain(text: str) -> str:
    """Undo the kernel's escapes: of blanks, line ends and backslashes."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def check_path(field: str, text: str) -> Path:
    """Give the path if it is one that we may mount on. Raises InvalidRequest for what is none, or leads elsewhere."""
    if not text:
        raise InvalidRequest(field, "", "must not be empty")
    if not text.startswith("/") or ".." in text.split("/"):
        raise InvalidRequest(field, text, "must be an absolute path without '..'")
    if _CONTROL.search(text) or len(os.fsencode(text)) > _LONGEST or any(len(os.fsencode(p)) > 255 for p in text.split("/")):
        raise InvalidRequest(field, text[:256], "is no path that we would use: too long, or with control characters")
    path = Path(text)
    try:
        if stat.S_ISLNK(path.lstat().st_mode):
            raise InvalidRequest(field, text, "is a link: it would have us mount elsewhere")
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno not in DEAD:
            raise InvalidRequest(field, text, error.strerror or str(error)) from error
    return path.parent.resolve() / path.name


def make_place(field: str, path: Path, *, is_file: bool = False, parents: bool = False) -> None:
    """Make the directory or the file that something is to be mounted on; there already is fine.

    Raises OutOfSpace where the node's own disk is full, and InvalidRequest.
    """
    try:
        if is_file:
            path.touch(mode=0o640)
        else:
            path.mkdir(mode=0o750, exist_ok=True, parents=parents)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"{path.parent} on this node") from error
        raise InvalidRequest(field, path, error.strerror or str(error)) from error


class Mounts:
    """Mounts and unmounts, with a deadline each."""

    def __init__(self, commands: Commands, table: Path = Path("/proc/self/mountinfo")) -> None:
        self._commands, self._table = commands, table

    def all(self) -> list[Mount]:
        """Every mount of this mount namespace."""
        return parse_mountinfo(self._table.read_text(errors="surrogateescape"))

    def at(self, target: Path) -> Mount | None:
        """What is mounted there, the uppermost."""
        return next((mount for mount in reversed(self.all()) if mount.target == str(target)), None)

    def of(self, device: Path) -> list[Mount]:
        """The mounts of the file system on a device, and of the device's own node (as block volumes are published)."""
        number = device_number(device)
        return [mount for mount in self.all() if mount.device == number or _is_btrfs(mount, device) or _is_node(mount, number)]

    def mount(self, source: Path, target: Path, fs_type: str, options: Sequence[str]) -> None:
        """Mount a file system. Raises Unfit if it can't be mounted so, Unavailable if that takes too long."""
        words = ["mount", "-t", fs_type, *(["-o", ",".join(options)] if options else []), str(source), str(target)]
        try:
            self._commands.run(str(target), words, _SECONDS)
        except CommandFailed as error:
            raise Unfit(f"{fs_type} on {source}", f"can't be mounted with options {','.join(options)!r}: {error.said}") from error

    def bind(self, source: Path, target: Path, *, read_only: bool = False) -> None:
        """Have a directory or a device's node show up at a second place."""
        try:
            self._commands.run(str(target), ["mount", "--bind", str(source), str(target)], _SECONDS)
            if read_only:
                self._commands.run(str(target), ["mount", "-o", "remount,bind,ro", str(target)], _SECONDS)
        except CommandFailed as error:
            raise Unavailable(f"bind mount of {source} at {target}: {error.said}") from error

    def unmount(self, target: Path) -> None:
        """Unmount whatever is mounted there, layer by layer; nothing is fine. Raises InUse while files are open."""
        while self.at(target) is not None:
            try:
                self._commands.run(str(target), ["umount", str(target)], _SECONDS)
            except CommandFailed as error:
                if "busy" in error.said:
                    raise InUse(str(target), ["a process with files open there"]) from error
                if self.at(target) is not None:
                    raise Unavailable(f"unmounting {target}: {error.said}") from error


def device_number(device: Path) -> tuple[int, int]:
    """Major and minor of a block device's node."""
    number = device.stat().st_rdev
    return os.major(number), os.minor(number)


def _is_btrfs(mount: Mount, device: Path) -> bool:
    """Btrfs shows a device number of its own, but the path it was mounted from."""
    return mount.fs_type == "btrfs" and mount.source == str(device)


def _is_node(mount: Mount, number: tuple[int, int]) -> bool:
    if mount.fs_type not in ("devtmpfs", "tmpfs") or mount.root == "/":
        return False
    try:
        found = os.stat(mount.target)
    except OSError:
        return False
    return stat.S_ISBLK(found.st_mode) and (os.major(found.st_rdev), os.minor(found.st_rdev)) == number
