"""Group snapshots, killed at every step: whoever comes next finds or makes them whole, and writers wait for a moment only.

About 60 seconds.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from provisioner.ceph import groups, standstill
from provisioner.ceph.standstill import Still
from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.groups import Group, GroupRequest
from provisioner.core.ids import GroupId, Place, VolumeId, group_id
from provisioner.core.model import MIB, Volume
from tests.harness.ceph import Ceph
from tests.harness.group_victim import NAME
from tests.harness.store import Provisioner, Victim, at, new_place, omap, unexplained
from tests.harness.waiting import until
from tests.harness.writer import number_in, writing

IMAGES = ["pvc-a", "pvc-b", "pvc-c"]


@pytest.fixture
def volumes(homely: Provisioner, place: Place) -> list[Volume]:
    return [homely.create(place, name, 4 * MIB) for name in IMAGES]


def request(place: Place, images: list[str] = IMAGES) -> GroupRequest:
    return GroupRequest(NAME, [VolumeId(place, name) for name in images])


def killed_at(ceph: Ceph, place: Place, step: str, action: str = "take") -> None:
    victim = Victim(ceph, place, action, step, *IMAGES, module="tests.harness.group_victim")
    assert victim.line() == f"at {step}"
    victim.kill()


def numbers(ceph: Ceph, place: Place, group: Group) -> list[int]:
    with at(ceph, place) as pool:
        return [number_in(pool, each.id.volume.image, each.id.snapshot) for each in group.snapshots]


def is_empty(ceph: Ceph, place: Place) -> bool:
    """Nothing of any group, snapshot or claim is left in the place."""
    with at(ceph, place) as pool:
        lists = ["ceph-provisioner.groups", *(f"ceph-provisioner.snapshots.{digit:x}" for digit in range(16))]
        headers = [item.key for item in pool.list_objects() if item.key.startswith("rbd_header.")]
        marks = [key for each in headers for key in omap(pool, each) if "snapshot_" in key or "ceph-provisioner.snapshot." in key]
        return not marks and not any(omap(pool, each) for each in lists) and unexplained(pool) == set()


@pytest.mark.parametrize("step", ["roll", "claim", "snapshot", "taken", "mark"])
def test_killed_on_the_way_a_group_is_taken_whole_by_the_next(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place, volumes: list[Volume], step: str
) -> None:
    with at(ceph, place) as pool, writing(pool, IMAGES) as writer:
        killed_at(ceph, place, step)
        group = twin.groups.create(request(place))
        writer.goes_on(30)
    first, second, third = numbers(ceph, place, group)
    assert first >= second >= third >= first - 1
    assert writer.failures == []
    assert homely.groups.create(request(place)) == group == homely.groups.get(group.id)
    homely.groups.delete(group.id)
    assert is_empty(ceph, place)


@pytest.mark.parametrize("step", ["roll", "snapshot", "mark"])
def test_killed_on_the_way_a_group_can_be_deleted(
    ceph: Ceph, twin: Provisioner, place: Place, volumes: list[Volume], step: str
) -> None:
    killed_at(ceph, place, step)
    twin.groups.delete(group_id(place, NAME))
    assert is_empty(ceph, place)


@pytest.mark.parametrize(("step", "action"), [("snapshot", "take"), ("wiped", "delete")])
def test_what_nobody_asks_for_again_is_taken_away_in_the_background(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place, volumes: list[Volume], step: str, action: str
) -> None:
    if action == "delete":
        homely.groups.create(request(place))
    killed_at(ceph, place, step, action)
    twin.volumes.attend(place)
    assert twin.reap().scrapped == 1
    assert is_empty(ceph, place)


def test_a_process_s_own_reaper_leaves_a_group_under_way_alone(
    homely: Provisioner, place: Place, volumes: list[Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, unfinished, reaped = standstill.take, groups.unfinished, []
    # as after a clock's jump, or with the author's entry lost: it looks like a dead one's
    monkeypatch.setattr(groups, "unfinished", lambda *given: [(roll, 999999) for roll, _ in unfinished(*given)])

    def take(*given: object) -> None:
        reaped.append(homely.reap().scrapped)
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(standstill, "take", take)
    assert len(homely.groups.create(request(place)).snapshots) == 3
    assert reaped == [0]


def test_a_whole_group_stays(homely: Provisioner, place: Place, volumes: list[Volume]) -> None:
    group = homely.groups.create(request(place))
    assert homely.reap().scrapped == 0
    assert homely.groups.get(group.id) == group


def test_a_killed_delete_is_finished_by_the_next_delete_and_by_the_next_create(
    ceph: Ceph, homely: Provisioner, place: Place, volumes: list[Volume]
) -> None:
    old = homely.groups.create(request(place))
    killed_at(ceph, place, "wiped", "delete")
    new = homely.groups.create(request(place, IMAGES[:2]))
    assert (len(old.snapshots), len(new.snapshots)) == (3, 2)
    killed_at(ceph, place, "wiped", "delete")
    homely.groups.delete(new.id)
    assert is_empty(ceph, place)


def test_writers_held_by_a_killed_process_go_on_when_it_is_fenced(
    ceph: Ceph, twin: Provisioner, place: Place, volumes: list[Volume]
) -> None:
    with at(ceph, place) as pool, writing(pool, IMAGES) as writer:
        killed_at(ceph, place, "locked")
        assert writer.stands()
        twin.volumes.attend(place)
        assert writer.goes_on(20) < 15
    assert writer.failures == []


def test_writers_held_by_a_killed_process_go_on_by_themselves_when_its_watch_lapses(
    ceph: Ceph, place: Place, volumes: list[Volume]
) -> None:
    ceph.command("config set", who="osd", name="osd_client_watch_timeout", value="5")
    try:
        with at(ceph, place) as pool, writing(pool, IMAGES) as writer:
            killed_at(ceph, place, "locked")
            assert writer.stands()
            assert writer.goes_on(40) < 30
    finally:
        ceph.command("config rm", who="osd", name="osd_client_watch_timeout")
    assert writer.failures == []


def test_writers_are_let_go_when_holding_them_takes_too_long(
    ceph: Ceph, homely: Provisioner, place: Place, volumes: list[Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, wanted = threading.Event(), [Still(each.id, each.image_id, "s") for each in volumes]
    monkeypatch.setattr(standstill._Held, "snapshot", lambda held: stuck.wait(60))
    with at(ceph, place) as pool, writing(pool, IMAGES) as writer, homely.clusters.connection("dev") as main:
        with pytest.raises(Unavailable, match="too long"):
            standstill.take(homely.clusters.alone("dev", None), main, wanted, most=1.0)
        assert writer.goes_on(20) < 15
        stuck.set()
    assert writer.failures == []


def test_two_processes_take_one_group(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place, volumes: list[Volume]
) -> None:
    def ask(process: Provisioner) -> Group | None:
        for _ in range(100):
            try:
                return process.groups.create(request(place))
            except Exception as error:
                if type(error).__name__ not in ("Conflict", "Unavailable"):
                    raise
        return None

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(ask, (homely, twin))
    assert one == other
    assert one is not None
    assert len(one.snapshots) == 3


def test_a_group_spans_pools_and_namespaces_of_its_cluster(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    elsewhere = new_place(ceph)
    sources = [homely.create(place, "pvc-a", MIB).id, homely.create(elsewhere, "pvc-a", MIB).id]
    group = homely.groups.create(GroupRequest(NAME, sources))
    assert sorted(str(each.id.volume) for each in group.snapshots) == sorted(map(str, sources))
    homely.groups.delete(group.id)
    assert is_empty(ceph, place)
    assert is_empty(ceph, elsewhere)


def test_a_volume_made_again_does_not_answer_for_the_one_in_the_group(
    homely: Provisioner, place: Place, volumes: list[Volume]
) -> None:
    group = homely.groups.create(request(place))
    homely.delete(place, IMAGES[0])
    assert homely.groups.create(request(place)) == group
    homely.create(place, IMAGES[0], 4 * MIB)
    with pytest.raises(AlreadyExists, match="deleted since"):
        homely.groups.create(request(place))
    assert homely.groups.get(group.id) == group


@pytest.mark.parametrize("name", ["Ü" * 60, "cp-x", "a/b", "x" * 200])
def test_any_name_makes_an_id_that_can_be_read_back(homely: Provisioner, place: Place, volumes: list[Volume], name: str) -> None:
    group = homely.groups.create(GroupRequest(name, [volumes[0].id]))
    assert GroupId.parse(str(group.id)) == group.id
    assert len(str(group.id).encode()) <= 128
    assert homely.groups.create(GroupRequest(name, [volumes[0].id])) == group


def test_an_osd_that_stalls_meanwhile_costs_a_bounded_time_and_no_thread(
    ceph: Ceph, homely: Provisioner, place: Place, volumes: list[Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty, take = homely.retuned(timeout=3), standstill._Held.snapshot
    hasty.volumes.attend(place)
    before = {thread.name for thread in threading.enumerate()}
    with ExitStack() as stalled:

        def stall(held: standstill._Held) -> None:
            if held.still.volume.image == IMAGES[0]:
                stalled.enter_context(ceph.frozen_osd())
            take(held)

        monkeypatch.setattr(standstill._Held, "snapshot", stall)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            hasty.groups.create(request(place))
        assert time.monotonic() - began < standstill.MOST + 20
        monkeypatch.undo()
    group = homely.groups.create(request(place))
    assert len(group.snapshots) == 3
    until(lambda: {thread.name for thread in threading.enumerate()} <= before, 60, "the threads are gone")
    hasty.close()
