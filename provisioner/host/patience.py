"""Calls into the kernel that may never return, made in a thread of their own so that only that thread waits for ever.

The same call asked for again joins the one under way: nothing piles up behind a dead cluster.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLong
from typing import Any, TypeVar

from provisioner.core.errors import ProvisionerError, Unavailable

T = TypeVar("T")


class Patience:
    """The calls under way, by what they are about."""

    def __init__(self) -> None:
        self._calls: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def call(self, about: str, seconds: float, work: Callable[[], T]) -> T:
        """Do `work`, or wait for the one under way about the same thing. Raises what it raises, Unavailable after `seconds`."""
        with self._lock:
            running: Future[T] | None = self._calls.get(about)
            if running is None:
                running = self._calls[about] = Future()
                threading.Thread(target=self._do, args=(about, running, work), name=f"wait-{about}", daemon=True).start()
        try:
            return running.result(seconds)
        except WaitedTooLong:
            raise Unavailable(f"{about} did not come to an end in {seconds:.0f} s") from None

    def _do(self, about: str, call: "Future[T]", work: Callable[[], T]) -> None:
        result, failure = None, None
        try:
            result = work()
        except (OSError, ProvisionerError) as error:
            failure = error
        finally:
            with self._lock:
                del self._calls[about]
        if failure is not None:
            call.set_exception(failure)
        else:
            call.set_result(result)  # type: ignore[arg-type]
