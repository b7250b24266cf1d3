"""The work queue: a key is never with two workers at once, and no add is lost."""

import threading
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provisioner.kube.backoff import Backoff, TokenBucket
from provisioner.kube.workqueue import Workers, WorkQueue
from tests.harness.waiting import until

KEYS = st.sampled_from("abcd")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of calls, against what the queue owes: `wanted` are adds that no `get` has answered yet."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = WorkQueue(Backoff(first=1, factor=2, most=8, jitter=0), self.clock)
        self.wanted: set[str] = set()
        self.later: dict[str, float] = {}
        self.working: set[str] = set()
        self.failed: Counter[str] = Counter()

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.wanted.add(key)

    @rule(key=KEYS, seconds=st.integers(min_value=0, max_value=9))
    def add_after(self, key: str, seconds: int) -> None:
        self.queue.add_after(key, seconds)
        self.expect(key, seconds)

    @rule(key=KEYS)
    def add_rate_limited(self, key: str) -> None:
        self.failed[key] += 1
        seconds = min(8, 2 ** (self.failed[key] - 1))
        assert self.queue.add_rate_limited(key) == seconds
        self.expect(key, seconds)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failed[key] = 0

    @rule(seconds=st.integers(min_value=1, max_value=5))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def get(self) -> None:
        self.fall_due()
        key = self.queue.get(timeout=0)
        if key is None:
            assert not self.wanted - self.working
        else:
            assert key not in self.working
            assert key in self.wanted
            self.wanted.discard(key)
            self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key)
        self.working.discard(key)

    @invariant()
    def it_counts_what_it_has(self) -> None:
        depth = self.queue.depth()
        assert depth.processing == len(self.working)
        assert depth.ready + depth.delayed <= len(self.wanted) + len(self.later)

    def expect(self, key: str, seconds: int) -> None:
        if seconds == 0:
            self.wanted.add(key)
        else:
            self.later[key] = min(self.later.get(key, float("inf")), self.clock.now + seconds)

    def fall_due(self) -> None:
        due = {key for key, moment in self.later.items() if moment <= self.clock.now}
        self.wanted |= due
        for key in due:
            del self.later[key]

    def teardown(self) -> None:
        """However it got here, what is wanted is handed out in the end."""
        for key in self.working:
            self.queue.done(key)
        self.clock.now += 100
        self.wanted |= set(self.later)
        handed = set()
        while (given := self.queue.get(timeout=0)) is not None:
            handed.add(given)
            self.queue.done(given)
        assert handed == self.wanted


TestAnySequence = QueueMachine.TestCase
TestAnySequence.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


