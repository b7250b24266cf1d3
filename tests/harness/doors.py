"""Two CSI controllers of one pool, asked by one of them, by both at once, or by one that is killed over it.

Whatever the way, it is one request, and has one answer: askers repeat what a sidecar would repeat, and have to be told the same.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from csi.pb import csi_pb2_grpc
from tests.harness.ceph import Ceph
from tests.harness.sidecars import CsiController, controllers

_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True)
class Way:
    """Which of the controllers are asked at once, and after how many seconds the first of them is killed, if at all."""

    doors: Sequence[int]
    death: float | None = None


class Door:
    """One controller, and a client at its socket."""

    def __init__(self, controller: CsiController) -> None:
        self.process = controller
        self._channel = grpc.insecure_channel(controller.endpoint, options=[("grpc.max_reconnect_backoff_ms", 200)])
        self._stubs = {
            name: getattr(csi_pb2_grpc, f"{name}Stub")(self._channel) for name in ("Controller", "GroupController", "Identity")
        }

    def call(self, method: str, request: Any, timeout: float) -> Any:
        service, name = method.split(".")
        return getattr(self._stubs[service], name)(request, timeout=timeout)

    def close(self) -> None:
        self._channel.close()


class Doors:
    """Both."""

    def __init__(self, doors: Sequence[Door], patience: float = 40.0) -> None:
        """`patience` bounds in seconds how often an asker is sent away with a code that says to come again."""
        self.doors, self._patience = doors, patience
        self.deaths_left = 0
        """How many may still be killed: each costs a start. Where none may, all live."""

    def ask(self, way: Way, method: str, request: Any) -> Any:
        """The answer, or the status code of the refusal, that everybody was given."""
        with ThreadPoolExecutor(len(way.doors)) as askers:
            asked = [askers.submit(self._insist, door, method, request) for door in way.doors]
            if way.death is not None and self.deaths_left:
                self._kill(self.doors[way.doors[0]], way.death)
            answers = [each.result() for each in asked]
        assert all(answer == answers[0] for answer in answers), f"{method}({request}): {answers}"
        return answers[0]

    def walk(self, way: Way, method: str, request: Any) -> list[Any]:
        """All entries of a listing, page after page."""
        listed = list[Any]()
        while True:
            answer = self.ask(way, method, request)
            assert len(answer.entries) <= (request.max_entries or 1000)
            listed += answer.entries
            if not answer.next_token:
                return listed
            request.starting_token = answer.next_token

    def _kill(self, door: Door, after: float) -> None:
        threading.Event().wait(after)
        door.process.kill()
        door.process.start()
        self.deaths_left -= 1

    def _insist(self, number: int, method: str, request: Any) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self.doors[number].call(method, request, timeout=self._patience)
            except grpc.RpcError as error:
                if error.code() not in _AGAIN or time.monotonic() > deadline:
                    return error.code()
                threading.Event().wait(0.05)


@contextmanager
def open_doors(ceph: Ceph, pool: str, directory: Path, count: int = 2) -> Iterator[Doors]:
    """So many controllers for the block, of cluster `dev`, whose only pool is this."""
    with controllers(ceph, pool, directory, "doors.example.com", count) as processes:
        doors = [Door(each) for each in processes]
        try:
            yield Doors(doors)
        finally:
            for door in doors:
                door.close()
