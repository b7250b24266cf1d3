"""Join, don't reject: one operation at a time on a volume, and the same request twice is one operation.

This spares work and gives clear answers within one process. Nothing's correctness rests on it: other processes exist.
"""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLong
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provisioner.core.errors import Conflict, Unavailable

T = TypeVar("T")

OnDone = Callable[[str, float, BaseException | None], None]
"""Is told of the kind, the seconds and the failure of an operation."""


@dataclass(slots=True)
class Operation:
    """Work under way on one volume: what `ceph-provisioner operations`, metrics and refusals tell of it."""

    kind: str
    volume: str
    identity: Hashable
    started: float = field(default_factory=time.monotonic)
    percent: int | None = None
    """How far it is, where that can be told."""
    outcome: "Future[Any]" = field(default_factory=Future)

    def __str__(self) -> str:
        far = "" if self.percent is None else f", {self.percent} % done"
        return f"{self.kind} of {self.volume} runs since {time.monotonic() - self.started:.0f} s{far}"


class SingleFlight:
    """The operations of this process, by volume."""

    def __init__(self, patience: float = 60.0, on_done: OnDone | None = None) -> None:
        """`patience` bounds in seconds how long a twin waits; `on_done` hears of every operation that ended."""
        self._patience, self._on_done = patience, on_done
        self._running: dict[str, Operation] = {}
        self._lock = threading.Lock()

    def run(self, kind: str, volume: str, identity: Hashable, work: Callable[[], T]) -> T:
        """Do `work`, or wait for the same work already under way (same kind and identity) and share its result.

        Raises Conflict while something else runs on the volume, Unavailable if the twin takes over `patience` seconds.
        """
        with self._lock:
            running = self._running.get(volume)
            if running is None:
                mine = self._running[volume] = Operation(kind, volume, identity)
        if running is None:
            return self._lead(mine, work)
        if (running.kind, running.identity) != (kind, identity):
            raise Conflict(volume, str(running))
        result: T = self._join(running)
        return result

    def operations(self) -> list[Operation]:
        """What runs now, oldest first."""
        with self._lock:
            return sorted(self._running.values(), key=lambda operation: operation.started)

    def _lead(self, mine: Operation, work: Callable[[], T]) -> T:
        try:
            result = work()
        except BaseException as error:
            self._leave(mine)
            mine.outcome.set_exception(error)
            self._tell(mine, error)
            raise
        self._leave(mine)
        mine.outcome.set_result(result)
        self._tell(mine, None)
        return result

    def _leave(self, mine: Operation) -> None:
        with self._lock:
            del self._running[mine.volume]

    def _tell(self, mine: Operation, error: BaseException | None) -> None:
        if self._on_done is not None:
            self._on_done(mine.kind, time.monotonic() - mine.started, error)

    def _join(self, running: Operation) -> Any:
        try:
            return running.outcome.result(self._patience)
        except WaitedTooLong:
            if running.outcome.done():
                raise
            raise Unavailable(f"{running}, longer than a request may wait") from None
