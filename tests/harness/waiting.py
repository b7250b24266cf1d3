"""Waiting on a condition, with a deadline, and with what was seen instead when it passes."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | None], seconds: float, what: str, seen: Callable[[], str] = lambda: "", every: float = 0.1
) -> T:
    """The first true value of `condition`; fails the test after `seconds`, saying what was waited for and what was seen."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds} s: {what}; instead: {seen()}")
        pause.wait(every)
