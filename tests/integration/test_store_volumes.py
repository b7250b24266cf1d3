"""Volumes on a real Ceph: made once, compared, grown, listed, deleted. Takes about 15 s."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import rbd

from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.errors import AlreadyExists, InvalidRequest, NotFound, OutOfRange, Unavailable
from provisioner.core.ids import HASHED, Place, VolumeId
from provisioner.core.model import LARGEST, MIB, CreateRequest, Layout, SizeRange, Volume
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, image_id, omap, set_omap, unexplained, write
from tests.harness.waiting import until


@dataclass(frozen=True)
class Pools:
    """Two pools of the test's own, and a process of ours that may use both."""

    ours: Provisioner
    place: Place
    other: str


@pytest.fixture
def pools(ceph: Ceph, tmp_path: Path) -> Iterator[Pools]:
    name = f"p{uuid.uuid4().hex[:8]}"
    ceph.make_pool(name)
    ceph.make_pool(f"{name}-data")
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={name}, profile rbd pool={name}-data"]
    (user,) = ceph.command("auth get-or-create", entity=f"client.{name}", caps=caps)  # type: ignore[misc]
    key = tmp_path / "key"
    key.write_text(user["key"])
    ours = Provisioner(ClusterConfig("dev", conf=ceph.conf, user=name, key_file=str(key)))
    try:
        yield Pools(ours, Place("dev", name), f"{name}-data")
    finally:
        ours.close()
        ceph.drop_pool(name)
        ceph.drop_pool(f"{name}-data")
        ceph.command("auth rm", entity=f"client.{name}")


