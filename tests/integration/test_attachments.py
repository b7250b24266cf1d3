"""Attachments on a real Ceph: who has a volume is on its image, whichever controller asks. Takes about 15 s."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import rbd

from provisioner.core.attachments import Node
from provisioner.core.errors import Conflict, InUse, NotFound, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import Volume
from provisioner.core.uses import Mode, Use
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, set_omap, succeeds

WRITER = Use(Mode.SINGLE_NODE_WRITER)
SHARED = Use(Mode.MULTI_NODE_MULTI_WRITER, block=True)
MARK = "ceph-provisioner.attachments"


def test_the_record_is_on_the_image_and_seen_wherever_the_volume_is(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str]
) -> None:
    ours.attachments.attach(volume.id, nodes[0], SHARED)
    ours.attachments.attach(volume.id, nodes[1], SHARED)
    assert ours.volumes.get(volume.id).nodes == tuple(sorted(nodes))
    assert [each.nodes for each in ours.volumes.volumes(place)] == [tuple(sorted(nodes))]
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        told = json.loads(image.metadata_get(MARK))
        assert (told["image_id"], set(told["nodes"])) == (volume.image_id, set(nodes))
    ours.attachments.detach(volume.id)
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        assert MARK not in dict(image.metadata_list())


def test_a_record_inherited_from_another_image_counts_for_nothing(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str]
) -> None:
    inherited = {"image_id": "abc", "nodes": {"gone": {"mode": "single-node-writer", "clients": ["192.0.2.9:0/9"]}}}
    with at(ceph, place) as pool:
        set_omap(pool, f"rbd_header.{volume.image_id}", {f"metadata_{MARK}": json.dumps(inherited).encode()})
    assert ours.volumes.get(volume.id).nodes == ()
    ours.attachments.attach(volume.id, nodes[0], WRITER)
    assert ours.volumes.get(volume.id).nodes == (nodes[0],)
    ours.attachments.detach(volume.id)
    ours.volumes.delete(volume.id)


def test_a_record_that_was_garbled_by_hand_is_not_overwritten(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str]
) -> None:
    with at(ceph, place) as pool:
        set_omap(pool, f"rbd_header.{volume.image_id}", {f"metadata_{MARK}": b'{"image_id'})
    for act in (lambda: ours.attachments.attach(volume.id, nodes[0], WRITER), lambda: ours.attachments.detach(volume.id)):
        with pytest.raises(Conflict, match="remove that key"):
            act()


def test_names_of_nodes_may_be_in_any_script(ours: Provisioner, volume: Volume) -> None:
    name = f"Rechner-zwölf/{uuid.uuid4().hex[:8]}"
    ours.attachments.enrol_node("dev", Node(name))
    ours.attachments.attach(volume.id, name, WRITER)
    ours.attachments.record_client(volume.id, name, "192.0.2.9:0/1")
    ours.attachments.clear_client(volume.id, name, "192.0.2.9:0/1")
    assert ours.volumes.get(volume.id).nodes == (name,)
    ours.attachments.detach(volume.id, name)
    ours.attachments.forget_node("dev", name)
    assert name not in [node.id for node in ours.attachments.nodes("dev")]


def test_of_two_controllers_that_attach_it_to_different_nodes_at_once_one_is_refused(
    ours: Provisioner, peer: Provisioner, volume: Volume, nodes: tuple[str, str]
) -> None:
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            tries = [
                pool.submit(succeeds, InUse, lambda p=process, n=node: p.attachments.attach(volume.id, n, WRITER))
                for process, node in zip((ours, peer), nodes, strict=True)
            ]
            assert sorted(each.result() for each in tries) == [False, True]
        assert len(ours.volumes.get(volume.id).nodes) == 1
        ours.attachments.detach(volume.id)


def test_many_nodes_that_come_at_once_by_two_controllers_all_get_it(ours: Provisioner, peer: Provisioner, volume: Volume) -> None:
    names = [f"many-{number}-{uuid.uuid4().hex[:6]}" for number in range(8)]
    for name in names:
        ours.attachments.enrol_node("dev", Node(name))
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda pair: pair[0].attachments.attach(volume.id, pair[1], SHARED), zip([ours, peer] * 4, names, strict=True)
            )
        )
    assert ours.volumes.get(volume.id).nodes == tuple(sorted(names))


# --- deleting ---


def test_an_attached_volume_is_not_deleted_and_the_node_is_named(
    ours: Provisioner, volume: Volume, nodes: tuple[str, str]
) -> None:
    ours.attachments.attach(volume.id, nodes[0], WRITER)
    with pytest.raises(InUse, match=f"node {nodes[0]}"):
        ours.volumes.delete(volume.id)
    ours.attachments.detach(volume.id, nodes[0])
    ours.volumes.delete(volume.id)
    ours.attachments.detach(volume.id, nodes[0])
    with pytest.raises(NotFound):
        ours.attachments.attach(volume.id, nodes[0], WRITER)


def test_of_a_delete_and_an_attachment_at_once_one_is_refused(
    ours: Provisioner, peer: Provisioner, place: Place, nodes: tuple[str, str]
) -> None:
    for number in range(15):
        made = ours.create(place, f"pvc-race-{number}")
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.submit(succeeds, (InUse, Conflict), lambda m=made: ours.volumes.delete(m.id))
            attached = pool.submit(
                succeeds,
                (NotFound, Unavailable),
                lambda m=made: peer.attachments.attach(m.id, nodes[0], WRITER),
            )
            assert (deleted.result(), attached.result()) in ((True, False), (False, True))