class TestManyThreads:
    def test_no_key_is_with_two_workers_and_the_last_state_of_each_is_seen(self) -> None:
        queue, lock = WorkQueue(), threading.Lock()
        truth: Counter[str] = Counter()
        seen: dict[str, int] = {}
        busy: set[str] = set()
        doubled: list[str] = []
        settled = threading.Event()
        keys = [f"key-{index}" for index in range(20)]

        def handle(key: str) -> None:
            with lock:
                doubled.extend([key] if key in busy else [])
                busy.add(key)
                value = truth[key]
            with lock:
                busy.discard(key)
                seen[key] = value
                if len(seen) == len(keys) and all(seen[key] == 200 for key in keys):
                    settled.set()

        def produce(mine: list[str]) -> None:
            for _ in range(200):
                for key in mine:
                    with lock:
                        truth[key] += 1
                    queue.add(key)

        workers = Workers(queue, 8, handle)
        workers.start()
        producers = [threading.Thread(target=produce, args=(keys[index::4],)) for index in range(4)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
        assert settled.wait(30)
        assert workers.stop(10)
        assert doubled == []

    def test_a_delayed_key_comes_in_time_though_who_waited_for_it_has_left(self) -> None:
        queue, got = WorkQueue(), []
        leaves = threading.Thread(target=queue.get, args=(0.5,), daemon=True)
        stays = threading.Thread(target=lambda: got.append(queue.get()), daemon=True)
        leaves.start()
        until(lambda: waiting(queue) == 1, 10, "one waits", every=0.01)
        stays.start()
        until(lambda: waiting(queue) == 2, 10, "two wait", every=0.01)
        queue.add_after("later", 0.8)
        stays.join(10)
        assert got == ["later"]
        leaves.join(10)

    def test_a_bug_with_one_key_stops_neither_the_worker_nor_the_key(self) -> None:
        queue, again, other = WorkQueue(Backoff(first=0.01)), threading.Event(), threading.Event()
        calls: Counter[str] = Counter()

        def handle(key: str) -> None:
            calls[key] += 1
            if key == "good":
                other.set()
            elif calls[key] == 1:
                raise ZeroDivisionError
            else:
                again.set()

        workers = Workers(queue, 1, handle)
        workers.start()
        queue.add("bad")
        queue.add("good")
        assert other.wait(10)
        assert again.wait(10)
        assert workers.stop(10)


class TestShutdown:
    def test_nothing_more_is_handed_out(self) -> None:
        queue = WorkQueue()
        queue.add("a")
        queue.shutdown()
        assert queue.get() is None

    def test_it_ends_the_wait_of_workers(self) -> None:
        queue, got = WorkQueue(), []
        thread = threading.Thread(target=lambda: got.append(queue.get()))
        thread.start()
        queue.shutdown()
        thread.join(10)
        assert got == [None]

    def test_it_waits_for_work_at_hand(self) -> None:
        queue = WorkQueue()
        queue.add("a")
        queue.get()
        threading.Timer(0.2, queue.done, "a").start()
        assert queue.shutdown(10)

    def test_it_says_when_work_goes_on(self) -> None:
        queue = WorkQueue()
        queue.add("a")
        queue.get()
        assert not queue.shutdown(0.1)

    def test_what_is_added_afterwards_is_not_taken(self) -> None:
        queue = WorkQueue()
        queue.shutdown()
        queue.add("a")
        queue.add_after("b", 1)
        assert (queue.depth().ready, queue.depth().delayed) == (0, 0)


class TestWhatItTells:
    def test_ages(self) -> None:
        clock = Clock()
        queue = WorkQueue(clock=clock)
        queue.add("a")
        clock.now = 3
        queue.add("b")
        queue.get()
        clock.now = 10
        assert (queue.depth().oldest_ready, queue.depth().longest_processing) == (7, 7)

    def test_first_come_first_served(self) -> None:
        queue = WorkQueue()
        for key in "cab":
            queue.add(key)
        assert [queue.get(0) for _ in range(3)] == ["c", "a", "b"]


class TestBackoff:
    def test_it_doubles_up_to_its_most(self) -> None:
        backoff = Backoff(first=1, factor=2, most=10, jitter=0)
        assert [backoff.after(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [1, 2, 4, 8, 10, 10]

    def test_jitter_only_adds(self) -> None:
        waits = {Backoff(first=1, jitter=0.5).after(1) for _ in range(100)}
        assert len(waits) > 50
        assert all(1 <= wait <= 1.5 for wait in waits)


class TestTokenBucket:
    def test_the_burst_is_free_and_the_rest_waits_its_turn(self) -> None:
        bucket = TokenBucket(rate=2, burst=3, clock=Clock())
        assert [bucket.reserve() for _ in range(5)] == [0, 0, 0, 0.5, 1.0]

    def test_tokens_come_back_up_to_the_burst(self) -> None:
        clock = Clock()
        bucket = TokenBucket(rate=1, burst=2, clock=clock)
        assert [bucket.take() for _ in range(3)] == [True, True, False]
        clock.now = 100
        assert [bucket.take() for _ in range(3)] == [True, True, False]


def waiting(queue: WorkQueue) -> int:
    return len(queue._changed._waiters)  # type: ignore[attr-defined]


def test_done_without_get_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        WorkQueue().done("a")
