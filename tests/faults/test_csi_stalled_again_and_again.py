"""The OSD or a controller stops in its tracks, over and over, in the midst of calls whose askers lose patience. About 60 s.

Threads and memory stay as they were, no name is wedged, and in the end nothing is left. CEPH_PROVISIONER_TEST_STALLS=100 is the
long form, of ten minutes; CEPH_PROVISIONER_TEST_SEED repeats a plan.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.pb import csi_pb2, csi_pb2_grpc
from tests.faults.test_csi_in_a_storm_of_kills import leftovers
from tests.harness import sidecars
from tests.harness.askers import Asker, Door
from tests.harness.ceph import Ceph
from tests.harness.sidecars import CsiController
from tests.harness.waiting import until

STALLS = int(os.environ.get("CEPH_PROVISIONER_TEST_STALLS", "10"))
SEED = os.environ.get("CEPH_PROVISIONER_TEST_SEED") or os.urandom(4).hex()
ASKERS, TIMEOUT = 6, 3
FEW = 12
"""Threads that may be more or fewer from one calm to another: a connection that is being made anew has as many."""
MOST_GROWTH = 12 << 20


@dataclass(frozen=True)
class Footprint:
    """What a process takes: threads, and bytes of memory."""

    threads: int
    rss: int

    @classmethod
    def of(cls, controller: CsiController) -> "Footprint":
        return cls(len(list(Path(f"/proc/{controller.pid}/task").iterdir())), controller.rss_bytes())


@pytest.fixture
def controllers(ceph: Ceph, pool: str, tmp_path: Path) -> Iterator[list[CsiController]]:
    """Two processes with one pool, who give each call to Ceph 3 s."""
    with sidecars.controllers(ceph, pool, tmp_path, "stalls.example.com", timeout=TIMEOUT) as made:
        yield made


def impatient(dice: random.Random) -> Callable[[Any, Any], Any]:
    """Calls that often end before their answer: by a deadline, or because whoever asked hangs up."""

    def call(method: Any, request: Any) -> Any:
        if dice.random() < 0.5:
            return method(request, timeout=30)
        answer = method.future(request, timeout=dice.choice((0.01, 0.1, 1, 5, 30)))
        if dice.random() < 0.5:
            timer = threading.Timer(dice.expovariate(10), answer.cancel)
            timer.start()
        try:
            return answer.result()
        except grpc.FutureCancelledError:
            raise Cancelled from None

    return call


class Cancelled(grpc.RpcError):
    """What a call that its own asker ended raises from a stub."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "hung up"


@contextmanager
def stopped(controller: CsiController) -> Iterator[None]:
    os.kill(controller.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(controller.pid, signal.SIGCONT)


@contextmanager
def at_work(askers: list[Asker]) -> Iterator[None]:
    """All of them, for the block; what goes wrong with one of them fails it."""
    for asker in askers:
        asker.stop.clear()
    with ThreadPoolExecutor(len(askers)) as threads:
        working = [threads.submit(asker.run) for asker in askers]
        try:
            yield
        finally:
            for asker in askers:
                asker.stop.set()
        for each in working:
            each.result()


class Prober:
    """Asks a controller whether it is well, as a liveness probe does; remembers the longest that it waited."""

    def __init__(self, controller: CsiController) -> None:
        self._channel = grpc.insecure_channel(controller.endpoint)
        self._stub = csi_pb2_grpc.IdentityStub(self._channel)
        self.slowest = 0.0

    def probe(self) -> None:
        began = time.monotonic()
        self._stub.Probe(csi_pb2.ProbeRequest(), timeout=30)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def close(self) -> None:
        self._channel.close()


class Weather:
    """Who stalls when, and for how long."""

    def __init__(self, ceph: Ceph, controllers: list[CsiController]) -> None:
        self._ceph, self._controllers = ceph, controllers
        self._dice = random.Random(f"stalls {SEED}")  # noqa: S311 - a plan, no secret
        self.probers = [Prober(each) for each in controllers]
        self.count = 0

    def stall(self) -> None:
        """Once: the OSD, more often than a controller; that one now and then for so long that it counts as dead."""
        pause, dice = threading.Event(), self._dice
        pause.wait(dice.uniform(0.1, 1))
        self.count += 1
        with ExitStack() as stalled:
            if self.count % 4:
                stalled.enter_context(self._ceph.frozen_osd())
                pause.wait(dice.choice((0.05, 0.5, 1, 2, TIMEOUT + 2)))
                for each in self.probers:
                    each.probe()
            else:
                stalled.enter_context(stopped(dice.choice(self._controllers)))
                pause.wait(17 if self.count % 8 == 0 else dice.uniform(0.1, 5))


def calm(controllers: list[CsiController], say: Callable[[str], None]) -> list[Footprint]:
    """What the controllers take once the last call is over, whoever still waited for it."""
    threading.Event().wait(4 * TIMEOUT)
    found = [Footprint.of(each) for each in controllers]
    say("; ".join(f"{each.threads} threads, {each.rss >> 20} MiB" for each in found))
    return found


@pytest.mark.timeout(300 + 30 * STALLS)
def test_a_stall_costs_no_thread_no_memory_and_no_name(
    ceph: Ceph, pool: str, controllers: list[CsiController], say: Callable[[str], None]
) -> None:
    say(f"seed {SEED}: {ASKERS} askers, {STALLS} stalls of the OSD or of one of two controllers")
    doors, weather = [Door(each.endpoint) for each in controllers], Weather(ceph, controllers)
    dice = random.Random(f"patience {SEED}")  # noqa: S311 - a plan, no secret
    askers = [Asker(number, ceph, pool, doors, SEED, impatient(dice)) for number in range(ASKERS)]
    early = max(STALLS // 5, 4)
    with at_work(askers):
        for _ in range(early):
            weather.stall()
    before = calm(controllers, say)
    with at_work(askers):
        for _ in range(STALLS - early):
            weather.stall()
    after = calm(controllers, say)
    say(f"{sum(asker.deeds for asker in askers)} deeds, the slowest probe {max(p.slowest for p in weather.probers):.2f} s")
    for asker in askers:
        asker.check()
        asker.delete_everything()
    until(lambda: not leftovers(ceph, pool), 120, "nothing is left", lambda: "\n".join(leftovers(ceph, pool)[:40]), 1)
    for one, other in zip(before, after, strict=True):
        assert other.threads <= one.threads + FEW
        assert other.rss <= one.rss + MOST_GROWTH
    assert max(each.slowest for each in weather.probers) < 5, "a process that waits for Ceph still answers"
    assert sum(asker.deeds for asker in askers) > STALLS
