"""The service killed between each two steps of a stage and of the way back, in the guest. About 550 s of one processor."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from provisioner.ceph.places import Places
from provisioner.core.attachments import Attachments
from provisioner.core.uses import Mode, Use
from tests.contract.driver import MIB
from tests.harness.ceph import Ceph
from tests.harness.guest import NODE, GuestNode, new_volume
from tests.harness.node import new_image
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(1800)

KINDS = {
    "krbd": {"volume_context": {"mounter": "rbd"}},
    "rbd-nbd": {"volume_context": {"mounter": "rbd-nbd"}},
    "encrypted": {"volume_context": {"encrypted": "true"}, "secrets": {"encryptionPassphrase": "correct horse"}},
}


@pytest.fixture(scope="module", autouse=True)
def mortal(guest: GuestNode, attachments: Attachments) -> Iterator[None]:
    """The service of this file dies when it is told to."""
    guest.kill()
    guest.restart(mortal=True)
    guest.with_cheap_keys()
    until(lambda: NODE in [node.id for node in attachments.nodes("dev")], 120, "the node is known", guest.log)
    yield
    guest.kill()
    guest.restart()


def dies(guest: GuestNode, step: int, call: Callable[..., object], *arguments: object, **named: object) -> bool:
    """Make a call, and again if the service died before a step of it; whether it did."""
    guest.die_before(step)
    try:
        call(*arguments, **named)
    except grpc.RpcError:
        if guest.survived():
            raise
        print(step, "before", guest.last_steps()[-1])
        guest.restart(mortal=True)
        call(*arguments, **named)
        return True
    assert guest.survived()
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_is_staged_and_unstaged_wherever_the_service_dies_on_the_way(
    guest: GuestNode, ceph: Ceph, places: Places, attachments: Attachments, kind: str
) -> None:
    how = {**KINDS[kind], "publish_context": {"pool": ceph.pool}}
    died, step = [(0, 0, 0)], 0
    while step == 0 or any(died[-1]):
        step += 1
        image = new_volume(ceph, places)
        volume, path = str(image), guest.staging / image.image
        attachments.attach(image, NODE, Use(Mode.SINGLE_NODE_WRITER))
        fresh = dies(guest, step, guest.stage, volume, **how)
        guest.run(f"echo kept >{path}/file")
        back = dies(guest, step, guest.unstage, volume)
        assert (guest.traces(volume), attachments.clients(image, NODE)) == ([], ())
        kept = dies(guest, step, guest.stage, volume, **how)
        assert guest.run(f"cat {path}/file") == "kept\n"
        guest.unstage(volume)
        assert (guest.traces(volume), attachments.clients(image, NODE)) == ([], ())
        assert guest.guest.run("pidof rbd-nbd").code != 0
        attachments.detach(image, NODE)
        died.append((fresh, back, kept))
    assert min(sum(each) for each in zip(*died, strict=True)) > 3


def test_a_format_that_outlives_the_service_does_not_touch_what_was_mounted_since(guest: GuestNode, ceph: Ceph) -> None:
    volume = new_image(ceph, 64 * MIB)
    guest.trap("mkfs.ext4", "late")
    with pytest.raises(grpc.RpcError):
        guest.stage(volume)
    guest.restart(mortal=True)
    path = guest.stage(volume)
    guest.run(f"echo kept >{path}/file && sync -f {path}")
    until(lambda: guest.guest.run("test -e /run/late").code == 0, 240, "the late format has ended", every=1)
    guest.untrap("mkfs.ext4")
    guest.unstage(volume)
    guest.stage(volume)
    assert guest.run(f"cat {path}/file") == "kept\n"
    guest.unstage(volume)
    assert guest.traces(volume) == []
