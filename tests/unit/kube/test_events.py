"""Events: told at once, written in the background, counted rather than repeated, and never a flood."""

import time
from collections.abc import Callable, Iterator

import pytest

from provisioner.kube.events import Budget, Recorder
from provisioner.kube.resources import Object
from provisioner.kube.transport import Api
from tests.harness.waiting import until
from tests.unit.kube.troubled_apiserver import Server, cut_off, hung_up, refused, silent

CLAIM: Object = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"namespace": "app", "name": "data", "uid": "u-1", "resourceVersion": "7"},
}
VOLUME: Object = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-1", "uid": "u-2"}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(api: Api, clock: Clock) -> Iterator[Recorder]:
    recorder = Recorder(api, "ceph-provisioner", "replica-0", Budget(burst=5), clock)
    recorder.start()
    yield recorder
    recorder.stop()


def events(server: Server) -> list[Object]:
    return [item for (plural, _, _), item in server.kept.objects.items() if plural == "events"]


def test_an_event_says_what_happened_to_what_and_who_says_so(recorder: Recorder, server: Server) -> None:
    recorder.event(CLAIM, "Normal", "ProvisioningSucceeded", "made pv-1")
    assert recorder.stop()
    (event,) = events(server)
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "app",
        "name": "data",
        "uid": "u-1",
        "resourceVersion": "7",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "ProvisioningSucceeded", "made pv-1")
    assert event["source"] == {"component": "ceph-provisioner", "host": "replica-0"}
    assert event["count"] == 1
    assert event["metadata"]["namespace"] == "app"
    assert event["metadata"]["name"].startswith("data.")


def test_what_has_no_namespace_is_told_in_default(recorder: Recorder, server: Server) -> None:
    recorder.event(VOLUME, "Normal", "Released", "gone")
    assert recorder.stop()
    assert events(server)[0]["metadata"]["namespace"] == "default"


def test_the_same_again_is_counted(recorder: Recorder, server: Server) -> None:
    for _ in range(3):
        recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    assert recorder.stop()
    (event,) = events(server)
    assert event["count"] == 3


def test_another_message_is_another_event(recorder: Recorder, server: Server) -> None:
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool gone")
    assert recorder.stop()
    assert sorted(event["message"] for event in events(server)) == ["pool full", "pool gone"]


def test_the_same_much_later_is_a_new_event(recorder: Recorder, server: Server, clock: Clock) -> None:
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    until(lambda: len(events(server)) == 1, 10, "an event is written", every=0.01)
    clock.now += 601
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    until(lambda: len(events(server)) == 2, 10, "a second event is written", every=0.01)
    assert [event["count"] for event in events(server)] == [1, 1]


def test_an_event_the_server_forgot_is_made_again_with_its_count(recorder: Recorder, server: Server) -> None:
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    until(lambda: len(events(server)) == 1, 10, "an event is written", every=0.01)
    server.next("patch", refused(404, "NotFound"))
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    until(lambda: len(events(server)) == 2, 10, "a second event is written", every=0.01)
    assert sorted(event["count"] for event in events(server)) == [1, 2]


def test_one_object_can_not_flood_the_server(recorder: Recorder, server: Server) -> None:
    for index in range(100):
        recorder.event(CLAIM, "Warning", "ProvisioningFailed", f"try {index}")
    recorder.event(VOLUME, "Normal", "Released", "another object is not affected")
    assert recorder.stop()
    assert len(events(server)) == 5 + 1
    assert recorder.held_back == 95


def test_what_was_held_back_shows_in_the_count(recorder: Recorder, server: Server, clock: Clock) -> None:
    for _ in range(100):
        recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    until(lambda: recorder.held_back == 95, 10, "the rest is held back", every=0.01)
    clock.now += 61
    recorder.event(CLAIM, "Warning", "ProvisioningFailed", "pool full")
    assert recorder.stop()
    (event,) = events(server)
    assert event["count"] == 101


@pytest.mark.parametrize("trouble", [refused(500, "InternalError"), hung_up])
def test_a_passing_trouble_is_outwaited(recorder: Recorder, server: Server, trouble: Callable[[object], None]) -> None:
    server.next("create", trouble)
    recorder.event(CLAIM, "Normal", "Provisioning", "begins")
    until(lambda: len(events(server)) == 1, 10, "an event is written", every=0.01)
    assert recorder.dropped == 0


def test_a_create_whose_answer_was_lost_makes_no_second_event(recorder: Recorder, server: Server) -> None:
    def made_but_cut(handler: object) -> None:
        body = handler.request_now.body  # type: ignore[attr-defined]
        server.kept.write(("events", "app", body["metadata"]["name"]), body)
        cut_off(handler)  # type: ignore[arg-type]

    server.next("create", made_but_cut)
    recorder.event(CLAIM, "Normal", "Provisioning", "begins")
    until(lambda: len(server.asked("create")) == 2, 10, "it is tried again", every=0.01)
    assert recorder.stop()
    assert len(events(server)) == 1
    assert recorder.dropped == 0


def test_a_refused_event_is_dropped_and_counted(recorder: Recorder, server: Server) -> None:
    server.next("create", refused(403, "Forbidden"))
    recorder.event(CLAIM, "Normal", "Provisioning", "begins")
    recorder.event(CLAIM, "Normal", "ProvisioningSucceeded", "done")
    assert recorder.stop()
    assert [event["reason"] for event in events(server)] == ["ProvisioningSucceeded"]
    assert recorder.dropped == 1


def test_telling_never_waits_for_the_server(api: Api, server: Server) -> None:
    recorder = Recorder(api, "ceph-provisioner", budget=Budget(queued=10))
    recorder.start()
    server.next("create", silent)
    recorder.event(VOLUME, "Normal", "First", "is being written")
    until(lambda: len(server.requests) == 1, 10, "the first is being written", every=0.01)
    started = time.monotonic()
    for _ in range(1000):
        recorder.event(CLAIM, "Normal", "Provisioning", "begins")
    assert time.monotonic() - started < 2
    assert recorder.dropped == 990
    server.released.set()
    assert recorder.stop(30)


def test_stopping_has_a_deadline(api: Api, server: Server) -> None:
    recorder = Recorder(api, "ceph-provisioner")
    recorder.start()
    server.next("create", silent)
    recorder.event(CLAIM, "Normal", "Provisioning", "begins")
    started = time.monotonic()
    assert not recorder.stop(0.3)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("message", ["x" * 5000, "ü" * 5000, "\U0001f9ea" * 5000])
def test_a_long_message_is_cut_between_characters(recorder: Recorder, server: Server, message: str) -> None:
    recorder.event(CLAIM, "Normal", "Provisioning", message)
    assert recorder.stop()
    written = events(server)[0]["message"]
    assert 1020 <= len(written.encode()) <= 1024
    assert message.startswith(written.removesuffix("..."))


def test_a_message_that_is_no_unicode_is_told_all_the_same(recorder: Recorder, server: Server) -> None:
    recorder.event(CLAIM, "Normal", "Provisioning", "pool \udcff")
    assert recorder.stop()
    assert events(server)[0]["message"] == "pool ?"


def test_a_name_at_the_limit_leaves_room_for_the_events_own(recorder: Recorder, server: Server) -> None:
    recorder.event({**CLAIM, "metadata": {"namespace": "app", "name": "n" * 253}}, "Normal", "Provisioning", "begins")
    assert recorder.stop()
    assert len(events(server)[0]["metadata"]["name"]) == 253
