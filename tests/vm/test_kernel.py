"""Images mapped by a kernel, in a guest with Debian's, through the node's socket. About 300 s of one processor.

The guest is emulated: whatever waits here has long deadlines, and one test does several things to one volume.
"""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from provisioner.ceph.places import Places
from provisioner.core.attachments import Attachments
from provisioner.core.errors import InUse
from provisioner.core.uses import Mode, Use
from tests.contract.driver import MIB, capability, refused
from tests.harness.ceph import Ceph
from tests.harness.guest import NODE, GuestNode, ceph_killed, new_volume
from tests.harness.kubernetes import Kubernetes
from tests.harness.native import NativeVolume
from tests.harness.node import NodeProgram, grow_image, new_image, watchers
from tests.harness.program import Program
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(1200)

WRITER = Use(Mode.SINGLE_NODE_WRITER)
ENCRYPTED = {"encrypted": "true"}
SECRETS = {"encryptionPassphrase": "correct horse"}


@pytest.fixture(scope="module")
def data_pool(ceph: Ceph) -> str:
    """A second pool that the provisioner may use."""
    pool = f"data-{uuid.uuid4().hex[:8]}"
    ceph.make_pool(pool)
    ceph.let_provision(pool)
    return pool


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph, data_pool: str, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """What makes the native PersistentVolumes."""
    directory = tmp_path_factory.mktemp("provisioner")
    made = Program(directory, ceph.config_file(directory), account, f"{uuid.uuid4().hex[:8]}.example.com/rbd")
    try:
        yield made.start()
    finally:
        made.stop()


def told(ceph: Ceph) -> dict[str, dict[str, str]]:
    """What makes a stage one of a volume that the controller attached."""
    return {"publish_context": {"pool": ceph.pool}}


def test_what_a_kernel_wrote_is_read_elsewhere(guest: GuestNode, elsewhere: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph)
    path = guest.stage(volume)
    guest.run(f"echo written by a kernel >{path}/file")
    assert guest.stage(volume) == path
    assert len(watchers(ceph, volume)) == 1
    grow_image(ceph, volume, 640 * MIB)
    assert guest.expand(volume, path, 640 * MIB) == 640 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 550 * MIB
    assert guest.ills(volume, path) == []
    guest.unstage(volume)
    assert guest.traces(volume) == []
    assert watchers(ceph, volume) == []
    assert (elsewhere.stage(volume) / "file").read_text() == "written by a kernel\n"
    elsewhere.unstage(volume)


def test_xfs_grows_while_it_is_mounted_and_keeps_what_was_written(guest: GuestNode, ceph: Ceph) -> None:
    volume, xfs = new_image(ceph, 320 * MIB), capability(fs_type="xfs")
    path = guest.stage(volume, xfs)
    guest.run(f"echo written before >{path}/file")
    grow_image(ceph, volume, 480 * MIB)
    assert guest.expand(volume, path, 480 * MIB) == 480 * MIB
    assert guest.run(f"stat -f -c %T {path}").strip() == "xfs"
    assert guest.stats(volume, path)["BYTES"].total > 360 * MIB
    assert guest.run(f"cat {path}/file") == "written before\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_what_was_written_by_way_of_rbd_nbd_is_read_by_the_kernels_client(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    path = guest.stage(volume, volume_context={"mounter": "rbd-nbd"})
    assert guest.run(f"findmnt -no SOURCE {path}").startswith("/dev/nbd")
    guest.run(f"echo by way of nbd >{path}/file")
    grow_image(ceph, volume, 96 * MIB)
    assert guest.expand(volume, path, 96 * MIB) == 96 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 70 * MIB
    guest.unstage(volume)
    assert guest.traces(volume) == []
    assert guest.guest.run("pidof rbd-nbd").code != 0
    guest.stage(volume)
    assert guest.run(f"cat {path}/file") == "by way of nbd\n"
    guest.unstage(volume)


def test_the_key_is_nowhere_in_the_guests_kernel_and_a_mapping_by_hand_is_left_alone(guest: GuestNode, ceph: Ceph) -> None:
    volume, block = new_image(ceph, 64 * MIB), capability(block=True)
    user = ceph.make_user("krbd-secret", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    guest.stage(volume, block, secrets={"userID": user.name, "userKey": user.key})
    seen = guest.run("cat /sys/bus/rbd/devices/*/config_info; cat /proc/keys; cat /run/node.log")
    assert "name=krbd-secret" in seen
    assert user.key not in seen
    target = guest.publish(volume, "device", block)
    guest.run(f"test -b {target} && echo on the device itself | dd of={target} bs=4096 conv=sync oflag=direct 2>/dev/null")
    guest.unpublish(volume, "device")
    guest.unstage(volume)
    assert guest.traces(volume) == []

    name = volume.rpartition("/")[2]
    with ceph.open_image(name) as image:
        assert image.read(0, 20) == b"on the device itself"
    words = f"{ceph.monitors[0]} name={user.name},secret={user.key} {ceph.pool} {name} -"
    guest.run(f"echo '{words}' >/sys/bus/rbd/add_single_major")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "by hand", "/dev/rbd"):
        guest.stage(volume, block)
    guest.unstage(volume)
    assert guest.traces(volume) == [name]
    guest.run("for each in /sys/bus/rbd/devices/*; do echo ${each##*/} >/sys/bus/rbd/remove_single_major; done")


