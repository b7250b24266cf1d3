"""Volumes with content, on a real Ceph: from a snapshot, from a volume, from what was deleted since. Takes about 40 s."""

import uuid

import pytest
import rados
import rbd

from provisioner.ceph import clones, names
from provisioner.core.errors import AlreadyExists, InvalidRequest, NotFound, OutOfRange
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import CreateRequest, Layout, SizeRange, Source, Volume
from tests.harness.ceph import Ceph
from tests.harness.store import (
    GIB,
    Provisioner,
    at,
    image_id,
    index,
    new_place,
    omap,
    processes,
    read,
    unexplained,
    write,
)

OLD, NEW = b"old content", b"new content"


@pytest.fixture
def source(ceph: Ceph, homely: Provisioner, place: Place) -> SnapshotId:
    """A volume `src` that held OLD when its snapshot `monday` was taken, and holds NEW now."""
    homely.create(place, "src")
    write(ceph, place, "src", OLD)
    taken = homely.snapshot(place, "src", "monday").id
    write(ceph, place, "src", NEW)
    return taken


def _snapshots(ceph: Ceph, place: Place, name: str) -> list[tuple[str, int]]:
    with at(ceph, place) as pool, rbd.Image(pool, name, read_only=True) as image:
        return [(each["name"] if each["namespace"] == 0 else "", each["namespace"]) for each in image.list_snaps()]


def _leftovers(ceph: Ceph, place: Place) -> set[str]:
    """Everything in the place that no volume, snapshot or machinery explains; names under way included."""
    with at(ceph, place) as pool:
        strange = unexplained(pool)
        strange |= {key for key in omap(pool, "rbd_directory") if key.startswith(("name_cp.new.", "name_cp.dead."))}
        strange |= {f"build {key}" for key in omap(pool, clones.BUILDS)}
        strange |= {f"lock {name}" for name, _ in pool.get_xattrs("ceph-provisioner.processes") if "build" in name}
        strange |= {f"trash {key}" for key in omap(pool, "rbd_trash")}
        return strange


def _source(kind: str, snapshot: SnapshotId) -> Source:
    return snapshot if kind == "snapshot" else snapshot.volume


@pytest.mark.parametrize(("kind", "content"), [("snapshot", OLD), ("volume", NEW)])
def test_a_volume_begins_with_its_source_s_content_and_is_its_own_from_then_on(
    ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId, kind: str, content: bytes
) -> None:
    made = homely.clone(place, "new", _source(kind, source))
    assert made.asked["source"] == str(_source(kind, source))
    assert read(ceph, place, "new", len(content)) == content
    write(ceph, place, "new", b"x")
    assert read(ceph, place, "src", len(NEW)) == NEW
    write(ceph, place, "src", b"y")
    assert read(ceph, place, "new", len(content)) == b"x" + content[1:]
    assert homely.volumes.get(made.id) == made
    assert homely.listed(place) == ["new", "src"]
    assert not _leftovers(ceph, place)


@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_the_same_request_again_gives_the_same_volume(
    homely: Provisioner, peer: Provisioner, place: Place, source: SnapshotId, kind: str
) -> None:
    made = homely.clone(place, "new", _source(kind, source))
    assert homely.clone(place, "new", _source(kind, source)) == made
    assert peer.clone(place, "new", _source(kind, source)) == made


def test_another_source_under_the_name_is_told(homely: Provisioner, place: Place, source: SnapshotId) -> None:
    homely.clone(place, "new", source)
    for other in (source.volume, None):
        with pytest.raises(AlreadyExists, match="source is"):
            homely.volumes.create(CreateRequest("new", place, SizeRange(GIB), source=other))
    homely.create(place, "empty")
    with pytest.raises(AlreadyExists, match="source is ''"):
        homely.clone(place, "empty", source)


