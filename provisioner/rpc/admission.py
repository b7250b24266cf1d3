"""How many calls work at once. The others wait their turn, as long as they care to; a few too many are told to come again.

gRPC's own bound answers RESOURCE_EXHAUSTED, which callers take for a full pool and a final word. Ours says UNAVAILABLE.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from provisioner.core.errors import Unavailable


class Caller(Protocol):
    """Who waits: the part of grpc.ServicerContext that is asked here."""

    def is_active(self) -> bool:
        """Whether somebody still waits for the answer."""

    def time_remaining(self) -> float | None:
        """Seconds until nobody waits any more; None if the caller named no deadline."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called when the call ends, however it ends; False if it has."""


class _Ticket:
    def __init__(self) -> None:
        self.called, self.granted = threading.Event(), False


class Admission:
    """A number of permits and a queue of bounded length before them, first come, first served."""

    def __init__(self, permits: int, queue: int, patience: float = 60.0) -> None:
        """`patience` bounds in seconds how long a caller without a deadline waits."""
        self._free, self._queue, self._patience = permits, queue, patience
        self._waiting: deque[_Ticket] = deque()
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def entered(self, caller: Caller) -> Iterator[None]:
        """Hold a permit for the block. Raises Unavailable where none comes in time."""
        ticket = self._draw()
        if not ticket.granted:
            self._wait(ticket, caller)
        try:
            yield
        finally:
            self._release()

    def close(self) -> None:
        """Let nobody in any more; those that wait are sent away, those inside finish."""
        with self._lock:
            self._closed = True
            for ticket in self._waiting:
                ticket.called.set()

    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return len(self._waiting)

    def _draw(self) -> _Ticket:
        ticket = _Ticket()
        with self._lock:
            if self._closed:
                raise Unavailable("the server is shutting down")
            if self._free:
                self._free -= 1
                ticket.granted = True
            elif len(self._waiting) >= self._queue:
                raise Unavailable(f"too many calls at once: {len(self._waiting)} wait already")
            else:
                self._waiting.append(ticket)
        return ticket

    def _wait(self, ticket: _Ticket, caller: Caller) -> None:
        started, limit = time.monotonic(), caller.time_remaining()
        caller.add_callback(ticket.called.set)
        if caller.is_active():
            ticket.called.wait(self._patience if limit is None else min(limit, self._patience))
        with self._lock:
            if not ticket.granted:
                self._waiting.remove(ticket)
        if not ticket.granted:
            why = "the server is shutting down" if self._closed else "no turn came in time"
            raise Unavailable(f"waited {time.monotonic() - started:.1f} s for others to finish: {why}")
        if not caller.is_active():
            self._release()
            raise Unavailable("the caller went away before its turn came")

    def _release(self) -> None:
        with self._lock:
            if self._waiting and not self._closed:
                ticket = self._waiting.popleft()
                ticket.granted = True
                ticket.called.set()
            else:
                self._free += 1
