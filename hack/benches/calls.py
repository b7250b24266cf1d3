"""One volume's life, call by call: through our controller, and by what bare librbd needs for the same."""

from collections.abc import Callable
from dataclasses import dataclass, field

import rados
import rbd

from csi.pb import csi_pb2
from hack.benches.server import Served
from provisioner.ceph import headers, names, wire
from tests.contract.driver import GIB, capability
from tests.harness.ceph import Ceph

FEATURES = 61
"""layering, exclusive-lock, object-map, fast-diff, deep-flatten: what our volumes have."""
TAGS = {"bench.request": "x" * 100, "bench.fingerprint": "y" * 64, "bench.labels": "{}", "bench.created": "z" * 25}
Call = Callable[[str], object]


@dataclass
class Bare:
    """What a Python program that uses librbd and nothing else would do; our one-step tags instead of opening images for them."""

    ceph: Ceph
    handle: rados.Rados = field(init=False)
    pool: rados.Ioctx = field(init=False)

    def __post_init__(self) -> None:
        conf = {"keyring": self.ceph.keyring, "rbd_default_clone_format": "2", "log_to_stderr": "false", "err_to_stderr": "false"}
        self.handle = rados.Rados(conffile=self.ceph.conf, name=f"client.{self.ceph.user}", conf=conf)
        self.handle.connect()
        self.pool = self.handle.open_ioctx(self.ceph.pool)

    def close(self) -> None:
        self.pool.close()
        self.handle.shutdown()

    def _tag(self, name: str) -> None:
        headers.write_metadata(self.pool, names.read_id(self.pool, name) or "", TAGS)

    def create(self, name: str) -> None:
        rbd.RBD().create(self.pool, name, GIB, features=FEATURES)
        self._tag(name)

    def repeat(self, name: str) -> None:
        wire.omap_page(self.pool, headers.header_object(names.read_id(self.pool, name) or ""), "", "")

    def expand(self, name: str) -> None:
        with rbd.Image(self.pool, name) as image:
            image.resize(2 * GIB)

    def snapshot(self, name: str) -> None:
        with rbd.Image(self.pool, name) as image:
            image.create_snap("snap")

    def restore(self, name: str) -> None:
        self._clone(name, "snap", f"{name}-restored")

    def clone(self, name: str) -> None:
        with rbd.Image(self.pool, name) as image:
            image.create_snap("source")
        self._clone(name, "source", f"{name}-cloned")
        with rbd.Image(self.pool, name) as image:
            image.remove_snap("source")

    def _clone(self, name: str, snap: str, child: str) -> None:
        """Built under a name of its own and renamed: else a killed clone is half a volume under its real name."""
        rbd.RBD().clone(self.pool, name, snap, self.pool, f"{child}-half", features=FEATURES)
        self._tag(f"{child}-half")
        rbd.RBD().rename(self.pool, f"{child}-half", child)

    def delete_restored(self, name: str) -> None:
        self.delete(f"{name}-restored")

    def delete_cloned(self, name: str) -> None:
        self.delete(f"{name}-cloned")

    def empty_trash(self) -> None:
        """Remove what was deleted for good: a snapshot that has a clone, be that in the trash, is only set aside when deleted."""
        for each in list(rbd.RBD().trash_list(self.pool)):
            rbd.RBD().trash_remove(self.pool, each["id"])

    def delete_snapshot(self, name: str) -> None:
        with rbd.Image(self.pool, name) as image:
            image.remove_snap("snap")

    def delete(self, name: str) -> None:
        with rbd.Image(self.pool, name, read_only=True) as image:
            list(image.watchers_list())
        rbd.RBD().trash_move(self.pool, name, 0)


@dataclass
class Ours:
    """The same through the socket."""

    served: Served
    pool: str
    snapshots: dict[str, str] = field(default_factory=dict)

    def _id(self, name: str) -> str:
        return f"dev/{self.pool}/{name}"

    def create(self, name: str, size: int = GIB, source: csi_pb2.VolumeContentSource | None = None) -> None:
        request = csi_pb2.CreateVolumeRequest(
            name=name,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
            volume_capabilities=[capability()],
            volume_content_source=source,
        )
        self.served.controller.CreateVolume(request, timeout=120)

    def repeat(self, name: str) -> None:
        self.create(name)

    def expand(self, name: str) -> None:
        size = csi_pb2.CapacityRange(required_bytes=2 * GIB)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id=self._id(name), capacity_range=size)
        self.served.controller.ControllerExpandVolume(request, timeout=120)

    def snapshot(self, name: str) -> None:
        request = csi_pb2.CreateSnapshotRequest(source_volume_id=self._id(name), name=f"snap-{name}")
        self.snapshots[name] = self.served.controller.CreateSnapshot(request, timeout=120).snapshot.snapshot_id

    def restore(self, name: str) -> None:
        snapshot = csi_pb2.VolumeContentSource.SnapshotSource(snapshot_id=self.snapshots[name])
        self.create(f"{name}-restored", 2 * GIB, csi_pb2.VolumeContentSource(snapshot=snapshot))

    def clone(self, name: str) -> None:
        volume = csi_pb2.VolumeContentSource.VolumeSource(volume_id=self._id(name))
        self.create(f"{name}-cloned", 2 * GIB, csi_pb2.VolumeContentSource(volume=volume))

    def delete_restored(self, name: str) -> None:
        self.delete(f"{name}-restored")

    def delete_cloned(self, name: str) -> None:
        self.delete(f"{name}-cloned")

    def delete_snapshot(self, name: str) -> None:
        request = csi_pb2.DeleteSnapshotRequest(snapshot_id=self.snapshots[name])
        self.served.controller.DeleteSnapshot(request, timeout=120)

    def delete(self, name: str) -> None:
        self.served.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=self._id(name)), timeout=120)


LIFE = (
    *("create", "repeat", "expand", "snapshot", "restore", "clone"),
    *("delete_restored", "delete_cloned", "delete_snapshot", "delete"),
)
"""The calls in the order of a volume's life; each finds what those before it left."""
