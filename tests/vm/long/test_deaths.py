"""The service killed between each two steps of a stage and of the way back, in the guest. About 300 s of one processor."""

import contextlib

import grpc
import pytest

from tests.contract.driver import MIB
from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode
from tests.harness.node import new_image

pytestmark = [pytest.mark.timeout(1200)]

ENCRYPTED = {"volume_context": {"encrypted": "true"}, "secrets": {"encryptionPassphrase": "correct horse"}}


@pytest.fixture(scope="module", autouse=True)
def cheap_keys(guest: GuestNode) -> None:
    guest.with_cheap_keys()


@pytest.mark.parametrize(
    ("program", "when"),
    [
        *(("blkid", "before"), ("blkid", "after")),
        *(("mkfs.ext4", "before"), ("mkfs.ext4", "half"), ("mkfs.ext4", "after")),
        *(("mount", "before"), ("mount", "after")),
    ],
)
def test_a_stage_that_was_killed_anywhere_is_finished_by_the_next(guest: GuestNode, ceph: Ceph, program: str, when: str) -> None:
    volume = new_image(ceph, 64 * MIB)
    guest.trap(program, when)
    with pytest.raises(grpc.RpcError):
        guest.stage(volume)
    guest.untrap(program)
    guest.restart()
    path = guest.stage(volume)
    guest.run(f"echo well >{path}/file")
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_a_stage_killed_as_soon_as_the_device_is_there_is_finished_by_the_next(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    name = volume.rpartition("/")[2]
    seen = f"until grep -qx {name} /sys/bus/rbd/devices/*/name; do :; done; kill -9 $(cat /run/node.pid)"
    guest.run(f"({seen}) </dev/null >/dev/null 2>&1 &")
    with pytest.raises(grpc.RpcError):
        guest.stage(volume)
    guest.restart()
    guest.stage(volume)
    guest.unstage(volume)
    assert guest.traces(volume) == []


@pytest.mark.parametrize(
    ("program", "when"), [("e2fsck", "before"), ("e2fsck", "after"), ("umount", "before"), ("umount", "after")]
)
def test_a_volume_that_holds_data_keeps_it_whenever_the_service_dies(
    guest: GuestNode, ceph: Ceph, program: str, when: str
) -> None:
    volume = new_image(ceph, 64 * MIB)
    path = guest.stage(volume)
    guest.run(f"echo kept >{path}/file")
    guest.trap(program, when)
    with contextlib.suppress(grpc.RpcError):
        guest.unstage(volume)
        guest.stage(volume)
    guest.untrap(program)
    guest.restart()
    guest.stage(volume)
    assert guest.run(f"cat {path}/file") == "kept\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []


def test_an_encrypted_volume_survives_deaths_around_its_header(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    for when in ("half", "after", "before"):  # of luksFormat, of luksFormat, of what comes first then
        guest.trap("cryptsetup", when)
        with pytest.raises(grpc.RpcError):
            guest.stage(volume, **ENCRYPTED)
        guest.untrap("cryptsetup")
        guest.with_cheap_keys()
        guest.restart()
    path = guest.stage(volume, **ENCRYPTED)
    guest.run(f"echo kept >{path}/file")
    guest.unstage(volume)
    assert guest.traces(volume) == []
