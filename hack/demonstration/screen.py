"""What is said to whoever watches, and the patience between two sentences."""

import sys
import threading
import time
from collections.abc import Callable

from provisioner.kube.resources import Object


def say(text: str) -> None:
    """Open a chapter."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def until(condition: Callable[[], Object | bool | None], seconds: float, what: str) -> Object:
    """Wait, or end the demo saying what did not happen."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"demo: {what} did not happen within {seconds:.0f} s")
        pause.wait(0.1)
    return value if isinstance(value, dict) else {}
