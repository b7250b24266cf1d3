"""Images mapped by a kernel, in a guest with Debian's, through the node's socket. A minute or two, mostly booting.

The guest is emulated: whatever waits here has long deadlines.
"""

from collections.abc import Iterator

import grpc
import pytest

from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.places import Places
from provisioner.ceph.store import CephStore
from provisioner.core.attachments import Attachments
from provisioner.core.ids import Place
from provisioner.core.model import CreateRequest, SizeRange, Volume
from provisioner.core.uses import Mode, Use
from provisioner.core.volumes import Volumes
from tests.contract.driver import MIB, capability, refused, unique
from tests.harness.ceph import Ceph
from tests.harness.guest import NODE, GuestNode
from tests.harness.node import NodeProgram, grow_image, new_image, node_program, watchers
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def elsewhere(ceph: Ceph) -> Iterator[NodeProgram]:
    """Another node, without a kernel client."""
    with node_program(ceph) as node:
        yield node


@pytest.fixture(scope="module")
def places(ceph: Ceph) -> Iterator[Places]:
    clusters = Clusters(lambda: {"dev": ceph.config()})
    made = Places(clusters)
    yield made
    clusters.close()


def new_volume(ceph: Ceph, places: Places, size: int = 256 * MIB) -> Volume:
    """A volume of ours, empty."""
    return Volumes(CephStore(places)).create(CreateRequest(unique("krbd-"), Place("dev", ceph.pool), SizeRange(size)))


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


def test_the_key_is_nowhere_in_the_guests_kernel_and_a_mapping_by_hand_is_left_alone(guest: GuestNode, ceph: Ceph) -> None:
    volume, block = new_image(ceph, 64 * MIB), capability(block=True)
    user = ceph.make_user("krbd-secret", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    guest.stage(volume, block, secrets={"userID": user.name, "userKey": user.key})
    told = guest.run("cat /sys/bus/rbd/devices/*/config_info; cat /proc/keys; cat /run/node.log")
    assert "name=krbd-secret" in told
    assert user.key not in told
    target = guest.publish(volume, "device", block)
    guest.run(f"test -b {target} && dd if=/dev/zero of={target} bs=1M count=1 oflag=direct 2>/dev/null")
    guest.unpublish(volume, "device")
    guest.unstage(volume)
    assert guest.traces(volume) == []

    name = volume.rpartition("/")[2]
    words = f"{ceph.monitors[0]} name={user.name},secret={user.key} {ceph.pool} {name} -"
    guest.run(f"echo '{words}' >/sys/bus/rbd/add_single_major")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "by hand", "/dev/rbd"):
        guest.stage(volume, block)
    guest.unstage(volume)
    assert guest.traces(volume) == [f"mapping {name}"]
    guest.run("for each in /sys/bus/rbd/devices/*; do echo ${each##*/} >/sys/bus/rbd/remove_single_major; done")


@pytest.mark.parametrize("partitioned", [False, True], ids=["reachable", "partitioned"])
def test_a_node_that_lost_its_volume_is_fenced_with_dirty_data_and_the_next_nodes_data_stands(
    guest: GuestNode, elsewhere: NodeProgram, ceph: Ceph, places: Places, *, partitioned: bool
) -> None:
    volume = new_volume(ceph, places)
    attachments = Attachments(CephAttachments(places))
    use = Use(Mode.SINGLE_NODE_WRITER)
    attachments.attach(volume.id, NODE, use)
    path = guest.stage(str(volume.id), publish_context={"pool": ceph.pool})
    (client,) = attachments.clients(volume.id, NODE)
    assert watchers(ceph, str(volume.id)) == [client]
    guest.run(f"echo first >{path}/file && sync && echo dirty >{path}/file")
    if partitioned:  # until nobody would know of the client any more, but for the record
        guest.run("ip route replace blackhole 127.0.0.1/32")
        until(lambda: watchers(ceph, str(volume.id)) == [], 120, "the watch has lapsed", every=1)

    attachments.detach(volume.id, NODE)
    attachments.attach(volume.id, "here", use)
    there = elsewhere.stage(str(volume.id), publish_context={"pool": ceph.pool})
    (there / "file").write_text("second")
    if partitioned:
        guest.run("ip route replace 127.0.0.1/32 via 10.0.2.2 src 10.0.2.15")
    guest.guest.run("sync", 240)
    assert [status for status, _ in guest.ills(str(volume.id), path)] != []
    elsewhere.unstage(str(volume.id))
    assert (elsewhere.stage(str(volume.id), publish_context={"pool": ceph.pool}) / "file").read_text() == "second"
    elsewhere.unstage(str(volume.id))
    guest.unstage(str(volume.id))
    assert guest.traces(str(volume.id)) == []


def test_after_a_fence_the_node_maps_again_with_another_client(guest: GuestNode, ceph: Ceph, places: Places) -> None:
    volume = new_volume(ceph, places, 64 * MIB)
    attachments = Attachments(CephAttachments(places))
    attachments.attach(volume.id, NODE, Use(Mode.SINGLE_NODE_WRITER, block=True))
    guest.stage(str(volume.id), capability(block=True), publish_context={"pool": ceph.pool})
    (client,) = attachments.clients(volume.id, NODE)
    assert client not in attachments._store.fenced("dev")
    guest.unstage(str(volume.id))
    assert attachments.clients(volume.id, NODE) == ()
