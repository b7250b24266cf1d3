"""Fences on a real Ceph, with real clients as nodes: what a node held back never arrives. Takes about 30 s."""

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import rbd

from provisioner.ceph import fences
from provisioner.core.attachments import Node
from provisioner.core.errors import Conflict, InUse, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import Layout, Volume
from provisioner.core.uses import Mode, Use
from tests.harness.ceph import Ceph
from tests.harness.nodeclient import NodeClient
from tests.harness.store import Provisioner, Victim, at, quota, succeeds, write
from tests.harness.waiting import until

WRITER = Use(Mode.SINGLE_NODE_WRITER)
SHARED = Use(Mode.MULTI_NODE_MULTI_WRITER, block=True)
YEAR = 365 * 86400
CUT_OFF = "failed 108"


@pytest.fixture
def client(ceph: Ceph, place: Place, volume: Volume) -> Iterator[NodeClient]:
    """A client with the volume open."""
    made = NodeClient(ceph, place, volume.id.image)
    yield made
    made.kill()


@pytest.fixture
def staged(ours: Provisioner, volume: Volume, nodes: tuple[str, str], client: NodeClient) -> NodeClient:
    """That client, on the first node, attached and recorded, and with data that are written but not sent."""
    ours.attachments.attach(volume.id, nodes[0], WRITER)
    ours.attachments.record_client(volume.id, nodes[0], client.address)
    assert client.ask("write early") == "written"
    assert client.ask("flush") == "flushed"
    assert client.ask("write late") == "written"
    return client


def fenced_until(ceph: Ceph, address: str) -> float:
    """Seconds that a fence has to go; 0 without one."""
    with ceph.admin() as handle:
        _, out, _ = handle.mon_command(json.dumps({"prefix": "osd blocklist ls", "format": "json"}), b"")
    listed, _ = json.JSONDecoder().raw_decode(out.decode())
    ends = [time.mktime(time.strptime(entry["until"][:19], "%Y-%m-%dT%H:%M:%S")) for entry in listed if entry["addr"] == address]
    return ends[0] - time.mktime(time.gmtime()) if ends else 0.0


def content(ceph: Ceph, place: Place) -> str:
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1", read_only=True) as image:
        return bytes(image.read(0, 16)).decode()


def moved_to(ours: Provisioner, volume: Volume, nodes: tuple[str, str]) -> None:
    ours.attachments.detach(volume.id, nodes[0])
    ours.attachments.attach(volume.id, nodes[1], WRITER)


def test_what_a_node_had_not_sent_when_it_lost_the_volume_never_arrives(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    moved_to(ours, volume, nodes)
    write(ceph, place, "pvc-1", b"the new node's..")
    assert staged.ask("flush") == CUT_OFF
    assert content(ceph, place) == "the new node's.."
    assert fenced_until(ceph, staged.address) > YEAR


def test_a_node_that_was_cut_off_until_its_watch_lapsed_finds_itself_fenced_when_it_heals(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str]
) -> None:
    with short_watches(ceph):
        client = NodeClient(ceph, place, "pvc-1")
        try:
            ours.attachments.attach(volume.id, nodes[0], WRITER)
            ours.attachments.record_client(volume.id, nodes[0], client.address)
            assert client.ask("write late") == "written"
            client.stop()
            until(lambda: ours.attachments.watching(volume.id) == [], 60, "its watch has lapsed")
            moved_to(ours, volume, nodes)
            write(ceph, place, "pvc-1", b"the new node's..")
            client.go_on()
            assert client.ask("flush") == CUT_OFF
            assert content(ceph, place) == "the new node's.."
        finally:
            client.go_on()
            client.kill()


@contextmanager
def short_watches(ceph: Ceph) -> Iterator[None]:
    """Have watches that begin in the block lapse after three seconds instead of thirty."""
    ceph.command("config set", who="osd", name="osd_client_watch_timeout", value="3")
    try:
        yield
    finally:
        ceph.command("config rm", who="osd", name="osd_client_watch_timeout")


