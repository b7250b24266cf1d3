"""What a node suffers: kills, lost daemons, foreign data, wrong keys, crooked paths. Each leaves the node as it was.

About 70 seconds.
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
import rbd

from csi.pb import csi_pb2
from provisioner.ceph.marks import PREFIX
from provisioner.host.blocks import loops_on, unmounted_loops
from tests.contract.driver import MIB, capability, refused
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, new_image, node_program
from tests.harness.store import quota
from tests.harness.waiting import until

VOLUMES = 5
CYCLES = int(os.environ.get("CEPH_PROVISIONER_TEST_STAGES", "30")) // VOLUMES
"""Stages and unstages of each volume; `CEPH_PROVISIONER_TEST_STAGES=100` is the long form."""


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
            until(lambda moment=moment, staging=staging: moment() or staging.done(), 60, "the moment to kill", every=0.01)  # type: ignore[misc]
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
    until(lambda: node.daemon(volume) == 0, 60, "the daemon is gone")
    assert [status for status, _ in node.ills(volume, path)] == ["INACCESSIBLE"]
    assert (node.stage(volume) / "file").read_text() == "synced"
    assert node.ills(volume, path) == []
    node.unstage(volume)
    assert node.traces(volume) == []


def test_a_device_whose_daemon_died_with_its_container_is_freed_with_its_volume(ceph: Ceph) -> None:
    """The mount of its file is gone, and the kernel has no path for that any more."""
    volume = new_image(ceph, locked=False)
    with node_program(ceph, contained=True) as node:
        node.stage(volume, capability(block=True))
        (loop,) = loops_on(node.image_file(volume))
        node.kill()
        until(lambda: loop in unmounted_loops(), 60, "the container is gone with its daemon")
        node.start()
        node.unstage(volume)
        assert loop not in unmounted_loops()
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


def _ask(node: NodeProgram, call: str, **fields: object) -> None:
    """One of the node's calls with these fields and nothing else."""
    getattr(node.node, call)(getattr(csi_pb2, f"{call}Request")(**fields), timeout=60)


CALLS: dict[str, dict[str, object]] = {
    "NodeStageVolume": {"staging_target_path": "/run/cp-hostile", "volume_capability": capability()},
    "NodeUnstageVolume": {"staging_target_path": "/run/cp-hostile"},
    "NodePublishVolume": {
        "staging_target_path": "/run/cp-hostile",
        "target_path": "/run/cp-hostile/target",
        "volume_capability": capability(),
    },
    "NodeUnpublishVolume": {"target_path": "/run/cp-hostile/target"},
    "NodeExpandVolume": {"volume_path": "/run/cp-hostile/target"},
    "NodeGetVolumeStats": {"volume_path": "/run/cp-hostile/target"},
}
NAMES = [
    "dev/rbd/" + "x" * 4096,
    "../../etc/passwd",
    "dev/rbd/..",
    "dev/rbd/a\nb",
    "dev/rbd/a b",
    "dev/rbd/$(reboot)",
    "-rf",
    "\u202e",
]


@pytest.mark.parametrize("call", CALLS)
def test_no_call_takes_an_id_for_more_than_a_name(node: NodeProgram, call: str) -> None:
    nothing_to_do = call in ("NodeUnstageVolume", "NodeUnpublishVolume")
    for volume in NAMES:
        try:
            _ask(node, call, volume_id=volume, **CALLS[call])
            assert nothing_to_do, volume
        except grpc.RpcError as error:
            expected = [grpc.StatusCode.NOT_FOUND]
            expected += [grpc.StatusCode.FAILED_PRECONDITION] if call == "NodePublishVolume" else []  # it is not staged
            assert error.code() in expected, (volume[:40], error.details())  # noqa: PT017
    assert not Path("/run/cp-hostile").exists()


@pytest.mark.parametrize("call", ["NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume"])
def test_no_call_follows_a_path_that_leads_elsewhere(node: NodeProgram, ceph: Ceph, call: str, tmp_path: Path) -> None:
    volume = new_image(ceph, 64 * MIB)
    node.stage(volume)
    (tmp_path / "link").symlink_to("/etc")
    field = [name for name in CALLS[call] if name.endswith("target_path")][-1]
    for path in (f"{tmp_path}/../etc", "etc", f"{tmp_path}/a\nb", f"{tmp_path}/" + "x" * 4096, f"{tmp_path}/link"):
        with pytest.raises(grpc.RpcError) as caught:
            _ask(node, call, volume_id=volume, **{**CALLS[call], field: path})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (path[:40], caught.value.details())
    assert [each.name for each in tmp_path.iterdir()] == ["link"]
    node.unstage(volume)
    assert node.traces(volume) == []


@contextlib.contextmanager
def _full(path: Path) -> Iterator[Path]:
    """A directory in which nothing more can be made."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "full", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_of_the_node_is_said_and_leaves_it_as_it_was(node: NodeProgram, ceph: Ceph) -> None:
    volume, staging, targets = new_image(ceph, 64 * MIB), node.staging, node.targets
    for place in ("staging-full", "run/fuse"):
        with _full(node.directory / place) as full, refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full)):
            node.staging = full if place == "staging-full" else staging
            node.stage(volume)
        assert node.traces(volume) == []
    node.staging = staging
    node.stage(volume)
    with _full(node.directory / "targets-full") as full, refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full)):
        node.targets = full
        node.publish(volume, "target")
    node.targets = targets
    node.unstage(volume)
    assert node.traces(volume) == []


def test_a_full_pool_is_said_at_once_and_staged_from_when_it_has_room(ceph: Ceph) -> None:
    with ceph.extra_pool() as pool, node_program(ceph) as node:
        with ceph.admin_pool(pool) as opened:
            for name in ("filler", "volume"):
                rbd.RBD().create(opened, name, 64 * MIB)
        with ceph.open_image("filler", pool) as image:
            image.write(b"x" * 2 * MIB, 0)
        volume = f"dev/{pool}/volume"
        with quota(ceph, pool, MIB), refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"):
            node.stage(volume)
        assert node.traces(volume) == []
        assert [name for name in ceph.objects(pool) if "room" in name] == []
        node.stage(volume)
        node.unstage(volume)
        assert node.traces(volume) == []


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
