"""What a node suffers: kills, lost daemons, foreign data, wrong keys, crooked paths. Each leaves the node as it was.

About 40 seconds.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from provisioner.ceph.marks import PREFIX
from tests.contract.driver import MIB, capability, refused
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, new_image, node_program
from tests.harness.waiting import until

VOLUMES, CYCLES = 5, 6


@pytest.fixture(scope="module")
def node(ceph: Ceph) -> Iterator[NodeProgram]:
    with node_program(ceph) as program:
        yield program


def write_to(ceph: Ceph, volume: str, offset: int, data: bytes) -> None:
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        image.write(data, offset)


def test_a_killed_service_finds_what_is_staged_and_goes_on(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    (node.stage(volume) / "file").write_text("before the kill")
    node.kill()
    node.start()
    target = node.publish(volume, volume[-8:])
    assert (target / "file").read_text() == "before the kill"
    assert node.stage(volume) == node.staging / volume.rpartition("/")[2]
    node.unpublish(volume, target.name)
    node.unstage(volume)
    assert node.traces(volume) == []


@pytest.mark.parametrize("after", ["daemon", "device", "formatting"])
def test_a_stage_that_was_killed_in_the_middle_is_finished_by_the_next(node: NodeProgram, ceph: Ceph, after: str) -> None:
    volume = new_image(ceph)
    node.stage(volume, capability(block=True))
    if after == "daemon":
        (loop,) = [trace.split()[1] for trace in node.traces(volume) if trace.startswith("loop")]
        subprocess.run(["losetup", "-d", loop], check=True)
    if after == "formatting":
        name = volume.rpartition("/")[2]
        with ceph.open_image(name) as image:
            image.metadata_set(PREFIX + "node.formatting", f"{image.id()} begun")
            image.write(b"half a file system", 3 * MIB)
    path = node.stage(volume)
    (path / "file").write_text("x")
    node.unstage(volume)
    assert node.traces(volume) == []


def test_two_kills_in_the_middle_of_a_stage_are_survived(node: NodeProgram, ceph: Ceph) -> None:
    volume, name = new_image(ceph), "ceph-provisioner.node.formatting"
    moments: list[Callable[[], object]] = [
        lambda: node.daemon(volume),
        lambda: ceph.image_metadata(volume.rpartition("/")[2]).get(name),
    ]
    for moment in moments:
        with ThreadPoolExecutor(1) as pool:
            staging = pool.submit(_quietly, node, volume)
            until(lambda moment=moment, staging=staging: moment() or staging.done(), 30, "the moment to kill", every=0.01)  # type: ignore[misc]
            node.kill()
        node.start()
    (node.stage(volume) / "file").write_text("x")
    node.unstage(volume)
    assert node.traces(volume) == []


def _quietly(node: NodeProgram, volume: str) -> None:
    with contextlib.suppress(grpc.RpcError):
        node.stage(volume)


def test_a_volume_whose_daemon_died_is_told_of_and_mended_by_the_next_stage(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph, locked=False)  # a dead client's lock would be waited for, half a minute
    path = node.stage(volume)
    (path / "file").write_text("synced")
    os.sync()
    os.kill(node.daemon(volume), signal.SIGKILL)
    until(lambda: node.daemon(volume) == 0, 10, "the daemon is gone")
    assert [status for status, _ in node.ills(volume, path)] == ["INACCESSIBLE"]
    assert (node.stage(volume) / "file").read_text() == "synced"
    assert node.ills(volume, path) == []
    node.unstage(volume)
    assert node.traces(volume) == []


@pytest.mark.parametrize("offset", [0, 1 * MIB, 511 * MIB, 512 * MIB - 19])
def test_data_that_is_no_file_system_is_never_formatted_over(node: NodeProgram, ceph: Ceph, offset: int) -> None:
    volume = new_image(ceph)
    write_to(ceph, volume, offset, b"somebody's database")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "holds data"):
        node.stage(volume)
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        assert image.read(offset, 19) == b"somebody's database"
    assert node.traces(volume) == []


_FOREIGN = {
    "a member of a volume group": (512, b"LABELONE" + (1).to_bytes(8, "little") + bytes(4) + b"\x20\0\0\0LVM2 001" + b"a" * 32),
    "a partition table": (446, bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0]) + bytes(48) + b"\x55\xaa"),
    "the end of a partition table": (512 * MIB - 512, b"EFI PART\0\0\1\0"),
    "noise": (8192, bytes(range(1, 255)) * 8),
}


@pytest.mark.parametrize(("foreign", "fs_type"), [*((each, "ext4") for each in _FOREIGN), ("a member of a volume group", "")])
def test_what_somebody_else_put_there_is_never_formatted_over(node: NodeProgram, ceph: Ceph, foreign: str, fs_type: str) -> None:
    volume, (offset, data) = new_image(ceph), _FOREIGN[foreign]
    write_to(ceph, volume, offset, data)
    with pytest.raises(grpc.RpcError) as caught:
        node.stage(volume, capability(fs_type=fs_type))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value.details()
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        assert image.read(offset, len(data)) == data
    assert node.traces(volume) == []


def test_a_file_system_of_another_type_is_refused_and_stays(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    node.stage(volume, capability(fs_type="xfs"))
    node.unstage(volume)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "holds xfs, asked for ext4"):
        node.stage(volume, capability(fs_type="ext4"))
    assert node.traces(volume) == []
    node.stage(volume, capability(fs_type=""))
    node.unstage(volume)


def test_mkfs_options_that_mkfs_refuses_leave_the_volume_empty(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "mkfsOptions"):
        node.stage(volume, volume_context={"mkfsOptions": "--no-such-option"})
    assert node.traces(volume) == []
    node.stage(volume, volume_context={"mkfsOptions": "-m0 -L label"})
    node.unstage(volume)


def test_mount_options_that_the_file_system_refuses_leave_nothing_behind(node: NodeProgram, ceph: Ceph) -> None:
    volume, how = new_image(ceph), capability()
    how.mount.mount_flags.append("no_such_option")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "no_such_option"):
        node.stage(volume, how)
    assert node.traces(volume) == []


@pytest.mark.parametrize("key", ["AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA==", "no key at all"])
def test_a_wrong_key_is_refused(node: NodeProgram, ceph: Ceph, key: str) -> None:
    volume = new_image(ceph)
    with pytest.raises(grpc.RpcError) as caught:
        node.stage(volume, secrets={"userID": "provisioner", "userKey": key})
    assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
    assert key not in caught.value.details()
    assert node.traces(volume) == []


@pytest.mark.parametrize(
    "volume",
    [
        "",
        "dev/rbd",
        "dev/rbd/../../etc",
        "dev/rbd/a\nb",
        "dev/rbd/" + "x" * 4096,
        "dev/rbd/no such image",
        "nowhere/rbd/a",
        "dev/no/a",
    ],
    ids=lambda text: repr(text)[:24],
)
def test_an_id_that_names_nothing_is_told_apart_from_trouble(node: NodeProgram, volume: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        node.stage(volume) if len(volume) < 200 else node.stage(volume[:100] + "/" * 4000)
    expected = grpc.StatusCode.NOT_FOUND if volume else grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.code() is expected, caught.value.details()


@pytest.mark.parametrize(
    "path",
    ["relative/path", "/tmp/../etc", "/tmp/with\nline", "/tmp/" + "x" * 300, "/tmp" + "/x" * 2500],
    ids=lambda p: repr(p)[:16],
)
def test_a_crooked_path_is_refused(node: NodeProgram, ceph: Ceph, path: str) -> None:
    volume = new_image(ceph, 64 * MIB)
    node.stage(volume, capability(block=True))
    with pytest.raises(grpc.RpcError) as caught:
        node.unpublish(volume, path) if path.startswith("/") else _publish_at(node, volume, path)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    node.unstage(volume)


def _publish_at(node: NodeProgram, volume: str, path: str) -> None:
    targets, node.targets = node.targets, Path()
    try:
        node.publish(volume, path, capability(block=True))
    finally:
        node.targets = targets


def test_a_target_that_is_a_link_leads_nowhere(node: NodeProgram, ceph: Ceph, tmp_path: Path) -> None:
    volume = new_image(ceph)
    node.stage(volume)
    (node.targets / "link").symlink_to(tmp_path)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "is a link"):
        node.publish(volume, "link")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "is a link"):
        node.unpublish(volume, "link")
    node.unstage(volume)


def test_a_path_with_blanks_is_a_path(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    node.stage(volume)
    target = node.publish(volume, "a name\\040 with blanks ü")
    (target / "file").write_text("x")
    node.unpublish(volume, target.name)
    node.unstage(volume)
    assert node.traces(volume) == []


def test_what_others_mounted_is_never_unmounted(node: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    place = node.targets / "foreign"
    place.mkdir()
    subprocess.run(["mount", "--bind", "/usr", str(place)], check=True)
    try:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "not ours"):
            node.unpublish(volume, "foreign")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_many_cycles_leave_nothing_behind(node: NodeProgram, ceph: Ceph) -> None:
    volumes = [new_image(ceph) for _ in range(VOLUMES)]
    for volume in volumes:  # formatting belongs to the first one only
        node.stage(volume)
        node.unstage(volume)
    before = _held(node)

    def cycle(volume: str) -> None:
        for _ in range(CYCLES):
            node.stage(volume)
            node.unstage(volume)

    with ThreadPoolExecutor(VOLUMES) as pool:
        list(pool.map(cycle, volumes))
    assert [trace for volume in volumes for trace in node.traces(volume)] == []
    descriptors, threads, children = _held(node)
    assert children == before[2] == 0
    assert descriptors <= before[0] + 5
    assert threads <= before[1] + 30  # the server's own, started as they are needed


def _held(node: NodeProgram) -> tuple[int, int, int]:
    """Descriptors, threads and children of the service."""
    assert node.process is not None
    process = Path(f"/proc/{node.process.pid}")
    children = (process / f"task/{node.process.pid}/children").read_text().split()
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())), len(children)
