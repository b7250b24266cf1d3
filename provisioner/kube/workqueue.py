"""A queue of keys, for workers that bring the object of a key to where it should be.

    add ──> ready ──get──> processing ──done──> (nothing)
             │                 │ add meanwhile
             └── add again     └──> dirty ──done──> ready
        is the same add

A key is never with two workers at once, and an `add` is never lost: what comes while the key is being worked on has it worked
on once more. A key says that something is to be looked at, never what: so any number of adds may be one.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.kube.backoff import Backoff, Clock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Depth:
    """The state of a queue, for metrics; ages in seconds, 0 if there is nothing."""

    ready: int
    processing: int
    delayed: int
    oldest_ready: float
    longest_processing: float


class WorkQueue:
    """Keys to work on, first come first served; thread-safe."""

    def __init__(self, backoff: Backoff | None = None, clock: Clock = time.monotonic) -> None:
        """`backoff` is for `add_rate_limited`: 1 s, doubled with each failure of the same key, up to 5 minutes."""
        self._backoff, self._clock = backoff or Backoff(), clock
        self._changed = threading.Condition()
        self._ready: dict[str, float] = {}
        self._processing: dict[str, float] = {}
        self._dirty: set[str] = set()
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._failures: dict[str, int] = {}
        self._closed = False

    def add(self, key: str) -> None:
        """Have the key worked on, soon."""
        with self._changed:
            self._add(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Have the key worked on, in so many seconds or earlier."""
        if seconds <= 0:
            self.add(key)
            return
        with self._changed:
            due = self._clock() + seconds
            if self._closed or self._due.get(key, due) < due:
                return
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._changed.notify()

    def add_rate_limited(self, key: str) -> float:
        """Have a key that failed worked on again, later each time; gives the seconds until then."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            seconds = self._backoff.after(self._failures[key])
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: str) -> None:
        """The key succeeded: its next failure is its first."""
        with self._changed:
            self._failures.pop(key, None)

    def failures(self, key: str) -> int:
        """How often the key failed in a row."""
        with self._changed:
            return self._failures.get(key, 0)

    def get(self, timeout: float | None = None) -> str | None:
        """Take the next key, to be given back with `done`; None when there was none in time, or after `shutdown`."""
        limit = None if timeout is None else self._clock() + timeout
        with self._changed:
            key = self._next(limit)
            if self._heap:
                # Of all who wait, one waits no longer than until the next delayed key: if that was us, another must now.
                self._changed.notify()
            return key

    def done(self, key: str) -> None:
        """The key was worked on."""
        with self._changed:
            del self._processing[key]
            if key in self._dirty:
                self._dirty.discard(key)
                self._add(key)
            if self._closed:
                self._changed.notify_all()

    def shutdown(self, timeout: float = 0.0) -> bool:
        """Hand out nothing more; wait up to `timeout` seconds for what is being worked on, and say if that has ended.

        What is still queued is dropped: whoever comes next finds it by looking at the objects.
        """
        limit = self._clock() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._processing and self._clock() < limit:
                self._changed.wait(limit - self._clock())
            return not self._processing

    def depth(self) -> Depth:
        """How much waits, and how long."""
        with self._changed:
            now = self._clock()
            return Depth(
                ready=len(self._ready),
                processing=len(self._processing),
                delayed=len(self._due),
                oldest_ready=now - next(iter(self._ready.values()), now),
                longest_processing=now - min(self._processing.values(), default=now),
            )

    def _add(self, key: str) -> None:
        if self._closed:
            return
        if key in self._processing:
            self._dirty.add(key)
        elif key not in self._ready:
            self._ready[key] = self._clock()
            self._changed.notify()

    def _next(self, limit: float | None) -> str | None:
        while not self._closed:
            self._collect_due()
            if self._ready:
                return self._take()
            wait = self._until(limit)
            if wait is not None and wait <= 0:
                break
            self._changed.wait(wait)
        return None

    def _take(self) -> str:
        key = next(iter(self._ready))
        del self._ready[key]
        self._processing[key] = self._clock()
        return key

    def _collect_due(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            # An entry that isn't the key's own any more was overtaken by an earlier one.
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)

    def _until(self, limit: float | None) -> float | None:
        """Seconds to wait at most: until the next delayed key or the caller's limit; None if there is neither."""
        moments = [moment for moment in (limit, self._heap[0][0] if self._heap else None) if moment is not None]
        return min(moments) - self._clock() if moments else None


class Workers:
    """Threads that work on a queue's keys until it is shut down."""

    def __init__(self, queue: WorkQueue, number: int, handle: Callable[[str], None], name: str = "worker") -> None:
        """`handle` asks for the key again itself (`add_after`, `add_rate_limited`) and forgets its failures."""
        self._queue, self._handle = queue, handle
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(number)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> bool:
        """Shut the queue down, let the work at hand end; false if some still ran after `timeout` seconds."""
        return self._queue.shutdown(timeout)

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._handle(key)
            except Exception:
                # The boundary: a bug met with one key must take neither the worker nor that key from the world.
                log.exception("working on %s", key)
                self._queue.add_rate_limited(key)
            finally:
                self._queue.done(key)
