"""What a node leaves behind when its daemons have ended, or were killed: containers, shims, mounts, control groups, sockets.

It is found by the cluster's directory alone, so that nobody has to be there any more who could tell.
"""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .processes import Process

_LINKS = Path("/var/log/containers")
_SECONDS = 20.0
_OCTAL = re.compile(r"\\([0-7]{3})")


class RemainsError(Exception):
    """Something does not go away; the text says what."""


@dataclass(frozen=True, slots=True)
class Remains:
    """Those of the node in `home`."""

    home: Path

    def clear(self) -> None:
        """End and remove all of it; the daemons have to be gone. Nothing there is fine."""
        groups, sockets = self.groups(), self._sockets()
        _until(lambda: not _end(_members(groups)), "containers end")
        _until(lambda: not _end(self._shims()), "their shims end")
        _unmount(self.home)
        _detach(self.home)
        _until(lambda: _remove(groups), "their control groups go")
        for path in (*sockets, *self._links()):
            path.unlink(missing_ok=True)

    def groups(self) -> list[Path]:
        """The control groups of its containers, as runc has noted them."""
        noted = [json.loads(file.read_text()) for file in self.home.glob("containerd/runc/*/*/state.json")]
        return sorted({Path(group) for state in noted for group in (state.get("cgroup_paths") or {}).values()})

    def mounts(self) -> list[Path]:
        """What is mounted in the directory, in the order in which it was."""
        return mounts(self.home)

    def _sockets(self) -> list[Path]:
        """The shims', each noted in its container's directory."""
        noted = self.home.glob("containerd/state/*/*/*/address")
        return [Path(file.read_text().removeprefix("unix://")) for file in noted]

    def _shims(self) -> list[Process]:
        """Each works in its container's directory."""
        state, found = self.home / "containerd" / "state", list[str]()
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if state in Path(os.readlink(entry)).parents:
                    found.append(entry.parent.name)
        return list(_processes(iter(found)))

    def _links(self) -> list[Path]:
        """Links to its pods' logs, which a kubelet makes in one place for all."""
        return [link for link in _LINKS.glob("*.log") if link.is_symlink() and self.home in Path(os.readlink(link)).parents]


def mounts(directory: Path) -> list[Path]:
    """What is mounted below a directory, in the order in which it was."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    targets = [Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4])) for line in lines]
    return [target for target in targets if directory in target.parents]


def loops(directory: Path) -> list[Path]:
    """Loop devices over files below a directory; a kubelet lays one over the device of each block volume."""
    found = [(entry.parents[1].name, entry.read_text()) for entry in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [Path("/dev", name) for name, backing in sorted(found) if backing.startswith(f"{directory}/")]


def release_devices(directory: Path) -> None:
    """Take the `fuse` devices of a node service away that kept them in this directory, though that is gone."""
    _detach(directory)
    _until(lambda: not _end(storage_daemons(directory)), "storage daemons end")
    _unmount(directory)


def storage_daemons(directory: Path) -> list[Process]:
    """Those that show their images below the directory."""
    daemons = _processes(entry.name for entry in Path("/proc").glob("[0-9]*") if (entry / "comm").exists())
    return [one for one in daemons if one.command[:1] == ("qemu-storage-daemon",) and str(directory) in str(one.command)]


def _unmount(directory: Path) -> None:
    for mount in reversed(mounts(directory)):
        if subprocess.run(["umount", str(mount)], stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["umount", "--lazy", str(mount)], check=False)
    if left := mounts(directory):
        raise RemainsError(f"{left[0]} can't be unmounted")


def _detach(directory: Path) -> None:
    for loop in loops(directory):
        subprocess.run(["losetup", "--detach", str(loop)], check=False)


def _members(groups: list[Path]) -> list[Process]:
    return list(_processes(pid for group in groups for pid in _words(group / "cgroup.procs")))


def _remove(groups: list[Path]) -> bool:
    for group in groups:
        for directory in (group, group.parent):
            with contextlib.suppress(OSError):  # its last process is about to leave it; the parent may be others', too
                directory.rmdir()
    return not any(group.exists() for group in groups)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _processes(pids: Iterator[str]) -> Iterator[Process]:
    for pid in pids:
        if process := Process.with_pid(int(pid)):
            yield process


def _end(processes: list[Process]) -> list[Process]:
    for process in processes:
        process.end(0)
    return processes


def _until(done: Callable[[], bool], what: str) -> None:
    deadline, pause = time.monotonic() + _SECONDS, threading.Event()
    while not done():
        if time.monotonic() > deadline:
            raise RemainsError(f"it takes more than {_SECONDS:.0f} s until {what}")
        pause.wait(0.02)
