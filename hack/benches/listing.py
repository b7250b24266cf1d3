"""`hack/bench list N`: a walk through N volumes, 1,000 a page, while others come and go.

The volumes are headers and entries copied from a real one, with marks of their own: to a listing they are volumes like any other.
"""

import threading
import time
from pathlib import Path

import rados

from csi.pb import csi_pb2
from hack.benches.calls import Ours
from hack.benches.server import served
from provisioner.ceph import headers, marks, names, wire
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Layout
from tests.contract.driver import GIB
from tests.harness.ceph import Ceph

_PAGE = 1000
_BATCH = 500


def listing(ceph: Ceph, directory: Path, number: int) -> None:
    """Walk through `number` volumes twice: once in peace, once while others are made and deleted."""
    with served(ceph, directory) as ours:
        calls = Ours(ours, ceph.pool)
        calls.create("pattern")
        with ceph.admin_pool() as pool:
            _copy(pool, Place("dev", ceph.pool), number)
        idle = ours.rss()
        for how in ("in peace", "while others come and go"):
            stop, passed = threading.Event(), list[str]()
            meddler = threading.Thread(target=_meddle, args=(calls, stop, passed))
            if how != "in peace":
                meddler.start()
            cpu, began = ours.cpu(), time.monotonic()
            seen, pages = _walk(calls)
            spent, took = ours.cpu() - cpu, time.monotonic() - began
            stop.set()
            if how != "in peace":
                meddler.join()
            copies = [each for each in seen if "/copy-" in each]
            missed, twice = number - len(set(copies)), len(seen) - len(set(seen))
            told = f"{took:.1f} s, CPU {spent:.2f} s ({len(passed)} made and deleted among it); missed {missed}, twice {twice}"
            print(f"list: {number} volumes in {pages} pages {how}: {told}")
        print(f"our RSS: {idle:.0f} MB before, {ours.rss():.0f} MB after", flush=True)


def _walk(calls: Ours) -> tuple[list[str], int]:
    seen, token, pages = list[str](), "", 0
    while True:
        request = csi_pb2.ListVolumesRequest(max_entries=_PAGE, starting_token=token)
        answer = calls.served.controller.ListVolumes(request, timeout=120)
        seen += [entry.volume.volume_id for entry in answer.entries]
        pages, token = pages + 1, answer.next_token
        if not token:
            return seen, pages


def _meddle(calls: Ours, stop: threading.Event, passed: list[str]) -> None:
    while not stop.is_set():
        name = f"passing-{len(passed)}"
        calls.create(name)
        calls.delete(name)
        passed.append(name)


def _copy(pool: rados.Ioctx, place: Place, number: int) -> None:
    pattern = wire.omap_whole(pool, headers.header_object(names.read_id(pool, "pattern") or ""))
    plain = {key: value for key, value in pattern.items() if not key.startswith("metadata_")}
    entries: dict[str, bytes] = {}
    for i in range(number):
        name, image_id = f"copy-{i:06}", f"{i * 7919 % number + (1 << 40):x}"
        plan = Blueprint(VolumeId(place, name), name, GIB, Layout(), {"claim": name, "namespace": "bench"})
        told = {f"metadata_{key}": value.encode() for key, value in marks.marks_for(plan, image_id).items()}
        _set(pool, headers.header_object(image_id), plain | told)
        entries |= {f"id_{image_id}": wire.string(name), f"name_{name}": wire.string(image_id)}
        if len(entries) >= 2 * _BATCH or i == number - 1:
            _set(pool, names.DIRECTORY, entries)
            entries = {}


def _set(pool: rados.Ioctx, obj: str, values: dict[str, bytes]) -> None:
    with rados.WriteOpCtx() as operation:
        pool.set_omap(operation, tuple(values), tuple(values.values()))
        pool.operate_write_op(operation, obj)
