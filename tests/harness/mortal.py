"""A process of the program that dies between two steps of its work on a node: before the call whose number a file has.

A step is a call that leaves the process: to Ceph about an image and its record, to the kernel about a device, or of a program.
While the file isn't there, nothing happens. It is gone once the process is: where it is still there, the work ended first.
"""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from provisioner.ceph.nodes import NodeImages
from provisioner.core.attachments import Attachments
from provisioner.host.commands import Commands
from provisioner.host.devices import netlink
from provisioner.host.devices.krbd import KrbdDevices

ORDER, TRACE = Path("/run/death"), Path("/run/death.steps")
_STEPS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (NodeImages, ("opening", "note", "take_note", "is_blank")),
    (Attachments, ("clients", "watching", "record_client", "clear_client")),
    (Commands, ("run",)),
    (KrbdDevices, ("_write",)),
    (netlink, ("disconnect",)),
)


def become_mortal() -> None:
    """Have every step look first whether it is the last."""
    for owner, names in _STEPS:
        for name in names:
            setattr(owner, name, _mortal(name, getattr(owner, name)))


def _mortal(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def stepped(*arguments: Any, **named: Any) -> Any:
        _look(name, arguments)
        return step(*arguments, **named)

    return stepped


def _look(name: str, arguments: tuple[Any, ...]) -> None:
    try:
        left = int(ORDER.read_text()) - 1
    except (OSError, ValueError):
        return
    with TRACE.open("a") as trace:
        print(name, arguments[2][0] if name == "run" else "", file=trace)
    if left > 0:
        ORDER.write_text(str(left))
        return
    ORDER.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
