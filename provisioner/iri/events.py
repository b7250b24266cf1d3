"""What happened to whose volume or bucket, for the poollets to tell on their Kubernetes objects. It survives a restart."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

import msgspec

from provisioner.core.errors import ProvisionerError
from provisioner.iri.pb.event.v1alpha1.api_pb2 import Event
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata

log = logging.getLogger(__name__)

MOST = 2000
"""Events of one answer: the newest ones, and no more than fit into gRPC's 4 MiB."""
_LONGEST_LABEL, _MOST_LABELS, _LONGEST_MESSAGE = 256, 16, 1000


class EventLog(Protocol):
    """Where events are kept, in order of time, for an hour or so."""

    def append(self, record: bytes) -> None:
        """Keep one more. Raises errors of the core."""

    def read(self, since: int, until: int) -> Iterator[bytes]:
        """Those of the seconds from `since` to `until` (since 1970, both inclusive, 0 leaves the side open), oldest first."""


class MemoryLog:
    """A log for runtimes that have no pool to keep one in; it ends with the process. Thread-safe."""

    def __init__(self, most: int = 10_000) -> None:
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=most)

    def append(self, record: bytes) -> None:
        """Keep one more."""
        self._kept.append((int(time.time()), record))

    def read(self, since: int, until: int) -> Iterator[bytes]:
        """Those of the window."""
        return iter([record for at, record in list(self._kept) if at >= since and (not until or at <= until)])


class Filter(Protocol):
    """The filter of volumes' and of buckets' events."""

    @property
    def id(self) -> str:
        """Of the object; "" for all."""

    @property
    def label_selector(self) -> Mapping[str, str]:
        """Labels that the object has to bear."""

    @property
    def events_from_time(self) -> int:
        """Seconds since 1970, inclusive; 0 for all."""

    @property
    def events_to_time(self) -> int:
        """Seconds since 1970, inclusive; 0 for all."""


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    labels: dict[str, str]
    reason: str
    message: str
    action: str
    time: int
    type: Literal["Normal", "Warning"] = "Normal"


class Events:
    """Writes events down and gives them back. What can't be written is logged: no request fails for it."""

    def __init__(self, kept: EventLog) -> None:
        self._kept = kept

    def normal(self, action: str, about: ObjectMetadata, reason: str, message: str) -> None:
        """Something went well."""
        self._write(_record(action, about, reason, message, "Normal"))

    def warning(self, action: str, about: ObjectMetadata, reason: str, message: str) -> None:
        """Something did not."""
        self._write(_record(action, about, reason, message, "Warning"))

    @contextmanager
    def failures(self, action: str, about: ObjectMetadata, reason: str) -> Iterator[None]:
        """Tell of an error of the core that ends the block."""
        try:
            yield
        except ProvisionerError as error:
            self.warning(action, about, reason, str(error))
            raise

    def listed(self, wanted: Filter) -> list[Event]:
        """The events that the filter admits, oldest first; of more than MOST the newest."""
        found = []
        for raw in self._kept.read(wanted.events_from_time, wanted.events_to_time):
            record = _decoded(raw)
            if record is not None and _admits(wanted, record):
                found.append(record)
        return [_event(record) for record in found[-MOST:]]

    def _write(self, record: _Record) -> None:
        try:
            self._kept.append(msgspec.json.encode(record))
        except ProvisionerError as error:
            log.warning("event %s of %s is lost: %s", record.reason, record.id, error)


def _record(action: str, about: ObjectMetadata, reason: str, message: str, kind: Literal["Normal", "Warning"]) -> _Record:
    short = [(key, value) for key, value in sorted(about.labels.items()) if len(key) + len(value) <= _LONGEST_LABEL]
    labels = dict(short[:_MOST_LABELS])
    return _Record(about.id, labels, reason, message[:_LONGEST_MESSAGE], action, int(time.time()), kind)


def _decoded(raw: bytes) -> _Record | None:
    try:
        return msgspec.json.decode(raw, type=_Record)
    except msgspec.DecodeError:  # written by a later version, perhaps
        return None


def _admits(wanted: Filter, record: _Record) -> bool:
    if wanted.id and wanted.id != record.id:
        return False
    return all(record.labels.get(key) == value for key, value in wanted.label_selector.items())


def _event(record: _Record) -> Event:
    event = Event()
    event.spec.involved_object_meta.CopyFrom(ObjectMetadata(id=record.id, labels=record.labels))
    event.spec.reason, event.spec.message, event.spec.type = record.reason, record.message, record.type
    event.spec.event_time, event.spec.action = record.time, record.action
    return event
