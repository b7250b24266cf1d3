"""Snapshots whose taking or removal was cut short, and the index that has to survive it. Takes about 15 s."""

import struct

import pytest
import rbd

from provisioner.ceph import index as name_index
from provisioner.ceph.snapshot_removal import remove
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.core.errors import Conflict, NotFound
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Entry
from tests.harness.ceph import Ceph
from tests.harness.store import (
    Provisioner,
    at,
    index,
    lose_index,
    omap,
    rbd_snapshots,
    read,
    set_omap,
    snapshot_marks,
    write,
)


def _claim_of(process: Provisioner, place: Place, volume: str, made: str, name: str) -> Entry:
    store = CephSnapshots(process.places)
    claim = store.claim(Entry(name, VolumeId(place, volume), made), None, None)
    assert claim is not None
    return claim


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_create_that_was_killed_is_gone_on_with(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place, steps: int
) -> None:
    """After the claim, after the snapshot, after the mark."""
    made = homely.create(place, "pvc-1").image_id
    claim = _claim_of(homely, place, "pvc-1", made, "monday")
    if steps > 1:
        with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
            image.create_snap("monday")
    if steps > 2:
        CephSnapshots(homely.places).take(claim, None)
    taken = twin.snapshot(place, "pvc-1", "monday")
    assert homely.snapshots.of(VolumeId(place, "pvc-1")) == [taken]
    assert rbd_snapshots(ceph, place, "pvc-1") == ["monday"]


