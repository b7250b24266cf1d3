"""Snapshots on a real Ceph: taken once, found again, refused clearly, taken away without a trace. Takes about 15 s."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import rbd

from provisioner.core import snapshots as use_cases
from provisioner.core.errors import AlreadyExists, Conflict, LimitReached, NotFound, ProvisionerError
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Snapshot
from tests.harness.ceph import Ceph
from tests.harness.quiesce import quiescent
from tests.harness.store import (
    GIB,
    Provisioner,
    at,
    image_id,
    index,
    rbd_snapshots,
    set_omap,
    snapshot_marks,
    unexplained,
    write,
)
from tests.harness.waiting import until


def test_a_snapshot_is_one_rbd_snapshot_that_bears_the_request_s_name(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    volume = homely.create(place, "pvc-1")
    taken = homely.snapshot(place, "pvc-1", "monday")
    assert taken.id == SnapshotId(volume.id, "monday", volume.image_id)
    assert (taken.name, taken.size, taken.group) == ("monday", GIB, "")
    assert rbd_snapshots(ceph, place, "pvc-1") == ["monday"]
    assert homely.snapshots.get(taken.id) == taken
    assert homely.snapshots.of(volume.id) == [taken]
    assert SnapshotId.parse(str(taken.id)) == taken.id


def test_a_snapshot_keeps_what_was_there_and_says_since_when(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    write(ceph, place, "pvc-1", b"old")
    first = homely.snapshot(place, "pvc-1", "first")
    write(ceph, place, "pvc-1", b"new")
    second = homely.snapshot(place, "pvc-1", "second")
    assert first.created <= second.created
    with at(ceph, place) as pool:
        for name, content in (("first", b"old"), ("second", b"new")):
            with rbd.Image(pool, "pvc-1", snapshot=name, read_only=True) as image:
                assert image.read(0, 3) == content
                told = image.get_snap_timestamp(image.snap_get_id(name)).timestamp()
                assert int(told) == int(homely.snapshots.get(first.id if name == "first" else second.id).created)
    assert [each.name for each in homely.snapshots.of(VolumeId(place, "pvc-1"))] == ["first", "second"]


def test_the_same_request_again_gives_the_same_snapshot(homely: Provisioner, twin: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    taken = homely.snapshot(place, "pvc-1", "monday")
    assert homely.snapshot(place, "pvc-1", "monday") == taken
    assert twin.snapshot(place, "pvc-1", "monday") == taken


@pytest.mark.parametrize("name", ["snapshot-" + 120 * "x", "Ü / @ \n", "cp.src.0", "cp-x", "-", 256 * "n"])
def test_any_name_is_kept_whole_and_found_again(homely: Provisioner, place: Place, name: str) -> None:
    homely.create(place, "pvc-1")
    taken = homely.snapshot(place, "pvc-1", name)
    assert taken.name == name
    assert len(str(taken.id).encode()) <= 128
    assert homely.snapshot(place, "pvc-1", name) == taken
    homely.snapshots.delete(taken.id)
    assert homely.snapshots.of(VolumeId(place, "pvc-1")) == []


def test_a_name_is_one_volume_s_in_the_whole_cluster(homely: Provisioner, twin: Provisioner, place: Place) -> None:
    for volume in ("pvc-1", "pvc-2"):
        homely.create(place, volume)
    taken = homely.snapshot(place, "pvc-1", "monday")
    for process in (homely, twin):
        with pytest.raises(AlreadyExists, match=r"it is of volume .*pvc-1"):
            process.snapshot(place, "pvc-2", "monday")
    homely.snapshots.delete(taken.id)
    assert twin.snapshot(place, "pvc-2", "monday").id.volume == VolumeId(place, "pvc-2")


def test_there_is_no_snapshot_of_what_is_not_a_volume_of_ours(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    with at(ceph, place) as pool:
        rbd.RBD().create(pool, "foreign", GIB, features=61)
        for volume in ("foreign", "nothing"):
            with pytest.raises(NotFound, match=volume):
                homely.snapshot(place, volume, "monday")
        assert index(pool) == {}
    assert rbd_snapshots(ceph, place, "foreign") == []


def test_deleting_leaves_nothing_and_is_done_twice_as_well(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    made = homely.create(place, "pvc-1").image_id
    taken = homely.snapshot(place, "pvc-1", "monday")
    for _ in range(2):
        homely.snapshots.delete(taken.id)
        assert rbd_snapshots(ceph, place, "pvc-1") == []
        assert snapshot_marks(ceph, place, made) == []
        with at(ceph, place) as pool:
            assert index(pool) == {}
            assert not unexplained(pool)
    with pytest.raises(NotFound):
        homely.snapshots.get(taken.id)


def test_deleting_what_never_was_is_fine(homely: Provisioner, place: Place) -> None:
    volume = homely.create(place, "pvc-1")
    homely.snapshots.delete(SnapshotId(volume.id, "monday", volume.image_id))
    homely.snapshots.delete(SnapshotId(volume.id, "monday", "0badc0ffee"))


def test_snapshots_made_by_hand_are_nobody_s_business(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    volume = homely.create(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.create_snap("by-hand")
    foreign = SnapshotId(volume.id, "by-hand", volume.image_id)
    assert homely.snapshots.of(volume.id) == []
    with pytest.raises(NotFound):
        homely.snapshots.get(foreign)
    with pytest.raises(AlreadyExists, match="made by somebody else"):
        homely.snapshot(place, "pvc-1", "by-hand")
    homely.snapshots.delete(foreign)
    assert rbd_snapshots(ceph, place, "pvc-1") == ["by-hand"]
    with at(ceph, place) as pool:
        assert index(pool) == {}


def test_the_limit_is_told_before_anything_is_made(
    ceph: Ceph, homely: Provisioner, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "MOST", 3)
    homely.create(place, "pvc-1")
    taken = [homely.snapshot(place, "pvc-1", f"s{number}") for number in range(3)]
    with at(ceph, place) as pool:
        before = index(pool)
        with pytest.raises(LimitReached, match="has 3 snapshots: the limit is 3"):
            homely.snapshot(place, "pvc-1", "s3")
        assert index(pool) == before
    assert homely.snapshot(place, "pvc-1", "s1") == taken[1], "what is there can be asked for again"
    homely.snapshots.delete(taken[0].id)
    assert homely.snapshot(place, "pvc-1", "s3")


def test_an_image_with_many_snapshots_is_read_whole(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    """More pairs in the header than one read gives."""
    volume = homely.create(place, "pvc-1")
    first = homely.snapshot(place, "pvc-1", "first")
    with at(ceph, place) as pool:
        set_omap(pool, f"rbd_header.{volume.image_id}", {f"metadata_x{number:04}": b"x" for number in range(1200)})
    second = homely.snapshot(place, "pvc-1", "second")
    assert homely.snapshots.of(volume.id) == [first, second]
    assert homely.create(place, "pvc-1") == volume


def test_a_snapshot_of_an_image_that_a_client_writes_to(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.write(b"held", 0)
        assert image.is_exclusive_lock_owner()
        homely.snapshot(place, "pvc-1", "monday")
        image.write(b"more", 0)
        assert image.read(0, 4) == b"more"
    assert rbd_snapshots(ceph, place, "pvc-1") == ["monday"]


def test_a_client_that_can_stand_still_for_a_snapshot_is_asked_to(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    with quiescent(ceph, place, "pvc-1") as asked:
        homely.snapshot(place, "pvc-1", "monday")
        until(lambda: asked == ["still", "go on"], 60, "it was asked, and let go", lambda: str(asked))


def test_marks_that_a_clone_inherited_are_not_its_own(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    taken = homely.snapshot(place, "pvc-1", "monday")
    with at(ceph, place) as pool:
        with rbd.Image(pool, "pvc-1") as image:
            image.protect_snap("monday")
        rbd.RBD().clone(pool, "pvc-1", "monday", pool, "clone", features=61)
        with rbd.Image(pool, "clone") as image:
            image.create_snap("monday")
        cloned = image_id(pool, "clone")
        assert homely.snapshots.page(place, "", 10).snapshots == [taken]
        with pytest.raises(NotFound):
            homely.snapshots.get(replace(taken.id, image_id=cloned))


def test_pages_of_snapshots_end_and_cover_all(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    taken: list[Snapshot] = []
    for number in range(4):
        homely.create(place, f"pvc-{number}")
        taken += [homely.snapshot(place, f"pvc-{number}", f"s{number}-{each}") for each in range(number)]
    assert len(taken) == 6
    for limit in (1, 2, 5, 6, 7):
        listed, after = [], ""
        for _ in range(10):
            page = homely.snapshots.page(place, after, limit)
            assert len(page.snapshots) <= limit
            listed += page.snapshots
            if not (after := page.after):
                break
        assert sorted(listed, key=lambda each: each.name) == taken
    assert homely.snapshots.page(place, "zzz", 5).snapshots == []


def _together(*acts: Callable[[], Snapshot]) -> list[Snapshot | ProvisionerError]:
    gate = threading.Barrier(len(acts))

    def run(act: Callable[[], Snapshot]) -> Snapshot | ProvisionerError:
        gate.wait(60)
        return until(lambda: _unless_busy(act), 60, "an answer")

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(run, acts))


def _unless_busy(act: Callable[[], Snapshot]) -> Snapshot | ProvisionerError | None:
    try:
        return act()
    except Conflict:
        return None
    except ProvisionerError as error:
        return error


def test_equal_requests_at_once_take_one_snapshot(ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    for number in range(5):
        acts = [lambda p=process, n=number: p.snapshot(place, "pvc-1", f"s{n}") for process in (homely, twin) for _ in range(3)]  # type: ignore[misc]
        assert len(set(_together(*acts))) == 1
    assert rbd_snapshots(ceph, place, "pvc-1") == [f"s{number}" for number in range(5)]


def test_of_two_volumes_that_want_a_name_one_gets_it(ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place) -> None:
    for volume in ("pvc-0", "pvc-1"):
        homely.create(place, volume)
    for number in range(5):
        answers = _together(
            lambda n=number: homely.snapshot(place, "pvc-0", f"s{n}"),  # type: ignore[misc]
            lambda n=number: twin.snapshot(place, "pvc-1", f"s{n}"),  # type: ignore[misc]
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["AlreadyExists", "Snapshot"], answers
    assert len(rbd_snapshots(ceph, place, "pvc-0")) + len(rbd_snapshots(ceph, place, "pvc-1")) == 5
