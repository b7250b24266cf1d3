"""Processes that serve a device, and that are nobody's child: how they are found, their end, and what it takes to wait for it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
_PAUSE = 0.02


def running(program: str) -> Iterator[tuple[int, list[str]]]:
    """The processes of that program, each with the words after its name."""
    for entry in PROC.glob("[0-9]*/cmdline"):
        try:
            first, *words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if os.path.basename(first) == program:
            yield int(entry.parent.name), words


def tell(pid: int, told: signal.Signals) -> None:
    """Send the signal; a process that has ended needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, told)


def is_gone(pid: int) -> bool:
    """Whether the process has ended. The first process of a container inherits daemons, and has to bury them."""
    if gone := _state(pid) in ("", "Z", "X"):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return gone


def ended(pid: int, seconds: float) -> bool:
    """Wait for the end of a process that may be nobody's child; False if it lives on after so many seconds."""
    return until(lambda: is_gone(pid), seconds)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; gives whether it came true within so many seconds."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (met := condition()) and time.monotonic() < deadline:
        pause.wait(_PAUSE)
    return met


def _state(pid: int) -> str:
    """One letter (proc(5)), "" for a process that there isn't."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
