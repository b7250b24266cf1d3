"""QMP, as far as a storage daemon needs it: one command, one answer, on the daemon's unix socket."""

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioner.core.errors import Unavailable

_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")


class Monitor:
    """A conversation with one daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, connection.makefile("r")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command. Raises Unavailable with the daemon's words if it fails."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise Unavailable(f"storage daemon, {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise Unavailable(f"storage daemon ended during {command}")


@contextmanager
def connected(path: Path, wake: Callable[[], object]) -> Iterator[Monitor | None]:
    """Talk to the daemon that listens there, for the block; None if there is none.

    `wake` gives the daemon's main loop something to do. It may need that: QEMU 7.2 takes up listening again, after a client has
    gone, in another thread than the one that then sleeps on.
    """
    with _reached(path) as connection:
        if connection is None:
            yield None
            return
        wake()
        try:
            yield Monitor(connection)
        except (OSError, ValueError) as error:
            raise Unavailable(f"storage daemon: {error}") from error


def listener(path: Path) -> int:
    """The process that listens there, as the kernel knows it; 0 if there is none."""
    with _reached(path) as connection:
        if connection is None:
            return 0
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(raw)[0])


@contextmanager
def _reached(path: Path) -> Iterator[socket.socket | None]:
    """Connect, by way of the directory: a socket's path has but 107 bytes."""
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        except (FileNotFoundError, ConnectionRefusedError):
            yield None
            return
        except OSError as error:
            raise Unavailable(f"storage daemon: {error}") from error
        finally:
            os.close(directory)
        yield connection