def test_a_volume_is_an_image_of_the_size_and_name_asked_for(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    volume = ours.create(place, "pvc-1", GIB + 1)
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        assert image.size() == volume.size == GIB + MIB
        assert image.id() == volume.image_id
        assert not unexplained(pool)


def test_a_repeat_gives_the_same_volume(ours: Provisioner, peer: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    assert ours.create(place, "pvc-1") == made
    assert peer.create(place, "pvc-1") == made
    assert ours.volumes.get(made.id) == made


@pytest.mark.parametrize(
    ("size", "limit", "layout", "told"),
    [
        (2 * GIB, 0, Layout(), ["size"]),
        (MIB, GIB - MIB, Layout(), ["size"]),
        (GIB, 0, Layout(frozenset({"layering"})), ["imageFeatures"]),
        (GIB, 0, Layout(object_size=MIB), ["objectSize"]),
        (GIB, 0, Layout(data_pool="elsewhere"), ["dataPool"]),
        (
            2 * GIB,
            0,
            Layout(frozenset(), "", MIB, 65536, 4),
            ["imageFeatures", "objectSize", "stripeCount", "stripeUnit", "size"],
        ),
    ],
)
def test_other_parameters_under_the_name_are_told_one_by_one(
    ours: Provisioner, place: Place, size: int, limit: int, layout: Layout, told: list[str]
) -> None:
    made = ours.create(place, "pvc-1")
    with pytest.raises(AlreadyExists) as refused:
        ours.create(place, "pvc-1", size, layout, limit)
    assert [line.split()[0] for line in refused.value.differs] == told
    assert ours.volumes.get(made.id) == made


@pytest.mark.parametrize(
    "layout",
    [
        Layout(frozenset()),
        Layout(frozenset({"layering"})),
        Layout(frozenset({"layering", "exclusive-lock"}), object_size=64 * 1024),
        Layout(object_size=8 * MIB, stripe_unit=MIB, stripe_count=8),
        Layout(object_size=MIB, stripe_unit=MIB, stripe_count=1),
    ],
)
def test_an_image_is_laid_out_as_asked(ceph: Ceph, ours: Provisioner, place: Place, layout: Layout) -> None:
    volume = ours.create(place, "pvc-1", layout=layout)
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        assert image.stat()["obj_size"] == (layout.object_size or 4 * MIB)
        if layout.stripe_unit:
            assert (image.stripe_unit(), image.stripe_count()) == (layout.stripe_unit, layout.stripe_count)
        assert bool(image.features() & rbd.RBD_FEATURE_OBJECT_MAP) == ("object-map" in layout.features)
    assert ours.create(place, "pvc-1", layout=layout) == volume


def test_a_volume_grows_and_never_shrinks(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    volume = ours.create(place, "pvc-1")
    assert ours.volumes.expand(volume.id, SizeRange(2 * GIB + 1)).size == 2 * GIB + MIB
    assert ours.volumes.expand(volume.id, SizeRange(GIB)).size == 2 * GIB + MIB
    with at(ceph, place) as pool, rbd.Image(pool, "pvc-1") as image:
        assert image.size() == 2 * GIB + MIB


def test_a_volume_over_the_limit_of_an_expansion_is_refused_by_value(ours: Provisioner, place: Place) -> None:
    volume = ours.create(place, "pvc-1", 3 * GIB)
    with pytest.raises(OutOfRange, match=f"limit '{2 * GIB}'.*{3 * GIB} bytes already"):
        ours.volumes.expand(volume.id, SizeRange(GIB, 2 * GIB))


def test_a_size_that_ceph_cannot_give_is_refused_by_value(ours: Provisioner, place: Place) -> None:
    with pytest.raises(OutOfRange, match=str(LARGEST)):
        ours.create(place, "pvc-1", LARGEST)
    assert ours.listed(place) == []
    volume = ours.create(place, "pvc-2", layout=Layout(object_size=4096))
    with pytest.raises(OutOfRange, match=str(4 << 40)):
        ours.volumes.expand(volume.id, SizeRange(4 << 40))


def test_expanding_what_is_not_there_is_not_found(ours: Provisioner, place: Place) -> None:
    with pytest.raises(NotFound):
        ours.volumes.expand(VolumeId(place, "pvc-1"), SizeRange(GIB))


def test_deleting_twice_is_deleting_once(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    ours.delete(place, "pvc-1")
    ours.delete(place, "pvc-1")
    with pytest.raises(NotFound):
        ours.volumes.get(VolumeId(place, "pvc-1"))
    assert ours.purge() == (1, 0)
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_a_name_can_be_used_again_at_once_and_means_another_image(ours: Provisioner, place: Place) -> None:
    first = ours.create(place, "pvc-1")
    ours.delete(place, "pvc-1")
    second = ours.create(place, "pvc-1", 2 * GIB)
    assert second.image_id != first.image_id
    ours.volumes.delete(second.id, image_id=first.image_id)
    assert ours.volumes.get(second.id) == second


def test_a_delete_costs_the_same_whatever_the_size(ours: Provisioner, place: Place) -> None:
    ours.create(place, "small", MIB, Layout(frozenset({"layering"})))
    ours.create(place, "large", 512 << 40, Layout(frozenset({"layering"})))
    ours.delete(place, "small")
    ours.delete(place, "large")
    assert ours.listed(place) == []


def test_hostile_names_are_names_like_others(ours: Provisioner, place: Place) -> None:
    hostile = ["../../etc/passwd", "a/b@c", "-rf", "é" * 60, "a\nb", "cp-0123", "x" * 250, "rbd_id.y", "%s%n", "'; --"]
    made = {name: ours.create(place, name) for name in hostile}
    assert len({volume.id for volume in made.values()}) == len(hostile)
    assert all(volume.name == name for name, volume in made.items())
    assert [name for name, volume in made.items() if not volume.id.image.startswith(HASHED)] == ["rbd_id.y"]
    assert {ours.volumes.get(VolumeId.parse(str(volume.id))).name for volume in made.values()} == set(hostile)
    for name, volume in made.items():
        assert ours.create(place, name) == volume


def test_a_listing_tells_all_volumes_page_by_page(ours: Provisioner, place: Place) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: ours.create(place, f"pvc-{number:02}").id.image, range(23)))
    seen: list[str] = []
    after, pages = "", 0
    while True:
        page = ours.store.page(place, after, 5, None)
        seen += [volume.id.image for volume in page.volumes]
        pages += 1
        if not (after := page.after):
            break
    assert sorted(seen) == sorted(made)
    assert pages == 5


def test_a_listing_whose_end_falls_on_a_page_s_end_ends(ours: Provisioner, place: Place) -> None:
    for number in range(4):
        ours.create(place, f"pvc-{number}")
    first = ours.store.page(place, "", 4, None)
    assert len(first.volumes) == 4
    assert ours.store.page(place, first.after, 4, None).volumes == []


def test_a_page_larger_than_ceph_gives_is_not_taken_for_the_end(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        entries = {f"id_0{number:05}": b"\x01\x00\x00\x00x" for number in range(1500)}
        set_omap(pool, "rbd_directory", entries)
    seen, after = list[Volume](), ""
    while True:
        page = ours.store.page(place, after, 5000, None)
        seen += page.volumes
        if not (after := page.after):
            break
    assert [volume.id.image for volume in seen] == ["pvc-1"]


def test_an_empty_place_lists_nothing(ours: Provisioner, place: Place) -> None:
    assert ours.listed(place) == []


def test_a_name_in_two_namespaces_is_two_volumes(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    here, there = ours.create(place, "pvc-1"), ours.create(Place("dev", ceph.pool), "pvc-1", 2 * GIB)
    assert (here.size, there.size) == (GIB, 2 * GIB)
    ours.volumes.delete(there.id)
    assert ours.listed(place) == ["pvc-1"]


def test_capacity_is_what_the_pool_can_give_and_its_quota_caps_it(pools: Pools, ceph: Ceph) -> None:
    for data_pool in ("", pools.other):
        _wait_reported(pools, data_pool)
    assert GIB < pools.ours.volumes.capacity(pools.place).available < 11 * GIB
    ceph.command("osd pool set-quota", pool=pools.place.pool, field="max_bytes", val=str(GIB))
    assert pools.ours.volumes.capacity(pools.place).available <= GIB
    assert pools.ours.volumes.capacity(pools.place, pools.other).available > GIB


def _wait_reported(pools: Pools, data_pool: str) -> None:
    """A new pool shows in `df` some seconds after it was made; until then the answer is to ask again."""

    def reported() -> bool:
        try:
            return pools.ours.volumes.capacity(pools.place, data_pool).available > 0
        except Unavailable:
            return False

    until(reported, 60, "Ceph reports the new pool")


@pytest.mark.parametrize(("data_pool", "field"), [("", "pool"), ("nodata", "dataPool")])
def test_capacity_of_a_pool_that_is_not_there_is_refused_by_field(ours: Provisioner, data_pool: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ours.volumes.capacity(Place("dev", "nopool"), data_pool)
    assert refused.value.field == field


def test_data_goes_to_the_data_pool(pools: Pools, ceph: Ceph) -> None:
    layout = Layout(data_pool=pools.other)
    volume = pools.ours.create(pools.place, "pvc-1", layout=layout)
    assert volume.data_pool == pools.other
    assert pools.ours.create(pools.place, "pvc-1", layout=layout) == volume
    write(ceph, pools.place, "pvc-1", b"data")
    with ceph.admin_pool(pools.other) as data, ceph.admin_pool(pools.place.pool) as own:
        assert [item.key for item in data.list_objects() if volume.image_id in item.key]
        assert not [item.key for item in own.list_objects() if item.key.startswith("rbd_data")]
    pools.ours.volumes.delete(volume.id)
    assert pools.ours.purge() == (1, 0)
    with ceph.admin_pool(pools.other) as data:
        assert not [item.key for item in data.list_objects() if volume.image_id in item.key]


def test_a_data_pool_that_is_the_pool_itself_is_none(pools: Pools) -> None:
    volume = pools.ours.create(pools.place, "pvc-1", layout=Layout(data_pool=pools.place.pool))
    assert volume.data_pool == ""


def test_an_image_without_a_mark_in_another_data_pool_is_not_adopted(pools: Pools, ceph: Ceph) -> None:
    third = f"{pools.place.pool}-third"
    ceph.make_pool(third)
    try:
        with ceph.admin_pool(pools.place.pool) as pool:
            rbd.RBD().create(pool, "pvc-1", GIB, features=61, data_pool=third)
        with pytest.raises(AlreadyExists, match="dataPool"):
            pools.ours.create(pools.place, "pvc-1", layout=Layout(data_pool=pools.other))
    finally:
        ceph.drop_pool(third)


@pytest.mark.parametrize(
    ("place", "layout", "field", "value"),
    [
        (Place("nowhere", "rbd"), Layout(), "clusterID", "nowhere"),
        (Place("dev", "nopool"), Layout(), "pool", "nopool"),
        (Place("dev", "rbd", "nonamespace"), Layout(), "radosNamespace", "nonamespace"),
        (Place("dev", "rbd"), Layout(data_pool="nodata"), "dataPool", "nodata"),
    ],
)
def test_a_place_that_is_not_there_is_refused_naming_field_and_value(
    ours: Provisioner, place: Place, layout: Layout, field: str, value: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ours.create(place, "pvc-nowhere", layout=layout)
    assert (refused.value.field, refused.value.value) == (field, value)


def test_a_namespace_that_is_not_there_stays_without_objects(ceph: Ceph, ours: Provisioner) -> None:
    nowhere = Place("dev", ceph.pool, "mistyped")
    with pytest.raises(InvalidRequest):
        ours.create(nowhere, "pvc-1")
    with at(ceph, nowhere) as pool:
        assert not list(pool.list_objects())


def test_the_only_cluster_needs_no_name(ours: Provisioner, ceph: Ceph) -> None:
    assert ours.volumes.capacity(Place("dev", ceph.pool)).available > 0
    assert ours.store.monitors("", None) == list(ceph.monitors)


def test_what_a_volume_bears_is_told_by_get(ours: Provisioner, place: Place) -> None:
    request = CreateRequest("pvc-1", place, SizeRange(GIB), labels={"claim": "ns/data", "é": "ü"})
    made = ours.volumes.create(request)
    ours.volumes.mark_published(made)
    found = ours.volumes.get(made.id)
    assert (found.name, found.labels, found.asked) == ("pvc-1", {"claim": "ns/data", "é": "ü"}, Layout().described())
    assert found.published
    assert found.created == made.created


def test_publishing_what_is_gone_makes_nothing(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    ours.volumes.delete(made.id)
    ours.purge()
    with pytest.raises(NotFound):
        ours.volumes.mark_published(made)
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_an_image_with_more_metadata_than_a_page_is_still_seen_whole(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        set_omap(pool, f"rbd_header.{made.image_id}", {f"metadata_a{number:05}": b"x" for number in range(1600)})
        assert image_id(pool, "pvc-1") == made.image_id
        assert len(omap(pool, f"rbd_header.{made.image_id}")) >= 1000
    assert ours.volumes.get(made.id) == made
    assert ours.create(place, "pvc-1") == made


@pytest.mark.parametrize(("alike", "told"), [("{}0", True), ("{}ff", True), ("x{}", False)])
def test_ids_of_which_one_begins_the_other_are_told(ceph: Ceph, ours: Provisioner, place: Place, alike: str, told: bool) -> None:
    made = ours.create(place, "pvc-1")
    other = alike.format(made.image_id)
    with at(ceph, place) as pool:
        set_omap(pool, "rbd_directory", {f"id_{other}": b"\x01\x00\x00\x00x"})
    assert ours.store.alike(made, None) == ([other] if told else [])


@pytest.mark.parametrize("kept", [4, 6])
def test_an_id_that_begins_ours_is_told(ceph: Ceph, ours: Provisioner, place: Place, kept: int) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        set_omap(pool, "rbd_directory", {f"id_{made.image_id[:kept]}": b"\x01\x00\x00\x00x"})
    assert ours.store.alike(made, None) == [made.image_id[:kept]]
