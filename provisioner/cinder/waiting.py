"""Waiting for Cinder to have done what it accepted: it answers at once, and works afterwards.

Many threads wait for volumes of their own, so they share each look at what is under way: in a burst, a look for every volume
would cost Cinder and us more than the volumes do.
"""

import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from provisioner.core.errors import Unavailable

T = TypeVar("T")
_FIRST, _FACTOR, _MOST = 0.3, 1.4, 3.0
_FRESH, _PER_VOLUME, _STALE = 0.4, 0.05, 2.0
"""Seconds for which one look serves all who wait: the longer, the more volumes are under way, up to the last."""


def until(look: Callable[[], T | None], patience: float, what: str) -> T:
    """The first value of `look` that is not None, looking ever more seldom. Unavailable after `patience` seconds."""
    deadline, pause, never = time.monotonic() + patience, _FIRST, threading.Event()
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: not done after {patience:.0f} s")
        never.wait(pause)
        pause = min(pause * _FACTOR, _MOST)
    return found


class UnderWay:
    """The uuids of volumes in one state, as they were at most a moment ago."""

    def __init__(self, read: Callable[[], Collection[str]]) -> None:
        self._read = read
        self._seen: Collection[str] = ()
        self._seen_at = -_FRESH
        self._lock = threading.Lock()

    def has(self, uuid: str, since: float) -> bool:
        """Tell whether the volume was in that state at some moment after `since` (monotonic)."""
        with self._lock:
            now = time.monotonic()
            if self._seen_at < since or now - self._seen_at > min(_FRESH + _PER_VOLUME * len(self._seen), _STALE):
                self._seen, self._seen_at = self._read(), now
            return uuid in self._seen
