"""`hack/bench memory N`: what the program holds after N volumes, made 32 at a time, and whether it grows with them."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from csi.pb import csi_pb2
from hack.benches.calls import LIFE, Call, Ours
from hack.benches.server import Served, program
from tests.harness.ceph import Ceph

_AT_ONCE = 32
_LIVES, _TURNS = 100, 3
_LOOKS = (0.2, 0.6, 1.0)


def memory(ceph: Ceph, directory: Path, number: int) -> None:
    """RSS of `ceph-provisioner controller`: at a fifth of the volumes, at three fifths, at all, and after each kind of call."""
    with program(ceph, directory) as ours:
        calls, made = Ours(ours, ceph.pool), 0
        calls.create("first")
        _tell(ours, "one volume")
        for part in _LOOKS:
            upto, began = round(number * part), time.monotonic()
            _all(calls.create, [f"volume-{i}" for i in range(made, upto)])
            _tell(ours, f"{upto} volumes, {(upto - made) / (time.monotonic() - began):.0f}/s")
            made = upto
        _tell(ours, f"{_listed(ours)} volumes listed")
        for turn in range(_TURNS):
            for kind in LIFE[:-1]:  # a volume is not deleted while the purge removes its clones: ABORTED, and asked again
                _all(getattr(calls, kind), [f"life-{turn}-{i}" for i in range(_LIVES)])
            _tell(ours, f"{(turn + 1) * _LIVES} volumes with a snapshot, a restore, a clone, and these deleted")


def _all(call: Call, subjects: list[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(call, subjects))


def _listed(ours: Served) -> int:
    seen, token = 0, ""
    while True:
        request = csi_pb2.ListVolumesRequest(max_entries=1000, starting_token=token)
        answer = ours.controller.ListVolumes(request, timeout=120)
        seen, token = seen + len(answer.entries), answer.next_token
        if not token:
            return seen


def _tell(ours: Served, what: str) -> None:
    print(f"memory: {ours.rss():6.1f} MB after {what}", flush=True)
