"""An image's exclusive lock that our own client has without knowing, as a stall leaves one: it costs one refusal. About 8 s."""

import struct
from collections.abc import Callable

import pytest
import rbd

from provisioner.ceph import flatten, wire
from provisioner.ceph.snapshot_headers import STEP
from provisioner.core.errors import Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import SizeRange
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, omap, read, unexplained, write
from tests.harness.waiting import until

Act = Callable[[Provisioner, Place], object]
ACTS: dict[str, Act] = {
    "snapshot": lambda ours, place: ours.snapshot(place, "pvc-1", f"{place.namespace}-new"),
    "clone": lambda ours, place: ours.clone(place, "pvc-2", VolumeId(place, "pvc-1")),
    "expand": lambda ours, place: ours.volumes.expand(VolumeId(place, "pvc-1"), SizeRange(2 * GIB)),
    "delete a snapshot": lambda ours, place: [
        ours.snapshots.delete(each.id) for each in ours.snapshots.of(VolumeId(place, "pvc-1"))
    ],
}


def lock_unknowingly(ours: Provisioner, place: Place, image_id: str) -> None:
    """What librbd does first of all, and no more: nobody watches."""
    fields = wire.string("rbd_lock") + b"\1" + wire.string("auto 94000000000000") + wire.string("internal") + wire.string("")
    fields += struct.pack("<II", 0, 0) + b"\0"
    with ours.places.at(place, None) as (_, pool):
        request = struct.pack("<BBI", 1, 1, len(fields)) + fields
        wire.call(pool, f"rbd_header.{image_id}", "lock", request, cls="lock")


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_who_asks_again_succeeds(ceph: Ceph, homely: Provisioner, place: Place, act: Act) -> None:
    made = homely.create(place, "pvc-1").image_id
    write(ceph, place, "pvc-1", b"content")
    homely.snapshot(place, "pvc-1", f"{place.namespace}-old")
    lock_unknowingly(homely, place, made)
    with pytest.raises(Unavailable):
        act(homely, place)
    act(homely, place)
    assert read(ceph, place, "pvc-1", 7) == b"content"


def test_a_clone_is_flattened_at_the_second_walk(homely: Provisioner, place: Place) -> None:
    homely.create(place, "pvc-1")
    made = homely.clone(place, "pvc-2", VolumeId(place, "pvc-1")).image_id
    with homely.places.at(place, None) as (_, pool):
        flatten.ask(pool, made, "pvc-2")
        lock_unknowingly(homely, place, made)
        assert homely.flatten() == 0
        assert "read-only" in flatten.waiting(pool)[0].error
        assert homely.flatten() == 1
        assert flatten.waiting(pool) == []


def test_a_volume_with_a_dead_builder_s_snapshot_is_deleted_at_the_second_try(
    ceph: Ceph, homely: Provisioner, place: Place
) -> None:
    made = homely.create(place, "pvc-1").image_id
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.create_snap(STEP + "0")
    lock_unknowingly(homely, place, made)
    with pytest.raises(Unavailable):
        homely.delete(place, "pvc-1")
    homely.delete(place, "pvc-1")
    assert homely.purge() == (1, 0)


def test_a_deleted_volume_goes_all_the_same(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    made = homely.create(place, "pvc-1").image_id
    lock_unknowingly(homely, place, made)
    homely.delete(place, "pvc-1")
    with at(ceph, place) as pool:
        until(lambda: homely.purge() and not omap(pool, "rbd_trash"), 60, "the trash is empty")
        assert not unexplained(pool)
