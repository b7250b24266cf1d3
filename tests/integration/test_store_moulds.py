"""Empty images that are cast as librbd made one of the same layout a moment ago. Takes about 5 s."""

import pytest
import rados
import rbd

from provisioner.ceph import moulds
from provisioner.ceph.headers import read_header
from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import MIB, Layout
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, image_id, objects, omap, unexplained

LAYOUTS = [
    Layout(),
    Layout(features=frozenset({"layering"})),
    Layout(features=frozenset({"layering", "exclusive-lock"}), object_size=MIB),
]
OF_ITS_OWN = ("object_prefix", "_timestamp", "metadata_")
"""Parts of the names of what differs from image to image."""


@pytest.fixture
def cast(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were cast."""
    told: list[str] = []
    real = moulds.cast

    def noted(*words: object) -> bool:
        told.append(words[1].id.image)  # type: ignore[attr-defined]
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("provisioner.ceph.images.cast", noted)
    return told


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{len(layout.features)} features, {layout.object_size}")
def test_a_cast_image_is_what_librbd_makes(ceph: Ceph, place: Place, ours: Provisioner, cast: list[str], layout: Layout) -> None:
    for name in ("made", "cast"):
        ours.create(place, name, GIB + 3 * MIB, layout)
    assert cast == ["cast"]
    with at(ceph, place) as pool:
        assert _shape(pool, "cast") == _shape(pool, "made")
        assert not unexplained(pool)


def test_a_cast_image_can_be_written_grown_and_snapshotted(ceph: Ceph, place: Place, ours: Provisioner, cast: list[str]) -> None:
    for name in ("made", "cast"):
        ours.create(place, name)
    assert cast == ["cast"]
    with at(ceph, place) as pool, rbd.Image(pool, "cast") as image:
        image.write(b"content", GIB - 7)
        image.create_snap("snapshot")
        image.resize(2 * GIB)
        assert image.read(GIB - 7, 14) == b"content" + bytes(7)
        assert image.flags() == 0, "its object map is good"


def test_striping_and_a_data_pool_are_left_to_librbd(place: Place, ours: Provisioner, cast: list[str]) -> None:
    for name in ("made", "made-too"):
        ours.create(place, name, layout=Layout(stripe_unit=MIB, stripe_count=2))
    assert cast == []


def test_a_mould_is_used_for_a_minute(place: Place, ours: Provisioner, cast: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moulds, "_FRESH", -1.0)
    for name in ("made", "made-too"):
        ours.create(place, name)
    assert cast == []


def test_a_name_that_somebody_else_took_is_refused_and_nothing_is_left(
    ceph: Ceph, place: Place, ours: Provisioner, cast: list[str]
) -> None:
    ours.create(place, "made")
    with at(ceph, place) as pool:
        rbd.RBD().create(pool, "taken", 2 * GIB)
        with pytest.raises(AlreadyExists):
            ours.create(place, "taken")
        assert cast == ["taken"]
        assert not unexplained(pool)


def test_beside_an_image_of_format_1_none_is_made(ceph: Ceph, place: Place, ours: Provisioner, cast: list[str]) -> None:
    ours.create(place, "made")
    with at(ceph, place) as pool:
        pool.write_full("old.rbd", b"<<< Rados Block Device Image >>>\n")  # type: ignore[attr-defined]
        before = objects(pool)
        with pytest.raises(Unavailable):
            ours.create(place, "old")
        assert objects(pool) == before
    assert set(cast) == {"old"}


@pytest.mark.parametrize("leave", [False, True], ids=["a volume", "an image in the trash"])
def test_an_id_that_is_another_s_by_chance_is_given_up(
    ceph: Ceph, place: Place, ours: Provisioner, cast: list[str], monkeypatch: pytest.MonkeyPatch, leave: bool
) -> None:
    other, real = ours.create(place, "other").image_id, moulds.new_id
    if leave:
        ours.delete(place, "other")
    ids = iter([other])
    monkeypatch.setattr("provisioner.ceph.images.new_id", lambda instance: next(ids, real(instance)))
    with at(ceph, place) as pool:
        before = pool.read(f"rbd_object_map.{other}")
        assert ours.create(place, "new").image_id != other
        assert cast == ["new", "new"]
        assert pool.read(f"rbd_object_map.{other}") == before
        assert not unexplained(pool)


def test_two_processes_at_once_make_one_image(ceph: Ceph, place: Place, ours: Provisioner, peer: Provisioner) -> None:
    for process, name in ((ours, "a"), (peer, "b")):
        process.create(place, name)
    assert {process.create(place, "shared").image_id for process in (ours, peer)} == {_id(ceph, place, "shared")}


def _id(ceph: Ceph, place: Place, name: str) -> str:
    with at(ceph, place) as pool:
        return image_id(pool, name)


def _shape(pool: rados.Ioctx, name: str) -> dict[str, object]:
    """All that makes an image, but for what is its own."""
    made = image_id(pool, name)
    header = omap(pool, f"rbd_header.{made}")
    shape: dict[str, object] = {key: value for key, value in header.items() if not any(word in key for word in OF_ITS_OWN)}
    assert header["object_prefix"][4:] == f"rbd_data.{made}".encode()
    assert read_header(pool, made) is not None
    pieces = {each.replace(made, "ID") for each in objects(pool) if made in each}
    has_map = f"rbd_object_map.{made}" in objects(pool)
    return shape | {
        "keys": set(header),
        "pieces": pieces,
        "map": pool.read(f"rbd_object_map.{made}") if has_map else b"",
        "attributes": {key: value for each in ("header", "object_map") for key, value in _attributes(pool, f"rbd_{each}.{made}")},
    }


def _attributes(pool: rados.Ioctx, name: str) -> list[tuple[str, bytes]]:
    return list(pool.get_xattrs(name)) if name in objects(pool) else []
