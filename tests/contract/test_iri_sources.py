"""Volumes of snapshots, and encrypted ones, opened with the returned credentials. About 25 s: LUKS is slow on purpose."""

import os
from pathlib import Path

import grpc
import pytest
import rbd

from provisioner.ceph.content import CephContent
from provisioner.core.errors import NotFound
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from tests.contract.driver import refused
from tests.contract.iri import GIB, MIB, SNAPSHOT, Runtime, new_uid, opened, running, volume
from tests.harness.ceph import Ceph

KEY = b"correct horse battery staple"


def encrypted(uid: str, key: bytes = KEY, size: int = 64 * MIB) -> pb.CreateVolumeRequest:
    asked = volume(uid, size, "plain")
    asked.spec.encryption.secret_data["encryptionKey"] = key
    return pb.CreateVolumeRequest(volume=asked)


def test_a_restored_volume_has_the_snapshots_data_and_its_own_key(runtime: Runtime) -> None:
    made, data = runtime.create(size=8 * MIB), os.urandom(MIB)
    with opened(made.status.access) as image:
        image.write(data, 0)
    taken = runtime.snap(new_uid(), made.metadata.id)
    with opened(made.status.access) as image:
        image.write(bytes(MIB), 0)
    restored = runtime.restore(uid := new_uid(), taken.metadata.id, 16 * MIB)
    assert restored.status.state == pb.VOLUME_AVAILABLE
    assert restored.spec.volume_data_source.snapshot_data_source.snapshot_id == taken.metadata.id
    with opened(restored.status.access) as image:
        assert image.size() == 16 * MIB
        assert image.read(0, MIB) == data
        image.write(b"mine", 0)
    assert runtime.by_uid(uid)[0].metadata == restored.metadata


def test_the_kubernetes_name_of_a_snapshot_is_understood_in_place_of_its_id(runtime: Runtime) -> None:
    made = runtime.create(size=MIB)
    taken = runtime.snap(new_uid(), made.metadata.id)
    name = taken.metadata.labels[f"{SNAPSHOT}name"]
    assert runtime.restore(new_uid(), name, MIB).status.state == pb.VOLUME_AVAILABLE


def test_a_snapshot_outlives_its_volume_and_can_be_restored(runtime: Runtime) -> None:
    made = runtime.create(uid := new_uid(), 4 * MIB)
    with opened(made.status.access) as image:
        image.write(b"kept", 0)
    taken = runtime.snap(new_uid(), uid)
    runtime.reconcile(uid, deleted=True)
    assert runtime.shots(id=taken.metadata.id) == [taken]
    restored = runtime.restore(new_uid(), taken.metadata.id, 4 * MIB)
    with opened(restored.status.access) as image:
        assert image.read(0, 4) == b"kept"


def test_sources_that_cannot_be_had_are_refused_by_name(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=4 * MIB)
    taken = runtime.snap(new_uid(), made.metadata.id)
    with refused(grpc.StatusCode.NOT_FOUND, "snapshot 'none'"):
        runtime.restore(uid := new_uid(), "none")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "snapshot_data_source"):
        runtime.restore(uid, "")
    with refused(grpc.StatusCode.OUT_OF_RANGE, "volume.spec.resources.storage_bytes"):
        runtime.restore(uid, taken.metadata.id, MIB)
    both = volume(uid, GIB, "plain")
    both.spec.volume_data_source.snapshot_data_source.snapshot_id = taken.metadata.id
    both.spec.volume_data_source.image_data_source.image = "a"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume.spec.volume_data_source", "two sources"):
        runtime.stub.CreateVolume(pb.CreateVolumeRequest(volume=both), timeout=30)
    assert uid not in ceph.images()


def test_a_snapshot_of_another_pool_is_not_there(runtime: Runtime, ceph: Ceph, tmp_path: Path) -> None:
    ceph.make_pool(pool := f"other-{new_uid()[:8]}")
    ceph.let_provision(pool)
    try:
        with running(ceph, tmp_path, pool=pool) as other:
            made = other.create(size=MIB)
            taken = other.snap(new_uid(), made.metadata.id)
            with refused(grpc.StatusCode.NOT_FOUND, taken.metadata.id):
                runtime.restore(uid := new_uid(), taken.metadata.id)
            assert runtime.shots(id=taken.metadata.id) == []
            assert uid not in ceph.images()
    finally:
        ceph.drop_pool(pool)


def test_an_encrypted_volume_opens_with_its_key_only_and_so_does_its_copy(runtime: Runtime, ceph: Ceph) -> None:
    """One test for all of it: deriving a LUKS key costs seconds, on purpose."""
    made = runtime.stub.CreateVolume(encrypted(uid := new_uid()), timeout=120).volume
    with opened(made.status.access) as image:
        assert image.read(0, 6) == b"LUKS\xba\xbe"
        image.encryption_load(rbd.RBD_ENCRYPTION_FORMAT_LUKS2, KEY)
        image.write(b"secret", 0)
    assert KEY.decode() not in str(ceph.image_metadata(uid))
    again = runtime.stub.CreateVolume(encrypted(uid), timeout=120).volume
    assert again.status.access.handle == made.status.access.handle
    taken = runtime.snap(new_uid(), uid)
    # the poollet sends the key that is inherited along
    asked = encrypted(copy := new_uid())
    asked.volume.spec.volume_data_source.snapshot_data_source.snapshot_id = taken.metadata.id
    restored = runtime.stub.CreateVolume(asked, timeout=30).volume
    with opened(made.status.access) as source, opened(restored.status.access) as image:
        assert image.read(0, 32 * MIB) == source.read(0, 32 * MIB)
    assert [each.metadata.id for each in runtime.by_uid(copy)] == [copy]


def test_a_snapshot_in_clear_cannot_be_restored_encrypted(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=64 * MIB)
    asked = encrypted(uid := new_uid())
    asked.volume.spec.volume_data_source.snapshot_data_source.snapshot_id = runtime.snap(new_uid(), made.metadata.id).metadata.id
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume.spec.encryption"):
        runtime.stub.CreateVolume(asked, timeout=30)
    assert uid not in ceph.images()


@pytest.mark.parametrize("key", [b"", b"short", bytes(513)])
def test_a_key_of_the_wrong_length_is_refused_and_not_shown(runtime: Runtime, ceph: Ceph, key: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "encryptionKey", f"{len(key)} bytes"):
        runtime.stub.CreateVolume(encrypted(uid := new_uid(), key), timeout=30)
    assert uid not in ceph.images()


def test_a_volume_too_small_to_be_encrypted_is_out_of_range(runtime: Runtime, ceph: Ceph) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "volume.spec.resources.storage_bytes"):
        runtime.stub.CreateVolume(encrypted(uid := new_uid(), size=16 * MIB), timeout=30)
    assert uid not in ceph.images()


def test_an_encrypted_volume_that_a_kill_left_unformatted_is_made_again(runtime: Runtime, ceph: Ceph) -> None:
    """As it lies after a kill between the image and its LUKS header: marked, and never handed out."""
    with refused(grpc.StatusCode.NOT_FOUND), pytest.MonkeyPatch.context() as patch:
        patch.setattr(CephContent, "encrypt", _die)
        runtime.stub.CreateVolume(encrypted(uid := new_uid()), timeout=30)
    assert uid in ceph.images()
    (listed,) = (each for each in runtime.listed() if each.metadata.id == uid)
    assert (listed.status.state, listed.status.HasField("access")) == (pb.VOLUME_PENDING, False)
    assert runtime.by_uid(uid) == []
    assert uid not in ceph.images()


def _die(*_: object) -> None:
    raise NotFound("the process")