def test_a_plugin_killed_with_mkfs_half_done_and_again_before_it_mounts_stages_in_the_end(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    for program, when in (("mkfs.ext4", "half"), ("mount", "before")):
        guest.trap(program, when)
        with pytest.raises(grpc.RpcError):
            guest.stage(volume)
        guest.untrap(program)
        assert guest.traces(volume) == [volume.rpartition("/")[2]]
        guest.restart()
    path = guest.stage(volume)
    guest.run(f"echo written after all >{path}/file")
    guest.kill()
    guest.restart()
    assert guest.run(f"cat {path}/file") == "written after all\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_io_goes_on_when_the_monitor_and_the_osd_were_killed_and_are_back(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    path = guest.stage(volume)
    guest.run(f"echo before >{path}/file && sync {path}/file")
    through = f"/run/{path.name}"
    with ceph_killed(ceph):
        guest.run(f"(echo during >{path}/during && sync -f {path} && touch {through}) </dev/null >/dev/null 2>&1 &")
        guest.run(f"sleep 3; test ! -e {through}")
    until(lambda: guest.guest.run(f"test -e {through}").code == 0, 240, "the write is through", every=1)
    assert guest.run(f"cat {path}/file {path}/during") == "before\nduring\n"
    assert guest.ills(volume, path) == []
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_a_second_writer_is_refused_where_it_asks_and_where_it_does_not(
    guest: GuestNode, elsewhere: NodeProgram, ceph: Ceph, places: Places, attachments: Attachments
) -> None:
    volume, block = new_volume(ceph, places), capability(block=True)
    attachments.attach(volume, NODE, WRITER)
    guest.stage(str(volume), block, **told(ceph))
    with pytest.raises(InUse, match=NODE):
        attachments.attach(volume, "here", WRITER)
    with refused(grpc.StatusCode.NOT_FOUND, "here"):
        elsewhere.stage(str(volume), block, **told(ceph))
    guest.unstage(str(volume))
    assert attachments.clients(volume, NODE) == ()
    attachments.detach(volume, NODE)


@pytest.mark.parametrize("partitioned", [False, True], ids=["reachable", "partitioned"])
def test_a_node_that_lost_its_volume_is_fenced_with_dirty_data_and_the_next_nodes_data_stands(
    guest: GuestNode, elsewhere: NodeProgram, ceph: Ceph, places: Places, attachments: Attachments, *, partitioned: bool
) -> None:
    volume = new_volume(ceph, places)
    name = str(volume)
    attachments.attach(volume, NODE, WRITER)
    path = guest.stage(name, **told(ceph))
    (client,) = attachments.clients(volume, NODE)
    assert watchers(ceph, name) == [client]
    guest.run(f"echo first >{path}/file && sync && echo dirty >{path}/file")
    if partitioned:  # until nobody would know of the client any more, but for the record
        guest.cut_off()
        until(lambda: watchers(ceph, name) == [], 120, "the watch has lapsed", every=1)

    attachments.detach(volume, NODE)
    attachments.attach(volume, "here", WRITER)
    there = elsewhere.stage(name, **told(ceph))
    (there / "file").write_text("second")
    if partitioned:
        guest.let_through()
    assert guest.guest.run(f"sync -f {path}; echo late >>{path}/file && sync {path}/file", 240).code != 0
    assert guest.ills(name, path) != []
    elsewhere.unstage(name)
    assert (elsewhere.stage(name, **told(ceph)) / "file").read_text() == "second"
    elsewhere.unstage(name)
    guest.unstage(name)
    assert guest.traces(name) == []


def test_after_a_fence_the_node_maps_with_another_client_and_noshare_has_one_for_each_volume(
    guest: GuestNode, ceph: Ceph, places: Places, attachments: Attachments
) -> None:
    volumes = [new_volume(ceph, places) for _ in range(2)]
    for volume in volumes:
        attachments.attach(volume, NODE, WRITER)
        guest.stage(str(volume), capability(block=True), volume_context={"mapOptions": "krbd:noshare"}, **told(ceph))
    clients = [attachments.clients(volume, NODE) for volume in volumes]
    assert len({*clients[0], *clients[1]}) == 2
    assert not {*clients[0], *clients[1]} & {fence.address for fence in attachments.fences("dev", NODE)}

    attachments.detach(volumes[0], NODE)
    write = "dd if=/dev/zero bs=4096 count=1 oflag=direct 2>/dev/null of="
    ends = [
        guest.guest.run(write + str(guest.publish(str(volume), str(number), capability(block=True))), 120).code
        for number, volume in enumerate(volumes)
    ]
    assert ends[0] != 0
    assert ends[1] == 0
    for number, volume in enumerate(volumes):
        guest.unpublish(str(volume), str(number))
        guest.unstage(str(volume))
        assert guest.traces(str(volume)) == []


def test_a_device_that_a_process_has_open_is_unmapped_where_the_class_forces_it_and_reads_may_be_local(
    guest: GuestNode, ceph: Ceph
) -> None:
    volume, block = new_image(ceph, 64 * MIB), capability(block=True)
    near = "krbd:read_from_replica=localize,crush_location=zone:a|host:guest"
    guest.stage(volume, block, volume_context={"mapOptions": near, "unmapOptions": "krbd:force"})
    assert near.removeprefix("krbd:") in guest.run("cat /sys/bus/rbd/devices/*/config_info")
    guest.run("device=$(ls /dev/rbd[0-9]* | head -n1); sleep 600 <$device >/dev/null 2>&1 & echo $! >/run/holder")
    guest.unstage(volume)
    assert guest.traces(volume) == []
    guest.run("kill $(cat /run/holder)")


def test_a_lock_that_can_not_move_refuses_online_growth_and_snapshots(guest: GuestNode, ceph: Ceph) -> None:
    """Why `exclusive` is not a default."""
    volume, block = new_image(ceph, 64 * MIB), capability(block=True)
    name = volume.rpartition("/")[2]
    for options, refusing in (("krbd:exclusive", True), ("", False)):
        guest.stage(volume, block, volume_context={"mapOptions": options})
        target = guest.publish(volume, "locked", block)
        guest.run(f"dd if=/dev/zero of={target} bs=4096 count=1 oflag=direct 2>/dev/null")
        for words in (["resize", "--no-progress", "--size", "96M"], ["snap", "create", "--no-progress", "--snap", "now"]):
            command = ["rbd", "--conf", ceph.conf, "--id", "admin", *words, "--pool", ceph.pool, "--image", name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert (done.returncode != 0) == refusing, done.stderr
        guest.unpublish(volume, "locked")
        guest.unstage(volume)


def test_native_volumes_are_written_and_read_by_their_fields_and_their_secret_alone(
    guest: GuestNode, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, data_pool: str
) -> None:
    plain = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    parted = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool, "dataPool": data_pool})
    claims = [kubernetes.make_claim(storage_class, "64Mi") for storage_class in (plain, parted)]
    mine, other = (NativeVolume(guest, kubernetes, kubernetes.wait_bound(claim, 90)) for claim in claims)
    assert mine.rbd["user"] != other.rbd["user"]
    assert not other.map(key=mine.key)
    for volume, text in ((mine, "plain"), (other, "elsewhere")):
        assert volume.map()
        volume.write(text)
        assert volume.map()
        assert volume.read() == text
    assert [name for name in ceph.objects(data_pool) if name.startswith("rbd_data")] != []

    source = {"kind": "PersistentVolumeClaim", "name": claims[0]["metadata"]["name"]}
    copy = kubernetes.make_claim(plain, "64Mi", dataSource=source)
    clone = NativeVolume(guest, kubernetes, kubernetes.wait_bound(copy, 90))
    assert clone.map()
    assert clone.read() == "plain"