def test_a_client_that_was_not_recorded_yet_is_fenced_as_a_watcher_at_the_nodes_address(
    ceph: Ceph, ours: Provisioner, volume: Volume, nodes: tuple[str, str], client: NodeClient
) -> None:
    ours.attachments.attach(volume.id, nodes[0], WRITER)
    assert ours.attachments.watching(volume.id) == [client.address]
    ours.attachments.detach(volume.id, nodes[0])
    assert client.ask("write x") == CUT_OFF or client.ask("flush") == CUT_OFF
    assert fenced_until(ceph, client.address) > YEAR


def test_processes_of_ours_are_never_fenced_though_they_share_the_nodes_address(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str]
) -> None:
    ours.attachments.attach(volume.id, nodes[0], WRITER)
    victim = Victim(ceph, place, "hold", "pvc-1")
    try:
        assert victim.line() == "held"
        (holder,) = _watchers(ceph, place)
        ours.attachments.detach(volume.id, nodes[0])
        assert fenced_until(ceph, holder) == 0
    finally:
        victim.kill()


def _watchers(ceph: Ceph, place: Place) -> list[str]:
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1", read_only=True) as image:
        return [watcher["addr"] for watcher in image.watchers_list()]


def test_strangers_and_clients_of_other_nodes_keep_writing(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, client: NodeClient
) -> None:
    leaving, staying = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("leaving", "staying"))
    for name in (leaving, staying):
        ours.attachments.enrol_node("dev", Node(name))
        ours.attachments.attach(volume.id, name, SHARED)
    stranger = NodeClient(ceph, place, "pvc-1")
    try:
        ours.attachments.record_client(volume.id, staying, client.address)
        ours.attachments.detach(volume.id, leaving)  # at the same address: that accuses nobody
        for each in (client, stranger):
            assert each.ask("write on") == "written"
            assert each.ask("flush") == "flushed"
    finally:
        stranger.kill()


