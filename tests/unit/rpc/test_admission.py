"""Who works, who waits, who is sent away."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi.pb import csi_pb2
from provisioner.core.errors import Unavailable
from provisioner.rpc.admission import Admission
from tests.contract.driver import refused
from tests.harness.waiting import until
from tests.unit.rpc.conftest import Bench


class Held:
    """A behaviour that works until let go."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.let_go = threading.Event()

    def __call__(self, request: csi_pb2.CreateVolumeRequest, context: object) -> csi_pb2.CreateVolumeResponse:
        self.names.append(request.name)
        self.let_go.wait(10)
        return csi_pb2.CreateVolumeResponse()


class Caller:
    """Waits so many seconds, and goes away when told."""

    def __init__(self, seconds: float | None = 5.0) -> None:
        self.seconds, self.active = seconds, True
        self.callbacks: list[Callable[[], None]] = []

    def is_active(self) -> bool:
        return self.active

    def time_remaining(self) -> float | None:
        return self.seconds

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return self.active

    def leave(self) -> None:
        self.active = False
        for callback in self.callbacks:
            callback()


@pytest.fixture
def held(bench: Bench) -> Held:
    """Two calls at work, three waiting: the bench is full."""
    behaviour = bench.does["Heavy"] = Held()
    bench.start()
    bench.calls = [bench.future(name=str(number)) for number in range(2)]
    until(lambda: len(behaviour.names) == 2, 5, "two work")
    for number in range(2, 5):
        bench.calls.append(bench.future(name=str(number)))
        until(lambda number=number: bench.server.admission.waiting() == number - 1, 5, "another waits")
    return behaviour


def test_light_calls_are_answered_while_the_server_is_full(bench: Bench, held: Held) -> None:
    with ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: bench.call("Light", timeout=1), range(50)))
    assert len(answers) == 50
    assert time.monotonic() - started < 2
    assert sorted(held.names) == ["0", "1"]


def test_a_call_too_many_is_unavailable_at_once(bench: Bench, held: Held) -> None:
    started = time.monotonic()
    with refused(grpc.StatusCode.UNAVAILABLE, "too many calls at once"):
        bench.call()
    assert time.monotonic() - started < 1


def test_those_that_wait_work_in_the_order_they_came() -> None:
    admission, order = Admission(permits=1, queue=9), list[int]()

    def work(number: int) -> None:
        with admission.entered(Caller()):
            order.append(number)

    with ThreadPoolExecutor(9) as pool, admission.entered(Caller()):
        for number in range(9):
            pool.submit(work, number)
            until(lambda number=number: admission.waiting() == number + 1, 2, "another waits", every=0.005)
    assert order == list(range(9))


def test_those_that_wait_are_served_when_others_finish(bench: Bench, held: Held) -> None:
    held.let_go.set()
    assert [call.result() for call in bench.calls] == [csi_pb2.CreateVolumeResponse()] * 5
    assert sorted(held.names) == ["0", "1", "2", "3", "4"]


def test_who_gave_up_waiting_makes_room_and_never_works(bench: Bench, held: Held) -> None:
    bench.calls[2].cancel()
    until(lambda: bench.server.admission.waiting() == 2, 2, "its place is free")
    late = bench.future(name="late", timeout=0.3)
    assert late.exception().code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    until(lambda: bench.server.admission.waiting() == 2, 2, "its place is free too")
    held.let_go.set()
    assert [call.result() for call in bench.calls[3:]] == [csi_pb2.CreateVolumeResponse()] * 2
    assert sorted(held.names) == ["0", "1", "3", "4"]


def test_a_caller_without_a_deadline_waits_as_long_as_the_server_says() -> None:
    admission = Admission(permits=1, queue=1, patience=0.1)
    with admission.entered(Caller()), pytest.raises(Unavailable, match="no turn came"), admission.entered(Caller(None)):
        pass
    assert admission.waiting() == 0


def test_a_caller_that_left_while_its_turn_came_gives_it_on() -> None:
    admission, gone = Admission(permits=1, queue=2), Caller()
    with ThreadPoolExecutor(1) as pool:
        with admission.entered(Caller()):
            waiting = pool.submit(_enter, admission, gone)
            until(lambda: admission.waiting() == 1, 2, "it waits")
            gone.active = False
        with pytest.raises(Unavailable, match="went away"):
            waiting.result(5)
    with admission.entered(Caller()):
        pass


def _enter(admission: Admission, caller: Caller) -> None:
    with admission.entered(caller):
        pass


@given(st.integers(1, 4), st.integers(0, 6), st.lists(st.sampled_from(["work", "leave", "hurry"]), min_size=1, max_size=24))
@settings(max_examples=25, deadline=None)
def test_never_more_inside_than_permits_and_none_is_lost(permits: int, queue: int, kinds: list[str]) -> None:
    admission, inside, most, lock = Admission(permits, queue), 0, 0, threading.Lock()

    def act(kind: str) -> bool:
        nonlocal inside, most
        caller = Caller(0.001 if kind == "hurry" else 5)
        if kind == "leave":
            threading.Timer(0.001, caller.leave).start()
        try:
            with admission.entered(caller):
                with lock:
                    inside, most = inside + 1, max(most, inside + 1)
                with lock:
                    inside -= 1
        except Unavailable:
            return False
        return True

    with ThreadPoolExecutor(len(kinds)) as pool:
        outcomes = list(pool.map(act, kinds))
    assert any(outcomes)
    assert most <= permits
    assert admission.waiting() == 0
    entered = [admission.entered(Caller()) for _ in range(permits)]
    for each in entered:
        each.__enter__()
    for each in entered:
        each.__exit__(None, None, None)
