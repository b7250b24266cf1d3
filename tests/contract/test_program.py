"""`ceph-provisioner controller` as a user starts it: a process, a socket, and an end on SIGTERM. About 10 seconds."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from csi.pb import csi_pb2, csi_pb2_grpc
from tests.contract.driver import create_request, unique
from tests.harness.ceph import Ceph
from tests.harness.program import PROGRAM
from tests.harness.waiting import until


@contextmanager
def served(ceph: Ceph, directory: Path, timeout: int = 15) -> Iterator[tuple[subprocess.Popen[bytes], grpc.Channel]]:
    """The program, with a config file that names no pools, and a channel to it; killed at the end."""
    socket = directory / "csi.sock"
    command = [str(PROGRAM), "--config", str(ceph.config_file(directory, timeout)), "controller"]
    command += ["--csi-endpoint", f"unix://{socket}", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command)
    try:
        until(socket.exists, 60, "the socket is there")
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            yield process, channel
    finally:
        process.kill()
        process.wait()


def test_controller_makes_an_image_and_ends_on_sigterm(ceph: Ceph, tmp_path: Path) -> None:
    name = unique()
    with served(ceph, tmp_path) as (process, channel):
        controller = csi_pb2_grpc.ControllerStub(channel)
        request = create_request(name, parameters={"clusterID": "dev", "pool": ceph.pool})
        made = controller.CreateVolume(request, timeout=30).volume
        assert ceph.info(name)["size"] == made.capacity_bytes
        controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=made.volume_id), timeout=30)
        assert name not in ceph.images()
        process.terminate()
        assert process.wait(20) == 0
        assert not (tmp_path / "csi.sock").exists()


def test_without_a_word_on_pools_a_volume_is_listed(ceph: Ceph, tmp_path: Path) -> None:
    with served(ceph, tmp_path) as (_, channel):
        controller = csi_pb2_grpc.ControllerStub(channel)
        request = create_request(unique(), parameters={"clusterID": "dev", "pool": ceph.pool})
        made = controller.CreateVolume(request, timeout=30).volume.volume_id
        listed = controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30).entries
        assert made in [entry.volume.volume_id for entry in listed]
        controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=made), timeout=30)


def test_without_a_word_on_pools_probe_asks_ceph(ceph: Ceph, tmp_path: Path) -> None:
    with served(ceph, tmp_path, timeout=3) as (_, channel):
        identity = csi_pb2_grpc.IdentityStub(channel)

        def is_ready() -> bool:
            return identity.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value

        until(is_ready, 60, "the driver is ready")
        with ceph.frozen_osd():
            until(lambda: not is_ready(), 60, "the driver is not ready while no OSD answers")
        until(is_ready, 60, "the driver is ready again")
