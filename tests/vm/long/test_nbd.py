"""rbd-nbd in the guest: `mounter: rbd-nbd`, and what becomes of it when its processes end. About 80 s of one processor."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from csi.pb import csi_pb2
from provisioner.ceph.places import Places
from provisioner.core.attachments import Attachments
from provisioner.core.ids import VolumeId
from provisioner.core.uses import Mode, Use
from tests.contract.driver import MIB, capability, refused
from tests.harness.ceph import Ceph
from tests.harness.guest import NODE, GuestNode, new_volume
from tests.harness.node import NodeProgram, grow_image, new_image, watchers
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(1200)

NBD = {"mounter": "rbd-nbd"}
READER = capability(csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_READER_ONLY)


@contextmanager
def attached(volume: VolumeId, attachments: Attachments) -> Iterator[str]:
    """A volume that the controller gave to the guest for the block."""
    attachments.attach(volume, NODE, Use(Mode.SINGLE_NODE_WRITER))
    yield str(volume)
    attachments.detach(volume, NODE)


def told(ceph: Ceph, options: str = "") -> dict[str, dict[str, str]]:
    """What makes a stage one of a volume that the controller attached."""
    return {"volume_context": {**NBD, "mapOptions": options}, "publish_context": {"pool": ceph.pool}}


def processes(guest: GuestNode) -> list[str]:
    return guest.guest.run("pidof rbd-nbd").output.split()


def left(guest: GuestNode, volume: str) -> list[str]:
    return guest.traces(volume) + processes(guest)


def test_a_volume_by_rbd_nbd_is_written_grown_and_read_elsewhere(guest: GuestNode, elsewhere: NodeProgram, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    user = ceph.make_user(f"nbd-{uuid.uuid4().hex[:8]}", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    how = {"volume_context": NBD, "secrets": {"userID": user.name, "userKey": user.key}}
    path = guest.stage(volume, **how)
    assert guest.run(f"findmnt -no SOURCE {path}").startswith("/dev/nbd")
    assert guest.run("cat /sys/block/nbd*/backend").split() == [f"cp:{volume}"]
    guest.run(f"echo by way of nbd >{path}/file")
    assert guest.stage(volume, **how) == path
    assert len(watchers(ceph, volume)) == len(processes(guest)) == 1
    grow_image(ceph, volume, 96 * MIB)
    assert guest.expand(volume, path, 96 * MIB) == 96 * MIB
    assert guest.stats(volume, path)["BYTES"].total > 70 * MIB
    assert user.key not in guest.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /run/node.log")
    guest.unstage(volume)
    assert left(guest, volume) == []
    assert watchers(ceph, volume) == []
    assert (elsewhere.stage(volume) / "file").read_text() == "by way of nbd\n"
    elsewhere.unstage(volume)


def test_a_restarted_service_knows_its_devices_and_detaches_them(guest: GuestNode, ceph: Ceph) -> None:
    volume, block = new_image(ceph, 64 * MIB), capability(block=True)
    guest.stage(volume, block, volume_context=NBD)
    target = guest.publish(volume, "device", block)
    guest.run(f"echo on the device itself | dd of={target} bs=4096 conv=sync oflag=direct 2>/dev/null")
    serving = processes(guest)
    guest.kill()
    guest.restart()
    guest.stage(volume, block, volume_context=NBD)
    assert processes(guest) == serving
    assert guest.ills(volume, target) == []
    with refused(grpc.StatusCode.FAILED_PRECONDITION, str(target)):
        guest.unstage(volume)
    guest.unpublish(volume, "device")
    guest.unstage(volume)
    assert left(guest, volume) == []
    with ceph.open_image(volume.rpartition("/")[2]) as image:
        assert image.read(0, 20) == b"on the device itself"


def test_a_mapping_that_was_under_way_as_the_service_was_killed_is_not_there_twice(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    guest.run("(until pidof rbd-nbd; do :; done; kill -9 $(cat /run/node.pid)) </dev/null >/dev/null 2>&1 &")
    with pytest.raises(grpc.RpcError):
        guest.stage(volume, volume_context=NBD)
    guest.restart()
    guest.stage(volume, volume_context=NBD)
    assert guest.run("cat /sys/block/nbd*/backend").split() == [f"cp:{volume}"]
    assert len(processes(guest)) == 1
    guest.unstage(volume)
    assert left(guest, volume) == []


def test_a_reader_can_not_write_and_leaves_nothing(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    path = guest.stage(volume, volume_context=NBD)
    guest.run(f"echo kept >{path}/file")
    guest.unstage(volume)
    guest.stage(volume, READER, volume_context=NBD)
    assert guest.run(f"cat {path}/file") == "kept\n"
    assert guest.guest.run(f"echo more >{path}/more").code != 0
    assert guest.run("cat /sys/block/nbd0/ro").strip() == "1"
    guest.unstage(volume)
    assert left(guest, volume) == []


def test_what_was_mapped_is_served_again_after_the_service_and_its_processes_were_killed(
    guest: GuestNode, ceph: Ceph, places: Places, attachments: Attachments
) -> None:
    image = new_volume(ceph, places)
    with attached(image, attachments) as volume:
        path = guest.stage(volume, **told(ceph))
        (before,) = attachments.clients(image, NODE)
        guest.run(f"echo before >{path}/file && sync -f {path}")
        guest.run("kill -9 $(cat /run/node.pid) $(pidof rbd-nbd)")
        write = f"echo meanwhile >{path}/more; sync -f {path}; echo done >/run/{image.image}"
        guest.run(f"({write}) </dev/null >/dev/null 2>&1 &")
        guest.restart()
        until(lambda: guest.guest.run(f"test -e /run/{image.image}").code == 0, 240, "the write is through", guest.log, every=1)
        assert guest.ills(volume, path) == []
        after = set(attachments.clients(image, NODE)) - {before}
        assert set(watchers(ceph, volume)) - {before} == after
        assert len(after) == len(processes(guest)) == 1
        guest.unstage(volume)
        assert left(guest, volume) == []
        guest.stage(volume, **told(ceph))
        assert guest.run(f"cat {path}/file {path}/more") == "before\nmeanwhile\n"
        guest.unstage(volume)
        assert attachments.clients(image, NODE) == ()


def test_a_volume_that_was_taken_from_the_node_is_not_served_again(
    guest: GuestNode, ceph: Ceph, places: Places, attachments: Attachments
) -> None:
    image = new_volume(ceph, places)
    with attached(image, attachments) as volume:
        path = guest.stage(volume, **told(ceph, "nbd:reattach-timeout=5"))
        guest.run("kill -9 $(cat /run/node.pid) $(pidof rbd-nbd)")
    guest.restart()
    guest.run(f"until grep 'device of {volume} has lost' /run/node.log; do sleep 1; done")
    assert processes(guest) == []
    with refused(grpc.StatusCode.NOT_FOUND):
        guest.stage(volume, **told(ceph))
    assert guest.ills(volume, path) == [("INACCESSIBLE", "DeviceLost")]
    guest.unstage(volume)
    assert left(guest, volume) == []


def test_a_process_that_died_is_told_as_health_and_replaced_by_the_next_stage(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    path = guest.stage(volume, volume_context=NBD)
    guest.run(f"echo kept >{path}/file && sync -f {path} && kill -9 $(pidof rbd-nbd)")
    assert guest.ills(volume, path) == [("INACCESSIBLE", "DeviceLost")]
    guest.stage(volume, volume_context=NBD)
    assert guest.ills(volume, path) == []
    assert guest.run(f"cat {path}/file") == "kept\n"
    guest.unstage(volume)
    assert left(guest, volume) == []


def test_options_that_are_not_rbd_nbds_are_refused(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "mapOptions", "keyring"):
        guest.stage(volume, capability(block=True), volume_context={**NBD, "mapOptions": "nbd:keyring=/etc/passwd"})
    assert left(guest, volume) == []
