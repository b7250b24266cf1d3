"""The CSI controller on a socket, with a client beside it: what a sidecar sees."""

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from csi.pb import csi_pb2, csi_pb2_grpc
from csi.serve import Backend, serve
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import ClusterConfig, Clusters
from provisioner.ceph.diff import CephChanges
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.health import CephHealth
from provisioner.ceph.nodes import NodeImages
from provisioner.ceph.places import Places
from provisioner.ceph.reservations import CephReservations
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.ceph.store import CephStore
from provisioner.core.attachments import Attachments
from provisioner.core.changes import Changes
from provisioner.core.choices import Choices
from provisioner.core.groups import Groups
from provisioner.core.keys import VolumeKeys
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.kms.build import KeyServices
from provisioner.kms.settings import KmsConfig
from provisioner.rpc.server import Listen, Server
from tests.harness.ceph import Ceph
from tests.harness.store import at_work

MIB, GIB = 1 << 20, 1 << 30
NAME = "rbd.example.com"
WRITER = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER


class Driver:
    """A running controller of cluster `dev`, and calls to it that wait 30 seconds."""

    def __init__(self, server: Server, pool: str, attachments: Attachments) -> None:
        self.server, self.pool = server, pool
        self.attachments = attachments
        """The use cases that the controller has: for what a node does."""
        self.calls: list[tuple[str, str]] = []
        self.endpoint = f"unix:{server.path}"
        self._channel = grpc.insecure_channel(self.endpoint)
        self.identity = csi_pb2_grpc.IdentityStub(self._channel)
        self.controller = csi_pb2_grpc.ControllerStub(self._channel)
        self.groups = csi_pb2_grpc.GroupControllerStub(self._channel)
        self.snapshot_metadata = csi_pb2_grpc.SnapshotMetadataStub(self._channel)

    def close(self) -> None:
        self._channel.close()
        self.server.drain(5)

    def create(self, name: str = "", size: int = GIB, limit: int = 0, **fields: object) -> csi_pb2.Volume:
        return self.controller.CreateVolume(create_request(name or unique(), size, limit, **fields), timeout=30).volume

    def delete(self, volume_id: str, **fields: object) -> None:
        self.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume_id, **fields), timeout=30)

    def snapshot(self, volume_id: str, name: str = "", **fields: object) -> csi_pb2.Snapshot:
        request = csi_pb2.CreateSnapshotRequest(source_volume_id=volume_id, name=name or unique("snapshot-"), **fields)
        return self.controller.CreateSnapshot(request, timeout=30).snapshot

    def delete_snapshot(self, snapshot_id: str, **fields: object) -> None:
        self.controller.DeleteSnapshot(csi_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id, **fields), timeout=30)

    def id_of(self, image: str) -> str:
        return f"dev/{self.pool}/{image}"


def unique(prefix: str = "pvc-") -> str:
    return prefix + uuid.uuid4().hex


def capability(mode: int = WRITER, *, block: bool = False, fs_type: str = "ext4") -> csi_pb2.VolumeCapability:
    access = csi_pb2.VolumeCapability.AccessMode(mode=mode)
    if block:
        return csi_pb2.VolumeCapability(access_mode=access, block=csi_pb2.VolumeCapability.BlockVolume())
    return csi_pb2.VolumeCapability(access_mode=access, mount=csi_pb2.VolumeCapability.MountVolume(fs_type=fs_type))


def create_request(name: str, size: int = GIB, limit: int = 0, **fields: object) -> csi_pb2.CreateVolumeRequest:
    fields.setdefault("volume_capabilities", [capability()])
    sizes = csi_pb2.CapacityRange(required_bytes=size, limit_bytes=limit)
    return csi_pb2.CreateVolumeRequest(name=name, capacity_range=sizes, **fields)


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The block's call is answered with the status code, and its message holds the words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() is code, f"{caught.value.code()}: {caught.value.details()}"
    assert [word for word in words if word not in caught.value.details()] == [], caught.value.details()


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    (detail,) = rpc_status.from_call(error).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info


@contextmanager
def running(
    ceph: Ceph,
    directory: Path,
    pools: Sequence[str] = (),
    timeout: int = 15,
    *,
    topology: bool = False,
    clusters: Mapping[str, ClusterConfig] | None = None,
    kms: Mapping[str, KmsConfig] | None = None,
) -> Iterator[Driver]:
    """A controller that serves the block; `timeout` bounds in seconds its single calls to Ceph.

    It knows the pools of cluster `dev`, or these `clusters`, whose pools it has to find.
    """
    calls: list[tuple[str, str]] = []
    lock = threading.Lock()

    def on_call(method: str, code: str, seconds: float) -> None:
        with lock:
            calls.append((method.rpartition("/")[2], code))

    configured = clusters or {"dev": replace(ceph.config(timeout=timeout), pools=tuple(pools or [ceph.pool]))}
    connections = Clusters(lambda: configured)
    places = Places(connections)
    store = CephStore(places)
    volumes = Volumes(store)
    attachments = Attachments(CephAttachments(places))
    backend = Backend(
        volumes=volumes,
        clusters=connections.names,
        places=places.of,
        ask=places.ask,
        read_page=store.page,
        snapshots=Snapshots(CephSnapshots(places)),
        groups=Groups(CephGroups(places), CephSnapshots(places)),
        changes=Changes(CephChanges(places)),
        choices=Choices(volumes, CephReservations(places)),
        attachments=attachments,
        health=CephHealth(places),
        keys=VolumeKeys(NodeImages(connections), KeyServices(lambda: kms or {}).get),
    )
    server = serve(backend, NAME, Listen(f"unix://{directory}/csi.sock"), on_call, topology=topology)
    driver = Driver(server, ceph.pool, attachments)
    driver.calls = calls
    try:
        with at_work(places):
            try:
                yield driver
            finally:
                driver.close()
    finally:
        connections.close()