def test_a_fence_of_an_hour_is_made_one_for_good(
    ceph: Ceph, ours: Provisioner, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    ceph.command("osd blocklist", blocklistop="add", addr=staged.address)
    assert 0 < fenced_until(ceph, staged.address) < 4000
    ours.attachments.detach(volume.id, nodes[0])
    assert fenced_until(ceph, staged.address) > YEAR


def test_two_controllers_that_take_it_from_the_same_node_at_once_both_end_with_a_fence_for_good(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    ceph.command("osd blocklist", blocklistop="add", addr=staged.address)
    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(succeeds, Conflict, lambda p=each: p.attachments.detach(volume.id, nodes[0])) for each in (ours, peer)
        ]
        assert any(each.result() for each in done)
    assert fenced_until(ceph, staged.address) > YEAR
    assert ours.volumes.get(volume.id).nodes == ()


def test_the_next_node_finds_the_lock_free_and_leaves_the_fence_as_it_is(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1", read_only=True) as image:
        assert [address for _, _, address in image.list_lockers()["lockers"]] == [staged.address]
    moved_to(ours, volume, nodes)
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1", read_only=True) as image:
        assert not image.list_lockers()
    write(ceph, place, "pvc-1", b"x")
    assert fenced_until(ceph, staged.address) > YEAR


def test_the_osds_have_to_know_before_the_volume_is_free(
    ceph: Ceph, ours: Provisioner, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    hasty = ours.retuned(timeout=2)
    try:
        hasty.attachments.nodes("dev")
        hasty.volumes.attend(volume.id.place)
        with ceph.frozen_osd(), pytest.raises(Unavailable):
            hasty.attachments.detach(volume.id, nodes[0])
    finally:
        hasty.close()
    assert ours.volumes.get(volume.id).nodes == (nodes[0],)
    ours.attachments.detach(volume.id, nodes[0])
    assert staged.ask("flush") == CUT_OFF


def test_both_the_pool_and_the_data_pool_have_to_know(
    ceph: Ceph, ours: Provisioner, place: Place, nodes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ceph.extra_pool() as pool, fresh(ours) as process:
        made = process.create(place, "pvc-data", layout=Layout(data_pool=pool))
        process.attachments.attach(made.id, nodes[0], WRITER)
        process.attachments.record_client(made.id, nodes[0], "192.0.2.9:0/7")
        asked, barrier = list[Place](), fences.barrier
        monkeypatch.setattr(fences, "barrier", lambda connection, where: (asked.append(where), barrier(connection, where)))
        process.attachments.detach(made.id, nodes[0])
        assert asked == [place, Place("dev", pool, place.namespace)]


def test_a_data_pool_that_is_gone_does_not_keep_the_volume_attached(
    ceph: Ceph, ours: Provisioner, place: Place, nodes: tuple[str, str]
) -> None:
    with ceph.extra_pool() as pool, fresh(ours) as process:
        made = process.create(place, "pvc-data", layout=Layout(data_pool=pool))
        process.attachments.attach(made.id, nodes[0], WRITER)
        process.attachments.record_client(made.id, nodes[0], "192.0.2.9:0/8")
    ours.attachments.detach(made.id, nodes[0])
    assert ours.volumes.get(made.id).nodes == ()


@contextmanager
def fresh(ours: Provisioner) -> Iterator[Provisioner]:
    """Another process of ours: connections don't hear of new rights."""
    process = ours.retuned()
    try:
        yield process
    finally:
        process.close()


def test_in_a_full_pool_nodes_come_and_go(ceph: Ceph, ours: Provisioner, nodes: tuple[str, str]) -> None:
    with ceph.extra_pool() as pool, fresh(ours) as process:
        made = process.create(Place("dev", pool), "pvc-full")
        with quota(ceph, pool, 1):
            process.attachments.attach(made.id, nodes[0], WRITER)
            process.attachments.record_client(made.id, nodes[0], "192.0.2.9:0/9")
            moved_to(process, made, nodes)
        assert process.volumes.get(made.id).nodes == (nodes[1],)


# --- killed on the way ---


@pytest.mark.parametrize("step", ["note", "fence", "osds", "lock", "replace"])
def test_a_controller_killed_while_it_detaches_leaves_the_node_attached_and_the_repeat_finishes(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str], staged: NodeClient, step: str
) -> None:
    victim = Victim(ceph, place, "detach", "pvc-1", nodes[0], step)
    assert victim.line() == step
    victim.kill()
    with pytest.raises(InUse, match=nodes[0]):
        ours.attachments.attach(volume.id, nodes[1], WRITER)
    moved_to(ours, volume, nodes)
    assert staged.ask("flush") == CUT_OFF
    assert [fence.address for fence in ours.attachments.fences("dev", nodes[0])] == [staged.address]


# --- the end of a fence ---


def test_a_fenced_client_maps_nothing_more_until_it_is_gone_and_its_fence_is_lifted(
    ceph: Ceph, ours: Provisioner, place: Place, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    moved_to(ours, volume, nodes)
    other = ours.create(place, "pvc-2")
    ours.attachments.attach(other.id, nodes[0], WRITER)
    with pytest.raises(Conflict, match="fenced"):
        ours.attachments.record_client(other.id, nodes[0], staged.address)
    assert ours.attachments.lift_fences("dev", nodes[0], [staged.address]) == []
    staged.kill()
    assert ours.attachments.lift_fences("dev", nodes[0], []) == [staged.address]
    assert fenced_until(ceph, staged.address) == 0
    assert ours.attachments.fences("dev", nodes[0]) == []
    assert ours.attachments.lift_fences("dev", nodes[0], []) == []


def test_no_fence_is_set_where_the_node_let_go_cleanly(
    ceph: Ceph, ours: Provisioner, volume: Volume, nodes: tuple[str, str], staged: NodeClient
) -> None:
    assert staged.ask("flush") == "flushed"
    assert staged.ask("close") == "closed"
    ours.attachments.clear_client(volume.id, nodes[0], staged.address)
    ours.attachments.detach(volume.id, nodes[0])
    assert fenced_until(ceph, staged.address) == 0
    assert ours.attachments.fences("dev", nodes[0]) == []
