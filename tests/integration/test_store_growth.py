"""Growing images without opening them: as librbd would, and only while nobody has them locked. Takes about 5 s."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import rados
import rbd

from provisioner.ceph import wire
from provisioner.ceph.growth import grow
from provisioner.core.errors import ProvisionerError
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import MIB, Layout, SizeRange
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, image_id, omap
from tests.harness.waiting import until

NAME, SIZE = "pvc-1", 2 * GIB + 3 * MIB
LAYOUTS = [
    Layout(),
    Layout(features=frozenset({"layering", "exclusive-lock"})),
    Layout(features=frozenset({"layering", "exclusive-lock", "object-map"}), object_size=MIB),
]


@pytest.fixture
def pool(ceph: Ceph, place: Place) -> Iterator[rados.Ioctx]:
    with at(ceph, place) as opened:
        yield opened


def _grown(ours: Provisioner, place: Place, name: str = NAME, size: int = SIZE) -> int:
    return ours.volumes.expand(VolumeId(place, name), SizeRange(size)).size


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{len(layout.features)} features")
def test_an_image_is_grown_as_librbd_grows_it(pool: rados.Ioctx, place: Place, ours: Provisioner, layout: Layout) -> None:
    for name in (NAME, "other"):
        ours.create(place, name, layout=layout)
    with rbd.Image(pool, "other") as image:
        image.resize(SIZE)
    assert grow(pool, image_id(pool, NAME), SIZE)
    assert _shape(pool, NAME) == _shape(pool, "other")


def test_what_was_written_stays_and_the_new_part_is_empty(pool: rados.Ioctx, place: Place, ours: Provisioner) -> None:
    ours.create(place, NAME)
    with rbd.Image(pool, NAME) as image:
        image.write(b"content", GIB - 7)
        image.create_snap("before")
    assert grow(pool, image_id(pool, NAME), SIZE)
    with rbd.Image(pool, NAME) as image:
        assert image.read(GIB - 7, 14) == b"content" + bytes(7)
        image.write(b"more", SIZE - 4)
        assert image.read(SIZE - 4, 4) == b"more"
        assert image.flags() == 0, "the object map is good"


def test_while_a_client_has_the_image_locked_librbd_asks_that_one(pool: rados.Ioctx, place: Place, ours: Provisioner) -> None:
    ours.create(place, NAME)
    with rbd.Image(pool, NAME) as image:
        image.write(b"content", 0)
        assert image.is_exclusive_lock_owner()
        assert not grow(pool, image_id(pool, NAME), SIZE)
        assert image.size() == GIB
        assert _grown(ours, place) == SIZE
        until(lambda: image.size() == SIZE, 10, "the client knows")
        image.write(b"more", SIZE - 4)
        assert image.flags() == 0


def test_a_client_that_has_the_image_open_is_told(pool: rados.Ioctx, place: Place, ours: Provisioner) -> None:
    ours.create(place, NAME)
    with rbd.Image(pool, NAME) as image:
        assert grow(pool, image_id(pool, NAME), SIZE)
        until(lambda: image.size() == SIZE, 10, "the client knows")
        image.write(b"more", SIZE - 4)
        assert image.read(SIZE - 4, 4) == b"more"
        assert image.flags() == 0


def test_a_lost_object_map_does_not_come_back_empty(pool: rados.Ioctx, place: Place, ours: Provisioner) -> None:
    ours.create(place, NAME)
    made = image_id(pool, NAME)
    with rbd.Image(pool, NAME) as image:
        image.write(b"content", 0)
    pool.remove_object(f"rbd_object_map.{made}")
    assert not grow(pool, made, SIZE)
    assert _grown(ours, place) == SIZE
    with rbd.Image(pool, NAME) as image:
        assert image.read(0, 7) == b"content"


def test_a_growth_cut_short_after_the_map_is_finished(pool: rados.Ioctx, place: Place, ours: Provisioner) -> None:
    ours.create(place, NAME)
    made = image_id(pool, NAME)
    assert grow(pool, made, SIZE)
    _set_size(pool, made, GIB)
    assert not grow(pool, made, SIZE)
    assert _grown(ours, place) == SIZE
    with rbd.Image(pool, NAME) as image:
        assert (image.size(), image.flags()) == (SIZE, 0)


@pytest.mark.parametrize(
    "layout",
    [Layout(features=frozenset({"layering"})), Layout(stripe_unit=MIB, stripe_count=2)],
    ids=["no exclusive lock", "striping"],
)
def test_what_is_not_plain_is_left_to_librbd(pool: rados.Ioctx, place: Place, ours: Provisioner, layout: Layout) -> None:
    ours.create(place, NAME, layout=layout)
    assert not grow(pool, image_id(pool, NAME), SIZE)
    assert _grown(ours, place) == SIZE


def test_the_copy_of_a_mirrored_image_keeps_its_size(ceph: Ceph, ours: Provisioner) -> None:
    with ceph.extra_pool() as name, ceph.admin_pool(name) as pool, closing(ours.retuned()) as process:
        process.create(Place("dev", name), NAME)
        rbd.RBD().mirror_mode_set(pool, rbd.RBD_MIRROR_MODE_IMAGE)
        rbd.RBD().mirror_peer_add(pool, "elsewhere", "client.mirror")
        with rbd.Image(pool, NAME) as image:
            image.mirror_image_enable(rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT)
            image.mirror_image_demote()
        assert not grow(pool, image_id(pool, NAME), SIZE)
        with pytest.raises(ProvisionerError):
            _grown(process, Place("dev", name))
        with rbd.Image(pool, NAME, read_only=True) as image:
            assert image.size() == GIB


def _set_size(pool: rados.Ioctx, made: str, size: int) -> None:
    pool.execute(f"rbd_header.{made}", "rbd", "set_size", size.to_bytes(8, "little"))


def _shape(pool: rados.Ioctx, name: str) -> tuple[object, ...]:
    made = image_id(pool, name)
    header = omap(pool, f"rbd_header.{made}")
    fields = {key: header.get(key) for key in ("size", "order", "features", "snap_seq", "flags")}
    map_name = f"rbd_object_map.{made}"
    has_map = int.from_bytes(header["features"], "little") & rbd.RBD_FEATURE_OBJECT_MAP
    return fields, pool.read(map_name) if has_map else b"", wire.lockers(pool, f"rbd_header.{made}")
