"""`ceph-provisioner controller` as a user starts it: a process, a socket, and an end on SIGTERM."""

import subprocess
from pathlib import Path

import grpc

from csi.pb import csi_pb2, csi_pb2_grpc
from tests.contract.driver import create_request, unique
from tests.harness.ceph import Ceph
from tests.harness.program import PROGRAM
from tests.harness.waiting import until


def test_controller_makes_an_image_and_ends_on_sigterm(ceph: Ceph, tmp_path: Path) -> None:
    socket, name = tmp_path / "csi.sock", unique()
    command = [str(PROGRAM), "--config", str(ceph.config_file(tmp_path)), "controller"]
    command += ["--csi-endpoint", f"unix://{socket}", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command)
    try:
        until(socket.exists, 20, "the socket is there")
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            controller = csi_pb2_grpc.ControllerStub(channel)
            request = create_request(name, parameters={"clusterID": "dev", "pool": ceph.pool})
            made = controller.CreateVolume(request, timeout=30).volume
            assert ceph.info(name)["size"] == made.capacity_bytes
            controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=made.volume_id), timeout=30)
        assert name not in ceph.images()
        process.terminate()
        assert process.wait(20) == 0
        assert not socket.exists()
    finally:
        process.kill()
