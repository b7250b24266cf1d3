"""`hack/bench csi`: our RPCs beside the bare librbd calls that each needs, on the same cluster, in turn."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hack.benches.calls import LIFE, Bare, Call, Ours
from hack.benches.server import Served, served
from tests.harness.ceph import Ceph

_ROUNDS = 3
_FLOOR_MS = 2.0
"""CPU that a call may cost beyond 1.2 times the bare ones."""


@dataclass
class Measured:
    """One call, one number in flight: seconds and CPU seconds of each round, and every call's own seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)

    def run(self, call: Call, subjects: list[str], in_flight: int, cpu: Callable[[], float]) -> None:
        def timed(subject: str) -> None:
            began = time.monotonic()
            call(subject)
            self.each.append(time.monotonic() - began)

        spent, began = cpu(), time.monotonic()
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(timed, subjects))
        self.wall.append((time.monotonic() - began) / len(subjects))
        self.cpu.append((cpu() - spent) / len(subjects))


def csi(ceph: Ceph, directory: Path, number: int) -> None:
    """Measure `number` volumes a round at 1, 8 and 32 in flight."""
    bare = Bare(ceph)
    with served(ceph, directory) as ours:
        idle = ours.rss()
        _rounds(bare, ours, ceph.pool, 1, ["warm"], {})
        for in_flight in (1, 8, 32):
            found: dict[str, tuple[Measured, Measured]] = {}
            for turn in range(_ROUNDS):
                volumes = [f"{in_flight}-{turn}-{i}" for i in range(max(number, in_flight * 2))]
                _rounds(bare, ours, ceph.pool, in_flight, volumes, found)
            _report(found, in_flight)
        print(f"\nour RSS: {idle:.0f} MB at first, {ours.rss():.0f} MB now", flush=True)
    bare.close()


def _rounds(
    bare: Bare, ours: Served, pool: str, in_flight: int, volumes: list[str], found: dict[str, tuple[Measured, Measured]]
) -> None:
    through = Ours(ours, pool)
    for kind in LIFE:
        floor, measured = found.setdefault(kind, (Measured(), Measured()))
        floor.run(getattr(bare, kind), [f"bare-{each}" for each in volumes], in_flight, time.process_time)
        measured.run(getattr(through, kind), [f"ours-{each}" for each in volumes], in_flight, ours.cpu)


def _report(found: dict[str, tuple[Measured, Measured]], in_flight: int) -> None:
    print(f"\n{in_flight} in flight, medians of {_ROUNDS} rounds; CPU in ms, of our process without gRPC's other end")
    print(
        f"  {'':16}{'bare/s':>8}{'ours/s':>8}{'ratio':>7}{'bare CPU':>10}{'our CPU':>9}{'allowed':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    for kind, (floor, ours) in found.items():
        bare_rate, our_rate = 1 / statistics.median(floor.wall), 1 / statistics.median(ours.wall)
        bare_cpu, our_cpu = statistics.median(floor.cpu) * 1000, statistics.median(ours.cpu) * 1000
        allowed = 1.2 * bare_cpu + _FLOOR_MS
        waits = sorted(ours.each)
        p50, p99 = waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000
        verdict = "" if our_cpu <= allowed and our_rate >= 0.8 * bare_rate else "  !"
        rates = f"{bare_rate:8.1f}{our_rate:8.1f}{our_rate / bare_rate:7.2f}"
        print(f"  {kind:16}{rates}{bare_cpu:10.1f}{our_cpu:9.1f}{allowed:9.1f}{p50:8.1f}{p99:8.1f}{verdict}", flush=True)
