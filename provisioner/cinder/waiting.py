"""Waiting for Cinder to have done what it accepted: it answers at once, and works afterwards."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from provisioner.core.errors import Unavailable

T = TypeVar("T")
_FIRST, _FACTOR, _MOST = 0.3, 1.4, 3.0


def until(look: Callable[[], T | None], patience: float, what: str) -> T:
    """The first value of `look` that is not None, looking ever more seldom. Unavailable after `patience` seconds."""
    deadline, pause, never = time.monotonic() + patience, _FIRST, threading.Event()
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: not done after {patience:.0f} s")
        never.wait(pause)
        pause = min(pause * _FACTOR, _MOST)
    return found
