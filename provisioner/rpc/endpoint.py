"""The path of a server's socket: taken only where nobody else could have laid something in wait."""

import os
import socket
import stat
from pathlib import Path

from provisioner.core.errors import InvalidRequest

_LONGEST = 107
"""Bytes that the kernel takes as a socket's path."""


def socket_path(endpoint: str) -> Path:
    """Read `unix:///run/csi.sock` or `unix:/run/csi.sock`. Raises InvalidRequest for anything else."""
    path = endpoint.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    if not endpoint.startswith("unix:") or not path.startswith("/"):
        raise InvalidRequest("endpoint", endpoint, "must be unix:// and an absolute path")
    if len(os.fsencode(path)) > _LONGEST:
        raise InvalidRequest("endpoint", endpoint, f"a socket's path has at most {_LONGEST} bytes")
    return Path(path)


def make_way(path: Path) -> None:
    """Remove the socket that a dead predecessor left. Raises InvalidRequest if anything else is in the way.

    The socket's directory is made if only that is missing: a volume that everybody may write to, as a pod's emptyDir, is then
    good enough to hold it.
    """
    _make_directory(path.parent)
    _refuse_open_directory(path.parent)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidRequest("endpoint", path, "is there already and is no socket")
    if _is_served(path):
        raise InvalidRequest("endpoint", path, "another server answers there")
    path.unlink(missing_ok=True)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o750)
    except FileExistsError:
        return
    except OSError as error:
        raise InvalidRequest("endpoint", directory, error.strerror or str(error)) from error


def _refuse_open_directory(directory: Path) -> None:
    try:
        found = directory.stat()
    except OSError as error:
        raise InvalidRequest("endpoint", directory, error.strerror or str(error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidRequest("endpoint", directory, "is no directory")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise InvalidRequest("endpoint", directory, "everybody may replace files in this directory")
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidRequest("endpoint", directory, "belongs to another user")


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
