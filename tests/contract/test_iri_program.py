"""`ceph-provisioner iri-volumes` as a user starts it: a process, a socket, and an end on SIGTERM. About 5 s."""

import subprocess
from pathlib import Path

import grpc

from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from provisioner.iri.pb.volume.v1alpha1 import api_pb2_grpc
from tests.contract.iri import new_uid, program, volume
from tests.harness.ceph import Ceph
from tests.harness.waiting import until


def test_iri_volumes_makes_an_image_and_ends_on_sigterm(ceph: Ceph, tmp_path: Path) -> None:
    socket, uid = tmp_path / "iri.sock", new_uid()
    process = subprocess.Popen(program(ceph, tmp_path, ceph.pool))
    try:
        until(socket.exists, 60, "the socket is there")
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            runtime = api_pb2_grpc.VolumeRuntimeStub(channel)
            made = runtime.CreateVolume(pb.CreateVolumeRequest(volume=volume(uid)), timeout=30).volume
            assert ceph.info(uid)["size"] == made.status.resources.storage_bytes
            runtime.DeleteVolume(pb.DeleteVolumeRequest(volume_id=made.metadata.id), timeout=30)
        assert uid not in ceph.images()
        process.terminate()
        assert process.wait(20) == 0
        assert not socket.exists()
    finally:
        process.kill()


def test_a_pool_that_there_is_not_ends_the_program_with_a_sentence(ceph: Ceph, tmp_path: Path) -> None:
    done = subprocess.run(program(ceph, tmp_path, "no-such-pool"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "ceph-provisioner: pool 'no-such-pool': cluster 'dev' has no such pool\n"
