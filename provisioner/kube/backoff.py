"""How long to wait before the next try, and how often something may be done at all."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds that never go back: `time.monotonic`, or a test's own."""

_ENOUGH = 64
"""Failures after which the wait is at its most anyway, and the power would only grow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow: `first` seconds, times `factor` after each failure, at most `most`; then spread by `jitter`.

    The jitter only adds, up to that share of the wait, so that a thousand failures of one cause don't come back as one.
    """

    first: float = 1.0
    factor: float = 2.0
    most: float = 300.0
    jitter: float = 0.1

    def after(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (from 1)."""
        steady = min(self.most, self.first * self.factor ** min(failures - 1, _ENOUGH))
        return steady * (1 + self.jitter * random.random())  # noqa: S311 - spreading, no secret


class TokenBucket:
    """At most `rate` a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._filled = burst, clock()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take one token, if need be one of the future: the seconds to wait before using it."""
        with self._lock:
            self._fill()
            self._tokens -= 1
            return max(0.0, -self._tokens / self._rate)

    def take(self) -> bool:
        """Take one token if there is one now."""
        with self._lock:
            self._fill()
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
