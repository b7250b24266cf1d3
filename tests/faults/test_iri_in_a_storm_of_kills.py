"""`iri-volumes` killed again and again while poollets work on their volumes: one volume per uid, and nothing left. About 60 s."""

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.contract.iri import MIB, Poollet, new_uid, program
from tests.harness.ceph import Ceph
from tests.harness.waiting import until

KILLS, WORKERS = 20, 4


class Storm:
    """A runtime that is killed at a random moment after each start, until told to stay."""

    def __init__(self, command: list[str], socket: Path) -> None:
        self._command, self._socket = command, socket
        self.kills = 0
        self._process = self._start()

    def rage(self) -> None:
        chance = random.Random(6)  # noqa: S311 - a plan, no secret
        while self.kills < KILLS:
            time.sleep(chance.uniform(0.05, 0.8))
            self._process.kill()
            self._process.wait(10)
            self.kills += 1
            self._process = self._start()

    def end(self) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0

    def _start(self) -> "subprocess.Popen[bytes]":
        self._socket.unlink(missing_ok=True)  # what a killed one left
        process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        until(self._socket.exists, 60, "the socket is there")
        return process


@pytest.fixture
def storm(ceph: Ceph, tmp_path: Path) -> Iterator[tuple[Storm, Poollet]]:
    made = Storm(program(ceph, tmp_path, ceph.pool), tmp_path / "iri.sock")
    poollet = Poollet(f"unix:{tmp_path}/iri.sock")
    try:
        yield made, poollet
    finally:
        poollet.close()
        made.end()


def persist(poollet: Poollet, uid: str, size: int, over: threading.Event, *, deleted: bool = False) -> None:
    """Reconcile until it works, as a poollet does; a storm in which nobody lives for a second may hold it up to its end."""
    patience = 120.0
    while patience > 0:
        with contextlib.suppress(grpc.RpcError):
            poollet.reconcile(uid, size, deleted=deleted)
            return
        began = time.monotonic()
        time.sleep(0.3)
        patience -= time.monotonic() - began if over.is_set() else 0
    raise AssertionError(f"{uid} of {size} bytes, deleted={deleted}: never")


@pytest.mark.timeout(600)
def test_a_storm_of_kills_leaves_one_volume_per_uid_and_then_nothing(storm: tuple[Storm, Poollet], ceph: Ceph) -> None:
    weather, poollet = storm
    over, seen = threading.Event(), list[str]()

    def work(_: int) -> list[str]:
        kept = []
        while not over.is_set():
            uid = new_uid()
            seen.append(uid)
            persist(poollet, uid, MIB, over)
            persist(poollet, uid, 2 * MIB, over)
            if len(seen) % 3:
                persist(poollet, uid, 2 * MIB, over, deleted=True)
            else:
                kept.append(uid)
        return kept

    with ThreadPoolExecutor(WORKERS) as threads:
        workers = [threads.submit(work, number) for number in range(WORKERS)]
        try:
            weather.rage()
        finally:
            over.set()
        kept = [uid for worker in workers for uid in worker.result(240)]
    assert weather.kills == KILLS
    assert len(seen) >= WORKERS * 2
    for uid in kept:
        (found,) = poollet.by_uid(uid)
        assert found.status.access.secret_data["userKey"]
        assert ceph.info(uid)["size"] == 2 * MIB
        persist(poollet, uid, 2 * MIB, over, deleted=True)
    mine = set(seen)
    until(lambda: left(ceph, mine) == "[] [] []", 90, "nothing is left", lambda: left(ceph, mine), every=1)


def left(ceph: Ceph, uids: set[str]) -> str:
    """Images, trash and users of the uids."""
    users = [user for user in ceph.users() if user.removeprefix("client.cp-").rpartition(".")[0] in uids]
    return f"{sorted(uids & set(ceph.images()))} {sorted(uids & set(ceph.trash()))} {users}"
