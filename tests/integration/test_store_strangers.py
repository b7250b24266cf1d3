"""Whose image is it? What isn't provably ours is never touched; what a client uses is not taken from it. Takes about 15 s."""

import time
from collections.abc import Callable

import pytest
import rados
import rbd

from provisioner.core.errors import AlreadyExists, Conflict, HasDependants, InUse, NotFound
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Layout, SizeRange
from tests.harness.ceph import Ceph
from tests.harness.ghost import leave_watcher
from tests.harness.store import GIB, Provisioner, Victim, at, blocklisted, image_id, omap, processes, read, unexplained, write
from tests.harness.waiting import until

DATA = b"somebody's data" * 100
ALL = 61
"""layering, exclusive-lock, object-map, fast-diff, deep-flatten: what a create asks for by default."""


def _by_hand(pool: rados.Ioctx, name: str, size: int = GIB, features: int = ALL, order: int = 22) -> str:
    rbd.RBD().create(pool, name, size, features=features, order=order)
    return image_id(pool, name)


def _with_data(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as image:
        image.write(DATA, 8 << 20)


def _with_snapshot(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as image:
        image.create_snap("kept")


def _that_had_a_snapshot(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as image:
        image.create_snap("gone")
        image.remove_snap("gone")


def _with_metadata(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as image:
        image.metadata_set("owner", "alice")


MADE_BY_HAND: list[tuple[Callable[[rados.Ioctx, str], None], str]] = [
    (_with_data, "it holds data"),
    (_with_snapshot, "it has or had snapshots"),
    (_that_had_a_snapshot, "it has or had snapshots"),
    (_with_metadata, "it bears the metadata owner"),
]


@pytest.mark.parametrize(("use", "told"), MADE_BY_HAND)
def test_an_image_made_by_hand_and_used_is_never_touched(
    ceph: Ceph, ours: Provisioner, place: Place, use: Callable[[rados.Ioctx, str], None], told: str
) -> None:
    with at(ceph, place) as pool:
        made = _by_hand(pool, "pvc-1")
        use(pool, "pvc-1")
        before = omap(pool, f"rbd_header.{made}")
    with pytest.raises(AlreadyExists, match=told):
        ours.create(place, "pvc-1")
    with pytest.raises(AlreadyExists, match="not ours to delete"):
        ours.delete(place, "pvc-1")
    with pytest.raises(AlreadyExists, match=told):
        ours.volumes.abandon(VolumeId(place, "pvc-1"))
    ours.purge()
    with at(ceph, place) as pool:
        assert image_id(pool, "pvc-1") == made
        assert _without_times(omap(pool, f"rbd_header.{made}")) == _without_times(before)
    assert read(ceph, place, "pvc-1", len(DATA), 8 << 20) == (DATA if use is _with_data else bytes(len(DATA)))


def _without_times(header: dict[str, bytes]) -> dict[str, bytes]:
    return {key: value for key, value in header.items() if not key.endswith("_timestamp")}


@pytest.mark.parametrize("features", [ALL, 1])
def test_data_at_the_very_end_of_an_image_is_seen(ceph: Ceph, ours: Provisioner, place: Place, features: int) -> None:
    with at(ceph, place) as pool:
        _by_hand(pool, "pvc-1", features=features)
    write(ceph, place, "pvc-1", b"x", GIB - 1)
    layout = Layout(frozenset({"layering"})) if features == 1 else Layout()
    with pytest.raises(AlreadyExists, match="it holds data"):
        ours.create(place, "pvc-1", layout=layout)


def test_an_image_that_a_client_has_open_is_never_adopted(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    with at(ceph, place) as pool:
        _by_hand(pool, "pvc-1")
        with rbd.Image(pool, "pvc-1") as image:
            (watcher,) = image.watchers_list()
            with pytest.raises(AlreadyExists, match=f"it is open at {watcher['addr']}"):
                ours.create(place, "pvc-1")


@pytest.mark.parametrize(
    ("size", "features", "order", "told"),
    [(2 * GIB, ALL, 22, "size"), (GIB, 1, 22, "imageFeatures"), (GIB, ALL, 23, "objectSize")],
)
def test_an_empty_image_of_another_shape_is_not_adopted(
    ceph: Ceph, ours: Provisioner, place: Place, size: int, features: int, order: int, told: str
) -> None:
    with at(ceph, place) as pool:
        _by_hand(pool, "pvc-1", size, features, order)
    with pytest.raises(AlreadyExists, match=told):
        ours.create(place, "pvc-1", layout=Layout(object_size=4 << 20))


@pytest.mark.parametrize(
    ("layout", "create"),
    [
        (Layout(), {"features": ALL}),
        (Layout(frozenset({"layering"})), {"features": 1}),
        (Layout(stripe_unit=65536, stripe_count=4), {"features": ALL, "stripe_unit": 65536, "stripe_count": 4}),
        (Layout(stripe_unit=4 << 20, stripe_count=1), {"features": ALL}),
        (Layout(object_size=1 << 20), {"features": ALL, "order": 20}),
    ],
)
def test_an_empty_image_of_just_this_shape_is_adopted(
    ceph: Ceph, ours: Provisioner, place: Place, layout: Layout, create: dict[str, int]
) -> None:
    with at(ceph, place) as pool:
        rbd.RBD().create(pool, "pvc-1", GIB, **create)
        made = image_id(pool, "pvc-1")
    assert ours.create(place, "pvc-1", layout=layout).image_id == made
    assert ours.listed(place) == ["pvc-1"]


def test_a_clone_made_by_hand_is_no_volume_of_ours(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        _clone(pool, "pvc-1", "pvc-2")
    assert ours.listed(place) == ["pvc-1"]
    with pytest.raises(NotFound):
        ours.volumes.get(VolumeId(place, "pvc-2"))
    with pytest.raises(NotFound):
        ours.volumes.expand(VolumeId(place, "pvc-2"), SizeRange(2 * GIB))
    with pytest.raises(AlreadyExists, match="not ours to delete"):
        ours.delete(place, "pvc-2")
    with pytest.raises(AlreadyExists, match="it is a clone"):
        ours.create(place, "pvc-2")


def test_a_flattened_clone_made_by_hand_is_no_volume_of_ours_either(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        _clone(pool, "pvc-1", "pvc-2")
        with rbd.Image(pool, "pvc-2") as image:
            image.flatten()
    with pytest.raises(AlreadyExists, match="it bears the mark of another image"):
        ours.create(place, "pvc-2")
    with pytest.raises(AlreadyExists):
        ours.volumes.abandon(VolumeId(place, "pvc-2"))
    assert ours.listed(place) == ["pvc-1"]


def test_a_clone_of_a_dying_volume_is_not_dying(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        made = image_id(pool, "pvc-1")
        with rbd.Image(pool, "pvc-1") as image:
            image.metadata_set("ceph-provisioner.deleting", made)
        _clone(pool, "pvc-1", "copy")
        rbd.RBD().trash_move(pool, "copy", 0)
        copy = [entry["id"] for entry in rbd.RBD().trash_list(pool)]
    ours.purge()
    with at(ceph, place) as pool:
        assert [entry["id"] for entry in rbd.RBD().trash_list(pool)] == copy


def _clone(pool: rados.Ioctx, parent: str, child: str) -> None:
    with rbd.Image(pool, parent) as image:
        image.create_snap("s")
        image.protect_snap("s")
    rbd.RBD().clone(pool, parent, "s", pool, child)


def test_a_volume_renamed_by_hand_answers_to_its_new_name_only(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        rbd.RBD().rename(pool, "pvc-1", "kept by alice")
    with pytest.raises(NotFound):
        ours.volumes.get(made.id)
    renamed = ours.volumes.get(VolumeId(place, "kept by alice"))
    assert (renamed.name, renamed.image_id) == ("pvc-1", made.image_id)
    again = ours.create(place, "pvc-1")
    assert again.image_id != made.image_id
    assert ours.listed(place) == ["kept by alice", "pvc-1"]


def test_the_new_name_of_a_renamed_volume_is_taken_for_a_request_of_that_name(
    ceph: Ceph, ours: Provisioner, place: Place
) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        rbd.RBD().rename(pool, "pvc-1", "pvc-2")
    with pytest.raises(AlreadyExists, match="it was made for the name 'pvc-1'"):
        ours.create(place, "pvc-2")


def test_a_client_of_somebody_else_keeps_its_image_and_is_named(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        (watcher,) = image.watchers_list()
        with pytest.raises(InUse) as refused:
            ours.volumes.delete(made.id)
        assert refused.value.by == (watcher["addr"],)
        assert ours.volumes.get(made.id) == made
    ours.volumes.delete(made.id)


def test_a_snapshot_keeps_its_image_and_is_named(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        image.create_snap("monday")
    with pytest.raises(HasDependants, match="snapshot monday"):
        ours.volumes.delete(made.id)
    assert ours.volumes.get(made.id) == made


def test_the_image_of_a_dead_process_of_ours_is_deleted_at_once(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    victim = Victim(ceph, place, "hold", "pvc-1")
    assert victim.line() == "held"
    victim.kill()
    _within(5, lambda: ours.volumes.delete(made.id))
    _within(10, lambda: until(lambda: ours.purge() == (1, 0), 60, "the image is purged"))
    with at(ceph, place) as pool:
        assert processes(pool) == {ours.client()}
        assert not unexplained(pool)


def test_the_image_of_a_living_process_of_ours_is_a_conflict(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    victim = Victim(ceph, place, "hold", "pvc-1")
    try:
        assert victim.line() == "held"
        with pytest.raises(Conflict, match="a process of ours has it open"):
            ours.volumes.delete(made.id)
    finally:
        victim.kill()
    ours.volumes.delete(made.id)


def test_what_a_dead_process_had_in_flight_is_fenced(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    victim = Victim(ceph, place, "hold", ours.create(place, "pvc-1").id.image)
    assert victim.line() == "held"
    with at(ceph, place) as pool:
        (address,) = [watcher["addr"] for watcher in _watchers(pool, "pvc-1")]
    victim.kill()
    ours.delete(place, "pvc-1")
    assert address in blocklisted(ceph)


def _watchers(pool: rados.Ioctx, name: str) -> list[dict[str, object]]:
    with rbd.Image(pool, name, read_only=True) as image:
        return list(image.watchers_list())


def _within(seconds: float, act: Callable[[], object]) -> None:
    began = time.monotonic()
    act()
    assert time.monotonic() - began < seconds


def test_a_fenced_client_that_is_still_listed_as_a_watcher_keeps_no_name(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(Place("dev", ceph.pool), "pvc-ghost")
    address = leave_watcher(ceph, ceph.pool, f"rbd_header.{made.image_id}")
    with pytest.raises(InUse, match=address):
        ours.volumes.delete(made.id)
    ceph.command("osd blocklist", blocklistop="add", addr=address)
    ours.volumes.delete(made.id)
    with pytest.raises(NotFound):
        ours.volumes.get(made.id)
    until(lambda: ours.purge() and _is_gone(ceph, made.image_id), 60, "the purge shakes it off")


def _is_gone(ceph: Ceph, made: str) -> bool:
    with ceph.admin_pool() as pool:
        return f"rbd_header.{made}" not in {item.key for item in pool.list_objects()}


def test_an_image_being_migrated_by_hand_is_left_alone(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        rbd.RBD().migration_prepare(pool, "pvc-1", pool, "moved")
        with pytest.raises((Conflict, AlreadyExists)):
            ours.delete(place, "moved")
        rbd.RBD().migration_abort(pool, "moved")
    assert ours.listed(place) == ["pvc-1"]


def test_abandoning_takes_what_a_create_killed_before_its_mark_left(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    with at(ceph, place) as pool:
        _by_hand(pool, "pvc-1")
    ours.volumes.abandon(VolumeId(place, "pvc-1"))
    assert ours.purge() == (1, 0)
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_abandoning_takes_a_finished_volume_and_one_that_was_never_begun(ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    ours.volumes.abandon(made.id)
    ours.volumes.abandon(made.id)
    assert ours.listed(place) == []
    assert ours.purge() == (1, 0)