def test_an_encrypted_volume_opens_with_its_passphrase_only_and_holds_nothing_in_clear(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 128 * MIB)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "encryptionPassphrase"):
        guest.stage(volume, volume_context=ENCRYPTED)
    path = guest.stage(volume, volume_context=ENCRYPTED, secrets=SECRETS)
    guest.run(f"echo a secret that nobody reads >{path}/file && sync")
    assert "correct horse" not in guest.run("cat /run/node.log; cat /proc/*/cmdline")
    grow_image(ceph, volume, 192 * MIB)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "node-expand-secret"):
        guest.expand(volume, path, 192 * MIB)
    assert guest.expand(volume, path, 192 * MIB, secrets=SECRETS) == 192 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 150 * MIB
    guest.unstage(volume)
    assert guest.traces(volume) == []
    assert guest.run("ls /dev/mapper").split() == ["control"]

    with ceph.open_image(volume.rpartition("/")[2]) as image:
        raw = b"".join(image.read(at * MIB, MIB) for at in range(192))
    assert raw.startswith(b"LUKS\xba\xbe\x00\x02")
    assert b"a secret that nobody reads" not in raw

    with refused(grpc.StatusCode.PERMISSION_DENIED, "passphrase"):
        guest.stage(volume, volume_context=ENCRYPTED, secrets={"encryptionPassphrase": "battery staple"})
    assert guest.traces(volume) == []
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "is encrypted"):
        guest.stage(volume)
    assert guest.traces(volume) == []
    guest.stage(volume, volume_context=ENCRYPTED, secrets=SECRETS)
    assert guest.run(f"cat {path}/file") == "a secret that nobody reads\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []
