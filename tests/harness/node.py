"""The node service as a process, with a client beside it, and what the kernel has of it."""

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import rbd

from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.core.ids import VolumeId
from provisioner.host.blocks import loops_on, tag
from provisioner.host.mounts import Mount, parse_mountinfo
from tests.contract.driver import MIB, capability
from tests.harness.ceph import Ceph
from tests.harness.program import PROGRAM
from tests.harness.waiting import until


class NodeCalls:
    """Calls to a node's socket."""

    def __init__(self, endpoint: str, staging: Path, targets: Path, seconds: float = 60) -> None:
        """`staging` and `targets` are directories on the node; `seconds` is how long a call may take."""
        self.endpoint, self.staging, self.targets, self._seconds = endpoint, staging, targets, seconds
        self._channel = grpc.insecure_channel(endpoint, options=[("grpc.max_reconnect_backoff_ms", 1000)])
        self.node, self.identity = csi_pb2_grpc.NodeStub(self._channel), csi_pb2_grpc.IdentityStub(self._channel)

    def answers(self) -> bool:
        try:
            self.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return True

    def stage(self, volume: str, how: csi_pb2.VolumeCapability | None = None, **fields: object) -> Path:
        path = self.staging / volume.rpartition("/")[2]
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=volume, staging_target_path=str(path), volume_capability=how or capability(), **fields
        )
        self.node.NodeStageVolume(request, timeout=self._seconds)
        return path

    def unstage(self, volume: str) -> None:
        path = str(self.staging / volume.rpartition("/")[2])
        self.node.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=path), timeout=self._seconds
        )

    def publish(self, volume: str, name: str, how: csi_pb2.VolumeCapability | None = None, **fields: object) -> Path:
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume,
            staging_target_path=str(self.staging / volume.rpartition("/")[2]),
            target_path=str(self.targets / name),
            volume_capability=how or capability(),
            **fields,
        )
        self.node.NodePublishVolume(request, timeout=self._seconds)
        return self.targets / name

    def unpublish(self, volume: str, name: str) -> None:
        target = str(self.targets / name)
        self.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target), timeout=self._seconds
        )

    def expand(self, volume: str, path: Path, size: int, **fields: object) -> int:
        sizes = csi_pb2.CapacityRange(required_bytes=size)
        request = csi_pb2.NodeExpandVolumeRequest(volume_id=volume, volume_path=str(path), capacity_range=sizes, **fields)
        return int(self.node.NodeExpandVolume(request, timeout=self._seconds).capacity_bytes)

    def stats(self, volume: str, path: Path) -> dict[str, csi_pb2.VolumeUsage]:
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=str(path))
        usage = self.node.NodeGetVolumeStats(request, timeout=self._seconds).usage
        return {csi_pb2.VolumeUsage.Unit.Name(each.unit): each for each in usage}

    def ills(self, volume: str, path: Path) -> list[tuple[str, str]]:
        """What NodeGetVolumeHealth says is wrong: status and reason."""
        request = csi_pb2.NodeGetVolumeHealthRequest(volume_id=volume, volume_publish_path=str(path))
        told = self.node.NodeGetVolumeHealth(request, timeout=self._seconds).volume_health.health_statuses
        return [(csi_pb2.VolumeHealthErrorType.Name(each.status), each.reason) for each in told]


class NodeProgram(NodeCalls):
    """`ceph-provisioner node` with the fuse device, and calls to it that wait 60 seconds."""

    def __init__(self, ceph: Ceph, directory: Path, *options: str) -> None:
        self.ceph, self.directory, self.log = ceph, directory, directory / "node.log"
        self.run_directory = directory / "run"
        super().__init__(f"unix:{directory}/node.sock", directory / "staging", directory / "targets")
        for each in (self.staging, self.targets):
            each.mkdir(exist_ok=True)
        self._command = [str(PROGRAM), "--config", str(ceph.config_file(directory)), "node", "--node-id", "here"]
        self._command += ["--csi-endpoint", f"unix://{directory}/node.sock", "--listen", "127.0.0.1:0"]
        self._command += ["--run-directory", str(self.run_directory), "--mounter", "fuse", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "NodeProgram":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        until(self.answers, 120, "the node answers", lambda: self.log.read_text()[-2000:])
        return self

    def contain(self) -> None:
        """Have it started as in a container: with processes and mounts of its own, which all end with it."""
        self._command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *self._command]

    def kill(self) -> None:
        """SIGKILL: no time to clear anything away."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self._channel.close()
        return code

    def daemon(self, volume: str) -> int:
        """The process id of the volume's storage daemon, 0 if there is none."""
        return self.daemon_of(self.image_file(volume))

    def daemon_of(self, image: Path) -> int:
        file = str(image).encode()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if file in entry.read_bytes() and b"qemu-storage-daemon" in entry.read_bytes():
                    return int(entry.parent.name)
            except OSError:
                continue
        return 0

    def image_file(self, volume: str) -> Path:
        return self.run_directory / "fuse" / tag(VolumeId.parse(volume)) / "image"

    def traces(self, volume: str) -> list[str]:
        """What the kernel and the file system still have of a volume."""
        file = self.image_file(volume)
        left = [f"mount {mount.target}" for mount in self.mounts() if volume.rpartition("/")[2] in mount.target]
        left += [f"loop {loop}" for loop in loops_on(file)]
        left += [f"directory {file.parent}"] if file.parent.exists() else []
        return left + ([f"daemon {self.daemon(volume)}"] if self.daemon(volume) else [])

    def mounts(self) -> list[Mount]:
        """The mounts below this node's directories."""
        found = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        return [mount for mount in found if mount.target.startswith(str(self.directory))]


@contextmanager
def node_program(ceph: Ceph, *options: str, contained: bool = False) -> Iterator[NodeProgram]:
    """A node for the block; afterwards nothing of it is left in the kernel."""
    with tempfile.TemporaryDirectory(prefix="cp-node-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        program = NodeProgram(ceph, Path(directory), *options)
        if contained:
            program.contain()
        try:
            yield program.start()
        finally:
            program.kill()
            _sweep(program)


def _sweep(program: NodeProgram) -> None:
    for mount in reversed([mount for mount in program.mounts() if mount.fs_type != "fuse"]):
        subprocess.run(["umount", mount.target], check=False)
    for file in (program.run_directory / "fuse").glob("*/image"):
        if daemon := program.daemon_of(file):
            os.kill(daemon, signal.SIGKILL)
        for loop in loops_on(file):
            subprocess.run(["losetup", "-d", str(loop)], check=False)
        subprocess.run(["umount", str(file)], check=False)


_LOCKED = rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF


def new_image(ceph: Ceph, size: int = 512 * MIB, *, locked: bool = True) -> str:
    """Make an image, as somebody other than us would, and give the volume id that it has; `locked`: with exclusive-lock."""
    name = f"node-{uuid.uuid4().hex[:12]}"
    features = rbd.RBD_FEATURE_LAYERING | (_LOCKED if locked else 0)
    with ceph.admin_pool() as pool:
        rbd.RBD().create(pool, name, size, features=features, old_format=False)
    return f"dev/{ceph.pool}/{name}"


def grow_image(ceph: Ceph, volume: str, size: int) -> None:
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        image.resize(size)


def watchers(ceph: Ceph, volume: str) -> list[str]:
    return ceph.watchers(f"rbd_header.{ceph.image_ids()[volume.rpartition('/')[2]]}")


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    code: grpc.StatusCode = error.value.code()
    return code