def test_a_clone_can_be_larger_and_never_smaller(ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId) -> None:
    assert homely.clone(place, "larger", source, 3 * GIB).size == 3 * GIB
    with at(ceph, place) as pool, rbd.Image(pool, "larger", read_only=True) as image:
        assert image.size() == 3 * GIB
        assert image.read(0, len(OLD)) == OLD
        assert image.read(2 * GIB, 4) == bytes(4)
    for each in (source, source.volume):
        with pytest.raises(OutOfRange, match="has 1073741824 bytes"):
            homely.clone(place, "smaller", each, GIB // 2)
    assert homely.listed(place) == ["larger", "src"]
    assert not _leftovers(ceph, place)


def test_a_clone_is_laid_out_as_its_own_class_says(ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId) -> None:
    layout = Layout(frozenset({"layering", "exclusive-lock"}), object_size=1 << 20, stripe_unit=65536, stripe_count=4)
    homely.clone(place, "new", source, layout=layout)
    with at(ceph, place) as pool, rbd.Image(pool, "new", read_only=True) as image:
        assert image.stat()["obj_size"] == 1 << 20
        assert (image.stripe_unit(), image.stripe_count()) == (65536, 4)
        assert not image.features() & rbd.RBD_FEATURE_OBJECT_MAP
        assert image.read(0, len(OLD)) == OLD


def test_a_clone_can_live_in_another_namespace_pool_and_data_pool(
    ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId
) -> None:
    elsewhere = new_place(ceph)
    homely.clone(elsewhere, "new", source)
    assert read(ceph, elsewhere, "new", len(OLD)) == OLD
    assert not _leftovers(ceph, elsewhere)
    with pytest.raises(InvalidRequest, match="dataPool 'nowhere'"):
        homely.clone(elsewhere, "other", source, layout=Layout(data_pool="nowhere"))
    homely.volumes.delete(VolumeId(elsewhere, "new"))
    assert homely.purge() == (1, 0)


def test_what_cannot_be_cloned_is_refused(homely: Provisioner, place: Place, source: SnapshotId) -> None:
    missing = VolumeId(place, "nothing")
    for each in (missing, SnapshotId(missing, "monday", "0badc0ffee"), SnapshotId(source.volume, "no", source.image_id)):
        with pytest.raises(NotFound, match=r"nothing|no\."):
            homely.clone(place, "new", each)
    with pytest.raises(InvalidRequest, match="another cluster"):
        homely.clone(place, "new", VolumeId(Place("other", "rbd"), "src"))
    with pytest.raises(InvalidRequest, match="a clone needs layering"):
        homely.clone(place, "new", source, layout=Layout(frozenset({"exclusive-lock"})))
    assert homely.listed(place) == ["src"]


def test_a_clone_inherits_content_and_none_of_our_marks(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    volume = homely.create(place, "src")
    homely.volumes.mark_published(volume)
    for number in range(3):
        homely.snapshot(place, "src", f"s{number}")
    with at(ceph, place) as pool, rbd.Image(pool, "src") as image:
        image.metadata_set("conf_rbd_qos_iops_limit", "100")
        image.metadata_set("owner", "somebody")
    made = homely.clone(place, "new", volume.id)
    assert not made.published
    assert made.name == "new"
    with at(ceph, place) as pool, rbd.Image(pool, "new", read_only=True) as image:
        told = {key for key, _ in image.metadata_list()}
    assert told == {"owner"} | {
        f"ceph-provisioner.{key}" for key in ("request", "fingerprint", "labels", "created", "turn", "ancestors")
    }


def test_a_deleted_volume_s_snapshots_live_on(ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId) -> None:
    homely.delete(place, "src")
    homely.delete(place, "src")
    assert homely.listed(place) == []
    with pytest.raises(NotFound):
        homely.volumes.get(source.volume)
    assert homely.snapshots.get(source).id == source
    assert [each.id for each in homely.snapshots.page(place, "", 10).snapshots] == [source]
    homely.clone(place, "new", source)
    assert read(ceph, place, "new", len(OLD)) == OLD
    homely.snapshots.delete(source)
    assert homely.snapshots.page(place, "", 10).snapshots == []
    assert read(ceph, place, "new", len(OLD)) == OLD
    with at(ceph, place) as pool:
        assert index(pool) == {}


def test_a_name_made_anew_never_answers_for_its_predecessor_s_snapshots(
    ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId
) -> None:
    homely.delete(place, "src")
    assert homely.snapshot(place, "src", "monday").id == source, "a repeat, whose volume went meanwhile"
    again = homely.create(place, "src")
    assert homely.snapshots.of(again.id) == []
    with pytest.raises(AlreadyExists, match="that was deleted since"):
        homely.snapshot(place, "src", "monday")
    taken = homely.snapshot(place, "src", "tuesday")
    assert homely.snapshots.get(source).id == source
    homely.clone(place, "new", source)
    assert read(ceph, place, "new", len(OLD)) == OLD
    homely.snapshots.delete(source)
    assert homely.snapshots.of(again.id) == [taken]


ORDERS = [
    ["src", "monday", "new"],
    ["src", "new", "monday"],
    ["monday", "src", "new"],
    ["monday", "new", "src"],
    ["new", "src", "monday"],
    ["new", "monday", "src"],
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_deleting_works_in_every_order(
    ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId, kind: str, order: list[str]
) -> None:
    homely.clone(place, "new", _source(kind, source))
    content = OLD if kind == "snapshot" else NEW
    remaining = set(order)
    for each in order:
        if each == "monday":
            homely.snapshots.delete(source)
        else:
            homely.delete(place, each)
        remaining.discard(each)
        assert homely.listed(place) == sorted(remaining - {"monday"})
        homely.purge()
        if "new" in remaining:
            assert read(ceph, place, "new", len(content)) == content
        if "monday" in remaining:
            assert homely.snapshots.get(source)


def test_a_volume_is_cloned_while_a_client_writes_to_it(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    with at(ceph, place) as pool, rbd.Image(pool, "src") as image:
        image.write(OLD, 0)
        assert image.is_exclusive_lock_owner()
        homely.clone(place, "new", VolumeId(place, "src"))
        image.write(NEW, 0)
    assert read(ceph, place, "new", len(OLD)) == OLD
    assert [namespace for _, namespace in _snapshots(ceph, place, "src")] == [2], "kept by Ceph for the clone"


def test_a_volume_whose_clones_are_gone_carries_no_trace_of_them(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    for number in range(3):
        homely.clone(place, f"new-{number}", VolumeId(place, "src"))
    for number in range(3):
        homely.delete(place, f"new-{number}")
    assert homely.purge() == (3, 0)
    assert _snapshots(ceph, place, "src") == []


# --- what killed builders leave ---


def _unfinished(ceph: Ceph, homely: Provisioner, place: Place, source: SnapshotId, steps: int) -> Volume:
    """A clone whose renaming was killed after so many steps: only a claim, the old id gone."""
    made = homely.clone(place, "new", source)
    reserved = names.NEW + uuid.uuid4().hex
    with at(ceph, place) as pool:
        payload = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in ("new", reserved, made.image_id))
        pool.execute("rbd_directory", "rbd", "dir_rename_image", payload)
        if steps < 2:
            pool.write_full(f"rbd_id.{reserved}", pool.read("rbd_id.new"))
        if steps < 1:
            pool.remove_object("rbd_id.new")
    return made


@pytest.mark.parametrize("steps", [1, 2])
def test_a_renaming_that_was_killed_is_finished_by_whoever_comes(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, source: SnapshotId, steps: int
) -> None:
    made = _unfinished(ceph, homely, place, source, steps)
    assert peer.listed(place) == ["new", "src"], "listed by the name that leads to it"
    assert peer.clone(place, "new", source).image_id == made.image_id
    assert peer.volumes.get(made.id).image_id == made.image_id
    assert not _leftovers(ceph, place)


def test_whoever_asks_if_it_is_there_at_all_finishes_a_renaming_and_has_the_volume(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, source: SnapshotId
) -> None:
    made = _unfinished(ceph, homely, place, source, 1)
    found = peer.volumes.settle(made.id)
    assert found is not None
    assert found.image_id == made.image_id
    assert not _leftovers(ceph, place)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_volume_that_was_not_renamed_to_the_end_is_deleted(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, source: SnapshotId, steps: int
) -> None:
    _unfinished(ceph, homely, place, source, steps)
    peer.delete(place, "new")
    peer.purge()
    assert peer.listed(place) == ["src"]
    assert not _leftovers(ceph, place)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_tombstone_that_was_killed_half_way_is_finished(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, source: SnapshotId, steps: int
) -> None:
    dead = names.DEAD + source.image_id
    with at(ceph, place) as pool:
        with rbd.Image(pool, "src") as image:
            image.metadata_set("ceph-provisioner.tombstone", source.image_id)
        if steps > 1:
            pool.write_full(f"rbd_id.{dead}", pool.read("rbd_id.src"))
        if steps > 2:
            pool.remove_object("rbd_id.src")
        assert peer.listed(place) == []
        assert peer.snapshots.get(source)
        assert peer.clone(place, "new", source)
        again = peer.create(place, "src")
        assert again.image_id != source.image_id
        assert image_id(pool, dead) == source.image_id
        assert not unexplained(pool)
        assert peer.client() in processes(pool)


def test_a_source_whose_snapshot_is_gone_from_the_trash_s_view_is_still_purged(
    ceph: Ceph, homely: Provisioner, place: Place
) -> None:
    """A builder killed between taking its momentary snapshot and the clone; the source is deleted then."""
    volume = homely.create(place, "src")
    with at(ceph, place) as pool, rbd.Image(pool, "src") as image:
        image.create_snap("cp.src." + 32 * "0")
    assert homely.snapshots.of(volume.id) == []
    homely.delete(place, "src")
    assert homely.purge() == (1, 0)
    with at(ceph, place) as pool, pytest.raises(rados.ObjectNotFound):
        pool.stat(f"rbd_header.{volume.image_id}")
