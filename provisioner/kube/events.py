"""Events: what a person sees in `kubectl describe`. Told without waiting, posted by one thread, dropped rather than piled up.

The same event of the same object becomes one Event with a count, as client-go does it. One object can't flood the server:
after a burst it gets one write a minute, and what was held back shows in the count of the next.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from provisioner.kube.backoff import Backoff, Clock, TokenBucket
from provisioner.kube.errors import AlreadyExists, KubeError, NotFound, is_passing
from provisioner.kube.resources import EVENTS, Object
from provisioner.kube.times import now_seconds
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)

Severity = Literal["Normal", "Warning"]
"""An Event's `type`."""

_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 253
_BACKOFF = Backoff(first=1.0, factor=2.0, most=10.0)
_CUT = "..."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is kept in mind, and how much one object may say."""

    queued: int = 1000
    remembered: int = 4096
    """Events, and objects, that are known again."""
    window: float = 600.0
    """Seconds since its last write for which an Event is counted up instead of made anew; the server keeps it an hour."""
    burst: float = 25.0
    """As client-go's: a claim whose every step fails once on its way must still be heard at the last."""
    per_second: float = 1 / 60
    tries: int = 5


@dataclass(frozen=True, slots=True)
class _Told:
    about: Object
    severity: Severity
    reason: str
    message: str
    at: str

    @property
    def subject(self) -> str:
        about = self.about
        return about["uid"] or f"{about['kind']}/{about['namespace']}/{about['name']}"


@dataclass(slots=True)
class _Tally:
    """One Event: its name on the server, whether it is there, and how often it was told since when."""

    name: str
    first: str
    written: float
    count: int = 0
    exists: bool = False


class _Recent(Generic[T]):
    """So many values, by key; the one not asked for the longest makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Any, T] = OrderedDict()

    def get(self, key: object, make: Callable[[], T], stale: Callable[[T], bool] = lambda _: False) -> T:
        value = self._values.pop(key, None)
        if value is None or stale(value):
            value = make()
        self._values[key] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)
        return value


class Recorder:
    """Posts the events of one component."""

    def __init__(
        self, api: Api, component: str, instance: str = "", budget: Budget | None = None, clock: Clock = time.monotonic
    ) -> None:
        """`instance` is the replica's name, to tell several apart."""
        self.dropped = 0
        """Events lost: the queue was full, or the server refused them or could not be reached."""
        self.held_back = 0
        """Events not written for the sake of the rate; the next write of the same one counts them."""
        self._api, self._component, self._instance = api, component, instance
        self._budget, self._clock = budget or Budget(), clock
        self._queue: queue.Queue[_Told | None] = queue.Queue(self._budget.queued)
        self._tallies: _Recent[_Tally] = _Recent(self._budget.remembered)
        self._buckets: _Recent[TokenBucket] = _Recent(self._budget.remembered)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to post."""
        self._thread.start()

    def event(self, about: Mapping[str, Any], severity: Severity, reason: str, message: str) -> None:
        """Tell something about an object (its apiVersion, kind and metadata). Never waits, never raises."""
        try:
            self._queue.put_nowait(_Told(_reference(about), severity, reason, _shortened(message), now_seconds()))
        except queue.Full:
            self._drop()

    def stop(self, timeout: float = 5.0) -> bool:
        """Post what is queued; false if that was not done after `timeout` seconds."""
        limit = self._clock() + timeout
        self._stopping.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return False
        self._thread.join(max(0.0, limit - self._clock()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (told := self._queue.get()) is not None:
            self._tell(told)

    def _tell(self, told: _Told) -> None:
        now = self._clock()
        tally = self._tallies.get(
            (told.subject, told.severity, told.reason, told.message),
            lambda: _Tally(_event_name(told), told.at, now),
            lambda known: now - known.written > self._budget.window,
        )
        tally.count += 1
        bucket = self._buckets.get(told.subject, lambda: TokenBucket(self._budget.per_second, self._budget.burst, self._clock))
        if not bucket.take():
            self.held_back += 1
        elif self._written(told, tally):
            tally.written, tally.exists = now, True
        else:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1

    def _written(self, told: _Told, tally: _Tally) -> bool:
        """Write the event, a few times if need be; says whether the server has it."""
        for attempt in range(1, self._budget.tries + 1):
            try:
                self._write(told, tally)
                return True
            except KubeError as error:
                if not is_passing(error):
                    log.info("event %s about %s is refused: %s", told.reason, told.about["name"], error)
                    return False
                log.info("event %s about %s: %s", told.reason, told.about["name"], error)
            if self._stopping.wait(_BACKOFF.after(attempt)):
                break
        return False

    def _write(self, told: _Told, tally: _Tally) -> None:
        namespace = told.about["namespace"] or "default"
        if tally.exists:
            counted = {"count": tally.count, "lastTimestamp": told.at}
            try:
                self._api.patch(EVENTS.path(namespace, tally.name), counted)
                return
            except NotFound:
                tally.name, tally.exists = _event_name(told), False
        try:
            self._api.create(EVENTS.path(namespace), self._body(told, tally, namespace))
        except AlreadyExists:
            # Its own name of nanoseconds: this is a try of ours whose answer was lost.
            return

    def _body(self, told: _Told, tally: _Tally, namespace: str) -> Object:
        return EVENTS.body(
            {"namespace": namespace, "name": tally.name},
            involvedObject=told.about,
            type=told.severity,
            reason=told.reason,
            message=told.message,
            count=tally.count,
            firstTimestamp=tally.first,
            lastTimestamp=told.at,
            source={"component": self._component, "host": self._instance},
            reportingComponent=self._component,
            reportingInstance=self._instance,
        )


def _reference(about: Mapping[str, Any]) -> Object:
    metadata = about.get("metadata") or {}
    return {
        "apiVersion": about.get("apiVersion", ""),
        "kind": about.get("kind", ""),
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "resourceVersion": metadata.get("resourceVersion", ""),
    }


def _event_name(told: _Told) -> str:
    suffix = f".{time.time_ns():x}"
    return str(told.about["name"])[: _LONGEST_NAME - len(suffix)] + suffix


def _shortened(message: str) -> str:
    """At most as many bytes as an Event may have, cut between characters; what is no Unicode becomes a question mark."""
    encoded = message.encode(errors="replace")
    if len(encoded) > _LONGEST_MESSAGE:
        return encoded[: _LONGEST_MESSAGE - len(_CUT)].decode(errors="ignore") + _CUT
    return encoded.decode()
