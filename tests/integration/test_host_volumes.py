"""A node on a host without a kernel client: images become directories and devices, through the socket. About 20 seconds."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2
from tests.contract.driver import MIB, capability, refused
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, grow_image, new_image, node_program, watchers

Mode = csi_pb2.VolumeCapability.AccessMode


@pytest.fixture(scope="module")
def node(ceph: Ceph) -> Iterator[NodeProgram]:
    with node_program(ceph) as program:
        yield program


def test_what_is_written_on_one_staging_is_read_on_the_next(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    (node.stage(volume) / "hello").write_text("from the first")
    assert watchers(ceph, volume) != []
    node.unstage(volume)
    assert watchers(ceph, volume) == []
    assert (node.stage(volume) / "hello").read_text() == "from the first"
    node.unstage(volume)
    assert node.traces(volume) == []


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_file_system_fills_its_volume_and_tells_how_full_it_is(node: NodeProgram, ceph: Ceph, fs_type: str) -> None:
    volume = new_image(ceph)
    how = capability(fs_type=fs_type)
    node.stage(volume, how)
    target = node.publish(volume, volume.rpartition("/")[2], how)
    (target / "data").write_bytes(b"x" * (8 * MIB))
    bytes_ = node.stats(volume, target)["BYTES"]
    assert 400 * MIB < bytes_.total <= 512 * MIB
    assert bytes_.available <= bytes_.total - 8 * MIB or fs_type == "btrfs"
    assert node.ills(volume, target) == []
    node.unpublish(volume, target.name)
    node.unstage(volume)
    assert node.traces(volume) == []


def test_every_call_may_be_repeated(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    for _ in range(2):
        node.stage(volume)
    for _ in range(2):
        node.publish(volume, volume[-8:])
    assert len(watchers(ceph, volume)) == 1
    for _ in range(2):
        node.unpublish(volume, volume[-8:])
    for _ in range(2):
        node.unstage(volume)
    assert node.traces(volume) == []


def test_a_block_volume_is_the_image_itself(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    block = capability(block=True)
    node.stage(volume, block)
    target = node.publish(volume, volume[-8:], block)
    assert target.is_block_device()
    with target.open("r+b", buffering=0) as device:
        device.write(b"raw" + bytes(509))
    grow_image(ceph, volume, 128 * MIB)
    assert node.expand(volume, target, 128 * MIB) == 128 * MIB
    usage = node.stats(volume, target)["BYTES"]
    assert usage.total == 128 * MIB
    assert 0 < usage.used <= 8 * MIB
    node.unpublish(volume, target.name)
    assert not target.exists()
    node.unstage(volume)
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        assert image.read(0, 3) == b"raw"


def test_a_mounted_file_system_follows_its_image(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    how = capability(fs_type="xfs")
    path = node.stage(volume, how)
    grow_image(ceph, volume, 1024 * MIB)
    assert node.expand(volume, path, 1024 * MIB) == 1024 * MIB
    assert node.stats(volume, path)["BYTES"].total > 900 * MIB
    assert node.expand(volume, path, 1024 * MIB) == 1024 * MIB
    node.unstage(volume)


def test_a_read_only_publication_refuses_writes_and_its_writable_neighbour_does_not(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    many = capability(Mode.SINGLE_NODE_MULTI_WRITER)
    node.stage(volume, many)
    writable, readable = node.publish(volume, "w", many), node.publish(volume, "r", many, readonly=True)
    (writable / "file").write_text("seen by both")
    assert (readable / "file").read_text() == "seen by both"
    with pytest.raises(OSError, match="Read-only"):
        (readable / "other").write_text("no")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "readonly"):
        node.publish(volume, "w", many, readonly=True)
    for name in ("w", "r"):
        node.unpublish(volume, name)
    node.unstage(volume)


def test_a_reader_only_volume_is_attached_for_reading_only(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    (node.stage(volume) / "file").write_text("kept")
    node.unstage(volume)
    readers = capability(Mode.MULTI_NODE_READER_ONLY)
    path = node.stage(volume, readers)
    assert (path / "file").read_text() == "kept"
    with pytest.raises(OSError, match="Read-only"):
        (path / "other").write_text("no")
    assert node.ills(volume, path) == []
    node.unstage(volume)


def test_a_single_writer_is_alone_on_its_node(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    alone = capability(Mode.SINGLE_NODE_SINGLE_WRITER)
    node.stage(volume, alone)
    node.publish(volume, "first", alone)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "single writer", "first"):
        node.publish(volume, "second", alone)
    node.unpublish(volume, "first")
    node.publish(volume, "second", alone)
    node.unpublish(volume, "second")
    node.unstage(volume)


def test_a_volume_is_not_unstaged_from_under_a_workload(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    path = node.stage(volume)
    target = node.publish(volume, volume[-8:])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, str(target)):
        node.unstage(volume)
    node.unpublish(volume, target.name)
    with (path / "open").open("w"), refused(grpc.StatusCode.FAILED_PRECONDITION, "files open"):
        node.unstage(volume)
    node.unstage(volume)
    assert node.traces(volume) == []


def test_mount_flags_of_the_capability_are_mount_options(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    how = capability()
    how.mount.mount_flags.extend(["noatime", "nodev"])
    path = node.stage(volume, how)
    (mount,) = [mount for mount in node.mounts() if mount.target == str(path)]
    assert {"noatime", "nodev"} <= mount.options
    node.unstage(volume)


def test_a_restored_volume_that_is_larger_than_its_file_system_is_grown_as_it_is_staged(node: NodeProgram, ceph: Ceph) -> None:
    volume, how = new_image(ceph), capability(fs_type="xfs")
    node.stage(volume, how)
    node.unstage(volume)
    grow_image(ceph, volume, 1024 * MIB)
    path = node.stage(volume, how)
    assert node.stats(volume, path)["BYTES"].total > 900 * MIB
    node.unstage(volume)


def test_the_key_is_nowhere_to_be_read_while_the_device_is_there(node: NodeProgram, ceph: Ceph) -> None:
    key = ceph.make_user("node-secret", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}").key
    volume = new_image(ceph)
    node.stage(volume, secrets={"userID": "node-secret", "userKey": key})
    daemon = Path(f"/proc/{node.daemon(volume)}")
    places = [daemon / "cmdline", daemon / "environ", node.log, *node.image_file(volume).parent.iterdir()]
    told = [place for place in places if place.is_file() and place.name != "image" and key.encode() in place.read_bytes()]
    assert told == []
    node.unstage(volume)