def test_one_that_librbd_gave_up_in_a_stall_is_taken_anew(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    """It stands in the header, but librbd gave its number back and never made its object map: it keeps no content."""
    made = homely.create(place, "pvc-1").image_id
    write(ceph, place, "pvc-1", b"first")
    _claim_of(homely, place, "pvc-1", made, "monday")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.create_snap("monday")
        pool.remove_object(f"rbd_object_map.{made}.{image.snap_get_id('monday'):016x}")
    write(ceph, place, "pvc-1", b"later")
    taken = homely.snapshot(place, "pvc-1", "monday")
    write(ceph, place, "pvc-1", b"today")
    homely.clone(place, "pvc-2", taken.id)
    assert read(ceph, place, "pvc-2", 5) == b"later"


@pytest.mark.parametrize("steps", [1, 2])
def test_a_delete_that_was_killed_is_gone_on_with(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place, steps: int
) -> None:
    """After the snapshot, after the index entry."""
    made = homely.create(place, "pvc-1").image_id
    taken = homely.snapshot(place, "pvc-1", "Ü")
    with at(ceph, place) as pool:
        with rbd.Image(pool, "pvc-1") as image:
            image.remove_snap(taken.id.snapshot)
        if steps > 1:
            lose_index(pool)
        with pytest.raises(NotFound):
            twin.snapshots.get(taken.id)
        twin.snapshots.delete(taken.id)
        assert index(pool) == {}
    assert snapshot_marks(ceph, place, made) == []


def test_a_claim_whose_image_is_gone_is_no_obstacle(homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    _claim_of(homely, place, "pvc-0", "0badc0ffee", "monday")
    assert homely.snapshot(place, "pvc-1", "monday").id.volume.image == "pvc-1"


def test_a_claim_of_the_living_is_respected_and_one_of_the_dead_is_not(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place
) -> None:
    other = homely.create(place, "pvc-0").image_id
    homely.create(place, "pvc-1")
    _claim_of(twin, place, "pvc-0", other, "monday")
    homely.snapshot(place, "pvc-1", "tuesday")
    with pytest.raises(Conflict, match=r"being taken of volume .*pvc-0"):
        homely.snapshot(place, "pvc-1", "monday")
    twin.die()
    twin.places.leave()
    assert homely.snapshot(place, "pvc-1", "monday").id.volume.image == "pvc-1"


def test_an_index_that_was_lost_is_made_again_by_whoever_asks(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    taken = homely.snapshot(place, "pvc-1", "monday")
    with at(ceph, place) as pool:
        kept = index(pool)["monday"]
        lose_index(pool)
        assert homely.snapshot(place, "pvc-1", "monday") == taken
        assert index(pool).keys() == {"monday"}
        assert kept[:40] == index(pool)["monday"][:40]


def test_a_deleted_snapshot_s_name_is_free_also_if_its_entry_was_made_again(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place
) -> None:
    """The mark on the snapshot tells of the entry that it was taken under, and that is another one now."""
    for volume in ("pvc-1", "pvc-2"):
        homely.create(place, volume)
    taken = homely.snapshot(place, "pvc-1", "monday")
    with at(ceph, place) as pool:
        lose_index(pool)
        twin.snapshot(place, "pvc-1", "monday")
        homely.snapshots.delete(taken.id)
        assert index(pool) == {}
    assert twin.snapshot(place, "pvc-2", "monday").id.volume.image == "pvc-2"


def test_a_snapshot_s_name_that_another_volume_has_by_now_stays_that_one_s(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    """A delete that was killed before it struck out its mark, and is repeated late."""
    made = homely.create(place, "pvc-1").image_id
    homely.create(place, "pvc-2")
    taken = homely.snapshot(place, "pvc-1", "monday")
    with at(ceph, place) as pool:
        left = {key: raw for key, raw in omap(pool, f"rbd_header.{made}").items() if key.endswith("snapshot.monday")}
        homely.snapshots.delete(taken.id)
        other = homely.snapshot(place, "pvc-2", "monday")
        set_omap(pool, f"rbd_header.{made}", left)
        homely.snapshots.delete(taken.id)
        assert index(pool).keys() == {"monday"}
    assert snapshot_marks(ceph, place, made) == []
    assert homely.snapshots.get(other.id) == other


def test_a_stranger_s_snapshot_of_a_name_whose_mark_was_left_behind_stays(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    """A delete that was killed before it struck out its mark; then somebody took one of that name by hand."""
    made = homely.create(place, "pvc-1").image_id
    taken = homely.snapshot(place, "pvc-1", "monday")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.remove_snap("monday")
        image.create_snap("monday")
    homely.snapshots.delete(taken.id)
    assert rbd_snapshots(ceph, place, "pvc-1") == ["monday"]
    assert homely.snapshots.of(VolumeId(place, "pvc-1")) == []
    assert snapshot_marks(ceph, place, made) == []


def test_the_index_is_spread_over_its_objects(ceph: Ceph, place: Place) -> None:
    with at(ceph, place) as pool:
        for number in range(200):
            assert name_index.put(pool, Entry(f"s{number}", VolumeId(place, "pvc-1"), "abc"), None)
        assert {entry.name for entry in name_index.entries(pool)} == {f"s{number}" for number in range(200)}
        assert all(omap(pool, shard) for shard in name_index.SHARDS.objects)


@pytest.mark.parametrize("name", ["untold", "cp.src.untold"])
def test_a_snapshot_that_the_client_with_the_lock_was_not_told_of_is_deleted(
    ceph: Ceph, homely: Provisioner, place: Place, name: str
) -> None:
    """As a process leaves one, or a clone's step, that was killed between the header and its word to the others."""
    volume = homely.create(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as writer:
        writer.write(b"x", 0)
        number = pool.create_self_managed_snap()
        user = struct.pack("<BBII", 1, 1, 4, 0)
        added = struct.pack("<I", len(name)) + name.encode() + struct.pack("<Q", number) + user
        pool.execute(f"rbd_header.{volume.image_id}", "rbd", "snapshot_add", added)
        assert rbd_snapshots(ceph, place, "pvc-1") == [name]
        with homely.places.enrolled(place, None) as room:
            remove(room, volume.image_id, name)
        assert rbd_snapshots(ceph, place, "pvc-1") == []


def test_a_volume_that_is_deleted_while_its_snapshot_is_taken_keeps_none(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    made = homely.create(place, "pvc-1").image_id
    claim = _claim_of(homely, place, "pvc-1", made, "monday")
    homely.delete(place, "pvc-1")
    with pytest.raises(NotFound, match="pvc-1"):
        CephSnapshots(homely.places).take(claim, None)
    assert homely.purge() == (1, 0)
