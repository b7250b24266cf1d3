"""People who ask CSI controllers for volumes and snapshots, whatever becomes of those, and who remember what they got.

Each asker has a few names of its own and uses them again and again: what a name answers for is never a predecessor's content.
Content is written and read by librbd with the administrator's key: the other side.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import rbd

from csi.pb import csi_pb2, csi_pb2_grpc
from tests.contract.driver import create_request
from tests.harness.ceph import Ceph

MIB = 1 << 20
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_PATIENCE = 120.0


Call = Callable[[Any, Any], Any]
"""Makes one call to a method of a stub, with a request; raises grpc.RpcError."""


def patiently(method: Any, request: Any) -> Any:
    """Wait half a minute for the answer."""
    return method(request, timeout=30)


@dataclass(slots=True)
class Made:
    """What a name stands for: the id that CSI gave, the content, and the bytes that it has."""

    id: str
    content: bytes
    size: int


@dataclass
class Door:
    """One controller's socket; `started` says since when its process has lived, by the monotonic clock."""

    endpoint: str
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(self.endpoint, options=[("grpc.max_reconnect_backoff_ms", 500)])
        self.controller = csi_pb2_grpc.ControllerStub(self.channel)


class Asker:
    """One person, at it until told to stop."""

    def __init__(self, number: int, ceph: Ceph, pool: str, doors: Sequence[Door], seed: str, call: Call = patiently) -> None:
        self.ceph, self.pool, self._doors, self._call = ceph, pool, doors, call
        self._dice = random.Random(f"{seed}/{number}")  # noqa: S311 - a plan, no secret
        self._names = [f"vol-{number}-{index}" for index in range(5)]
        self._snapshot_names = [f"snap-{number}-{index}" for index in range(4)]
        self.volumes: dict[str, Made] = {}
        self.snapshots: dict[str, Made] = {}
        self.deeds = 0
        self.slowest = 0.0
        """Seconds from the last start of a controller to the answer that was waited for longest."""
        self._count = 0
        self.stop = threading.Event()

    def run(self) -> None:
        deeds = (self._make, self._make, self._take, self._restore, self._clone, self._grow, self._drop_snapshot, self._drop)
        while not self.stop.wait(self._dice.uniform(0, 0.3)):
            self._dice.choice(deeds)()
            self.deeds += 1

    def delete_everything(self) -> None:
        """In any order: volumes before their snapshots, and after them."""
        left: list[Callable[[], None]] = [lambda name=name: self._delete_volume(name) for name in self.volumes]  # type: ignore[misc]
        left += [lambda name=name: self._delete_snapshot(name) for name in self.snapshots]  # type: ignore[misc]
        self._dice.shuffle(left)
        for delete in left:
            delete()

    def check(self) -> None:
        """Read every volume that there should be."""
        for name, made in self.volumes.items():
            assert self._read(name) == made.content, f"{name} holds another's content"

    def _make(self) -> None:
        if name := self._free(self._names, self.volumes):
            made = self._create(name, self._dice.randrange(4, 9) * MIB)
            made.content = self._write(name)

    def _take(self) -> None:
        name, source = self._free(self._snapshot_names, self.snapshots), self._any(self.volumes)
        if not name or not source:
            return
        request = csi_pb2.CreateSnapshotRequest(name=name, source_volume_id=source.id)
        answer = self._ask("CreateSnapshot", request).snapshot
        assert answer.ready_to_use
        assert answer.source_volume_id == source.id
        self.snapshots[name] = Made(answer.snapshot_id, source.content, source.size)

    def _restore(self) -> None:
        if snapshot := self._any(self.snapshots):
            source = csi_pb2.VolumeContentSource.SnapshotSource(snapshot_id=snapshot.id)
            self._copy(snapshot, csi_pb2.VolumeContentSource(snapshot=source))

    def _clone(self) -> None:
        if volume := self._any(self.volumes):
            source = csi_pb2.VolumeContentSource.VolumeSource(volume_id=volume.id)
            self._copy(volume, csi_pb2.VolumeContentSource(volume=source))

    def _copy(self, of: Made, source: csi_pb2.VolumeContentSource) -> None:
        if name := self._free(self._names, self.volumes):
            made = self._create(name, of.size, volume_content_source=source)
            made.content = of.content
            assert self._read(name) == of.content, f"{name} was made of {source} and holds something else"

    def _grow(self) -> None:
        if volume := self._any(self.volumes):
            size = csi_pb2.CapacityRange(required_bytes=volume.size + MIB)
            request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume.id, capacity_range=size)
            volume.size = self._ask("ControllerExpandVolume", request).capacity_bytes

    def _drop(self) -> None:
        if self.volumes:
            self._delete_volume(self._dice.choice(sorted(self.volumes)))

    def _drop_snapshot(self) -> None:
        if self.snapshots:
            self._delete_snapshot(self._dice.choice(sorted(self.snapshots)))

    def _delete_volume(self, name: str) -> None:
        self._ask("DeleteVolume", csi_pb2.DeleteVolumeRequest(volume_id=self.volumes[name].id))
        del self.volumes[name]

    def _delete_snapshot(self, name: str) -> None:
        self._ask("DeleteSnapshot", csi_pb2.DeleteSnapshotRequest(snapshot_id=self.snapshots[name].id))
        del self.snapshots[name]

    def _create(self, name: str, size: int, **fields: object) -> Made:
        request = create_request(name, size, parameters={"clusterID": "dev", "pool": self.pool}, **fields)
        answer = self._ask("CreateVolume", request).volume
        assert answer.capacity_bytes >= size
        made = self.volumes[name] = Made(answer.volume_id, b"", answer.capacity_bytes)
        return made

    def _ask(self, method: str, request: object) -> Any:
        """Ask one controller after the other until one gives an answer that is final."""
        began, turn = time.monotonic(), self._dice.randrange(2)
        while True:
            turn += 1
            door = self._doors[turn % len(self._doors)]
            try:
                answer = self._call(getattr(door.controller, method), request)
            except grpc.RpcError as error:
                if error.code() not in _AGAIN or time.monotonic() - began > _PATIENCE:
                    raise AssertionError(f"{method}({request}): {error.code()}: {error.details()}") from error
                self.stop.wait(0.1)
                continue
            last = max(began, *(each.started for each in self._doors))
            self.slowest = max(self.slowest, time.monotonic() - last)
            return answer

    def _write(self, name: str) -> bytes:
        self._count += 1
        content = f"{name} for the {self._count}. time".ljust(512, ".").encode()
        with self.ceph.admin_pool(self.pool) as pool, rbd.Image(pool, name) as image:
            image.write(content, 0)
        return content

    def _read(self, name: str) -> bytes:
        with self.ceph.admin_pool(self.pool) as pool, rbd.Image(pool, name, read_only=True) as image:
            content: bytes = image.read(0, 512)
            return content

    def _free(self, names: Sequence[str], taken: dict[str, Made]) -> str:
        free = [name for name in names if name not in taken]
        return self._dice.choice(free) if free else ""

    def _any(self, made: dict[str, Made]) -> Made | None:
        return made[self._dice.choice(sorted(made))] if made else None
