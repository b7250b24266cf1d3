"""One operation at a time on a volume, and the same request twice is one operation. Takes three seconds."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.core.errors import Conflict, NotFound, Unavailable
from provisioner.core.single_flight import SingleFlight
from tests.harness.waiting import until


class Slow:
    """Work that ends when the test says so, and counts how often it was begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self._end, self._error, self.times = threading.Event(), threading.Event(), error, 0

    def __call__(self) -> int:
        self.times += 1
        self.began.set()
        assert self._end.wait(10)
        if self._error:
            raise self._error
        return self.times

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def _start(threads: ThreadPoolExecutor, run: Callable[[], int], began: threading.Event) -> "Future[int]":
    future = threads.submit(run)
    assert began.wait(5)
    return future


def test_a_twin_shares_the_result(threads: ThreadPoolExecutor) -> None:
    flights, work = SingleFlight(), Slow()
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    twins = [threads.submit(flights.run, "create", "v", 1, work) for _ in range(10)]
    work.end()
    assert {future.result(5) for future in [first, *twins]} == {1}
    assert work.times == 1


def test_a_twin_shares_the_failure(threads: ThreadPoolExecutor) -> None:
    failure = NotFound("volume v")
    flights, work = SingleFlight(), Slow(failure)
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    twin = threads.submit(flights.run, "create", "v", 1, work)
    work.end()
    assert first.exception(5) is failure
    assert twin.exception(5) is failure
    assert work.times == 1


@pytest.mark.parametrize(("kind", "identity"), [("create", 2), ("delete", 1)])
def test_another_request_on_the_same_volume_is_told_what_runs(threads: ThreadPoolExecutor, kind: str, identity: int) -> None:
    flights, work = SingleFlight(), Slow()
    first = _start(threads, lambda: flights.run("create", "dev/rbd/v", 1, work), work.began)
    with pytest.raises(Conflict, match=r"dev/rbd/v is busy: create of dev/rbd/v runs since \d+ s"):
        flights.run(kind, "dev/rbd/v", identity, work)
    work.end()
    assert first.result(5) == 1


def test_other_volumes_are_not_held_up(threads: ThreadPoolExecutor) -> None:
    flights, work = SingleFlight(), Slow()
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    assert flights.run("create", "w", 1, lambda: 7) == 7
    work.end()
    assert first.result(5) == 1


def test_after_the_end_the_same_request_is_work_again() -> None:
    flights = SingleFlight()
    assert [flights.run("create", "v", 1, lambda n=n: n) for n in (1, 2)] == [1, 2]


def test_after_a_failure_the_same_request_is_work_again() -> None:
    flights = SingleFlight()
    with pytest.raises(NotFound):
        flights.run("get", "v", 1, _fail)
    assert flights.run("get", "v", 1, lambda: 3) == 3
    assert flights.operations() == []


def test_a_twin_waits_no_longer_than_its_patience(threads: ThreadPoolExecutor) -> None:
    flights, work = SingleFlight(patience=0.05), Slow()
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    with pytest.raises(Unavailable, match="create of v runs since"):
        flights.run("create", "v", 1, work)
    work.end()
    assert first.result(5) == 1


def test_a_timeout_of_the_work_itself_is_passed_on_as_it_is(threads: ThreadPoolExecutor) -> None:
    failure = TimeoutError("mine")
    flights, work = SingleFlight(), Slow(failure)
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    twin = threads.submit(flights.run, "create", "v", 1, work)
    work.end()
    assert first.exception(5) is twin.exception(5) is failure


def test_what_runs_can_be_listed_oldest_first(threads: ThreadPoolExecutor) -> None:
    flights, one, two = SingleFlight(), Slow(), Slow()
    futures = [_start(threads, lambda: flights.run("create", "v", 1, one), one.began)]
    futures.append(_start(threads, lambda: flights.run("delete", "w", 1, two), two.began))
    assert [(operation.kind, operation.volume) for operation in flights.operations()] == [("create", "v"), ("delete", "w")]
    one.end()
    two.end()
    assert [future.result(5) for future in futures] == [1, 1]
    until(lambda: not flights.operations(), 5, "nothing runs")


def test_a_listener_hears_of_every_end() -> None:
    heard: list[tuple[str, bool]] = []
    flights = SingleFlight(on_done=lambda kind, seconds, error: heard.append((kind, error is None and seconds >= 0)))
    flights.run("create", "v", 1, lambda: 1)
    with pytest.raises(NotFound):
        flights.run("delete", "v", 1, _fail)
    assert heard == [("create", True), ("delete", False)]


def test_a_listener_that_fails_leaves_no_twin_waiting(threads: ThreadPoolExecutor) -> None:
    def listener(*_: object) -> None:
        raise ValueError("listener")

    flights, work = SingleFlight(on_done=listener), Slow()
    first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
    twin = threads.submit(flights.run, "create", "v", 1, work)
    until(lambda: twin.running(), 5, "the twin waits")
    work.end()
    assert isinstance(first.exception(5), ValueError)
    assert twin.result(5) == 1
    assert flights.operations() == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["create", "delete"]), st.integers(1, 2)), min_size=1, max_size=12))
def test_while_one_runs_only_its_twins_get_an_answer(requests: list[tuple[str, int]]) -> None:
    flights, work = SingleFlight(), Slow()
    with ThreadPoolExecutor(len(requests) + 1) as threads:
        first = _start(threads, lambda: flights.run("create", "v", 1, work), work.began)
        futures = [(request, threads.submit(flights.run, request[0], "v", request[1], work)) for request in requests]
        for request, future in futures:
            if request != ("create", 1):
                assert isinstance(future.exception(5), Conflict)
        work.end()
        assert first.result(5) == 1
        assert {future.result(5) for request, future in futures if request == ("create", 1)} <= {1, 2, 3}


def _fail() -> int:
    raise NotFound("volume v")
