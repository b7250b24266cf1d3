"""`hack/bench csi`: our RPCs beside the bare librbd calls that each needs, on the same cluster, in turn.

Wall time belongs to whoever else uses the machine; CPU time does not, or much less. So beside the rates stands what a call costs
everybody (its process, gRPC's other end, the OSD): where the processors are the limit, as on one machine, the ratio of
these sums is the ratio of the rates that a quiet machine would show. `most` is the ratio that a server which does nothing but
the bare calls could reach: theirs and an empty RPC's rate, measured in the same round, one after the other.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hack.benches.calls import LIFE, Bare, Call, Ours
from hack.benches.server import Served, cpu_of, served
from tests.harness.ceph import Ceph

_ROUNDS = 3
_FLOOR_MS = 2.0
"""CPU that a call may cost beyond 1.2 times the bare ones."""
_SPREAD = 3.0
"""How many medians the slowest of a hundred may take at 32 in flight."""
_EMPTY = "an empty RPC"


@dataclass
class Measured:
    """One call, one number in flight: seconds of each round, CPU seconds of its process and of all, every call's own seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    all_cpu: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)

    def run(self, call: Call, subjects: list[str], in_flight: int, spent: Callable[[], tuple[float, float]]) -> None:
        """Do the call for every subject; `spent` tells the CPU seconds of its process, and of all processes."""

        def timed(subject: str) -> None:
            began = time.monotonic()
            call(subject)
            self.each.append(time.monotonic() - began)

        before, began = spent(), time.monotonic()
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(timed, subjects))
        self.wall.append((time.monotonic() - began) / len(subjects))
        for sums, now, then in zip((self.cpu, self.all_cpu), spent(), before, strict=True):
            sums.append((now - then) / len(subjects))

    def rate(self) -> float:
        """Calls a second."""
        return 1 / statistics.median(self.wall)

    def waits(self) -> tuple[float, float]:
        """p50 and p99 in ms."""
        waits = sorted(self.each)
        return waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000


Pair = tuple[Measured, Measured]


def csi(ceph: Ceph, directory: Path, number: int) -> None:
    """Measure `number` volumes a round at 1, 8 and 32 in flight."""
    bare = Bare(ceph)
    with served(ceph, directory) as ours:
        idle = ours.rss()
        _round(bare, ours, ceph, 1, ["warm"], {})
        for in_flight in (1, 8, 32):
            found: dict[str, Pair] = {}
            for turn in range(_ROUNDS):
                volumes = [f"{in_flight}-{turn}-{i}" for i in range(max(number, in_flight * 2))]
                _round(bare, ours, ceph, in_flight, volumes, found)
            _report(found, in_flight)
        print(f"\nRSS of this arrangement: {idle:.0f} MB at first, {ours.rss():.0f} MB now; the program's: `hack/bench memory`")
    bare.close()


def _round(bare: Bare, ours: Served, ceph: Ceph, in_flight: int, volumes: list[str], found: dict[str, Pair]) -> None:
    through, osd = Ours(ours, ceph.pool), ceph.osd_pid()

    def by_bare() -> tuple[float, float]:
        mine = time.process_time()
        return mine, mine + cpu_of(osd)

    def by_us() -> tuple[float, float]:
        mine = ours.cpu()
        return mine, mine + time.process_time() + cpu_of(osd)

    _, empty = found.setdefault(_EMPTY, (Measured(), Measured()))
    empty.run(ours.ask_nothing, volumes * 4, in_flight, by_us)
    for kind in LIFE:
        if kind == "delete_snapshot":
            bare.empty_trash()
        floor, measured = found.setdefault(kind, (Measured(), Measured()))
        floor.run(getattr(bare, kind), [f"bare-{each}" for each in volumes], in_flight, by_bare)
        measured.run(getattr(through, kind), [f"ours-{each}" for each in volumes], in_flight, by_us)


def _report(found: dict[str, Pair], in_flight: int) -> None:
    print(f"\n{in_flight} in flight, medians of {_ROUNDS} rounds; CPU in ms: of our process, and of all that take part")
    print(
        f"  {'':16}{'bare/s':>8}{'ours/s':>8}{'ratio':>7}{'most':>7}{'bare CPU':>10}{'our CPU':>9}{'allowed':>9}"
        f"{'all bare':>10}{'all ours':>10}{'ratio':>7}{'p50 ms':>8}{'p99 ms':>8}"
    )
    empty = found[_EMPTY][1]
    cpus = f"{_ms(empty.cpu):>37.1f}{'':>19}{_ms(empty.all_cpu):10.1f}"
    print(f"  {_EMPTY:16}{'':8}{empty.rate():8.1f}{cpus}{'':7}{empty.waits()[0]:8.1f}{empty.waits()[1]:8.1f}", flush=True)
    for kind, (floor, ours) in found.items():
        if kind != _EMPTY:
            print(_line(kind, floor, ours, empty.rate(), in_flight), flush=True)


def _line(kind: str, floor: Measured, ours: Measured, empty_rate: float, in_flight: int) -> str:
    bare_cpu, our_cpu = _ms(floor.cpu), _ms(ours.cpu)
    allowed, (p50, p99) = 1.2 * bare_cpu + _FLOOR_MS, ours.waits()
    ratio = statistics.median(bare / our for bare, our in zip(floor.wall, ours.wall, strict=True))
    all_ratio = _ms(floor.all_cpu) / max(_ms(ours.all_cpu), 0.01)
    most = empty_rate / (empty_rate + floor.rate())
    missed = [our_cpu > allowed, in_flight > 1 and ratio < min(0.8, most), in_flight >= 32 and p99 > _SPREAD * p50]
    rates = f"{floor.rate():8.1f}{ours.rate():8.1f}{ratio:7.2f}{most:7.2f}"
    cpus = f"{bare_cpu:10.1f}{our_cpu:9.1f}{allowed:9.1f}{_ms(floor.all_cpu):10.1f}{_ms(ours.all_cpu):10.1f}{all_ratio:7.2f}"
    return f"  {kind:16}{rates}{cpus}{p50:8.1f}{p99:8.1f}{'  !' if any(missed) else ''}"


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000
