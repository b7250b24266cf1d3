"""Events: what is kept of them, and which are given back. No seconds."""

from collections.abc import Iterator

import pytest

from provisioner.core.errors import Unavailable
from provisioner.iri.events import MOST, Events
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata
from provisioner.iri.pb.volume.v1alpha1.api_pb2 import EventFilter


class Kept:
    """A log in memory."""

    def __init__(self) -> None:
        self.records = list[bytes]()

    def append(self, record: bytes) -> None:
        self.records.append(record)

    def read(self, since: int, until: int) -> Iterator[bytes]:
        yield from self.records


class Away(Kept):
    def append(self, record: bytes) -> None:
        raise Unavailable("no Ceph")


def about(**labels: str) -> ObjectMetadata:
    return ObjectMetadata(id="a", labels=labels)


def test_an_event_that_cannot_be_kept_fails_nothing() -> None:
    Events(Away()).normal("Create", about(), "Made", "")


def test_a_failure_is_told_and_goes_on() -> None:
    events = Events(Kept())
    with pytest.raises(Unavailable), events.failures("Create", about(), "NotMade"):
        raise Unavailable("no Ceph")
    (told,) = events.listed(EventFilter())
    assert (told.spec.type, told.spec.reason, told.spec.message) == ("Warning", "NotMade", "no Ceph")


def test_labels_too_long_for_an_event_are_left_out() -> None:
    kept = Kept()
    Events(kept).normal("Create", about(uid="u", note="x" * 65536), "Made", "y" * 65536)
    assert len(kept.records[0]) < 1200
    assert b'"uid":"u"' in kept.records[0]


def test_of_very_many_events_the_newest_are_told() -> None:
    events = Events(Kept())
    for number in range(MOST + 5):
        events.normal("Create", about(), str(number), "")
    told = events.listed(EventFilter())
    assert (len(told), told[0].spec.reason, told[-1].spec.reason) == (MOST, "5", str(MOST + 4))


def test_a_record_of_a_later_version_is_passed_over() -> None:
    kept = Kept()
    kept.records.append(b'{"what": 1}')
    assert Events(kept).listed(EventFilter()) == []


def test_the_filter_goes_by_id_and_labels() -> None:
    events = Events(Kept())
    events.normal("Create", about(uid="u"), "Made", "")
    assert len(events.listed(EventFilter(id="a", label_selector={"uid": "u"}))) == 1
    assert events.listed(EventFilter(id="b")) == events.listed(EventFilter(label_selector={"uid": "v"})) == []
