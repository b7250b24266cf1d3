"""Every state that a process of ours killed between two of librbd's steps leaves, and what the next request makes of it.

The states are made by hand, piece by piece, in the order that `provisioner.ceph.salvage` tells; test_store_kills shows with
real kills that no other occurs. Takes about 30 s, most of it the second that each undecided piece has to lie still.
"""

import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import rados
import rbd

from provisioner.ceph import images, salvage
from provisioner.ceph.moulds import Moulds
from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import MIB, CreateRequest, Layout, SizeRange, Volume
from provisioner.core.volumes import plan_for
from tests.harness.ceph import Ceph
from tests.harness.half_made import ALL, DATA, ID, NAME, Site, call, string
from tests.harness.store import GIB, Provisioner, at, drop_omap, image_id, omap, set_omap, unexplained
from tests.harness.waiting import until

STRIPED = Layout(stripe_unit=65536, stripe_count=4)


# --- create: directory, id object, header, striping, object map, our mark ---


def _listed_only(pool: rados.Ioctx) -> None:
    call(pool, "rbd_directory", "dir_add_image", NAME, ID)


def _id_only(pool: rados.Ioctx) -> None:
    pool.write_full(f"rbd_id.{NAME}", string(ID))


def _listed_without_header(pool: rados.Ioctx) -> None:
    _id_only(pool)
    call(pool, "rbd_directory", "dir_add_image", NAME, ID)


def _mapped_without_header(pool: rados.Ioctx) -> None:
    """As a cast leaves it, whose header comes last."""
    _listed_without_header(pool)
    pool.write_full(f"rbd_object_map.{ID}", b"")


def _without_object_map(pool: rados.Ioctx) -> None:
    rbd.RBD().create(pool, NAME, GIB, features=ALL)
    pool.remove_object(f"rbd_object_map.{image_id(pool, NAME)}")


def _without_mark(pool: rados.Ioctx) -> None:
    rbd.RBD().create(pool, NAME, GIB, features=ALL)


BEFORE_THE_HEADER = [_listed_only, _id_only, _listed_without_header, _mapped_without_header]
CREATES = [*BEFORE_THE_HEADER, _without_object_map, _without_mark]


@pytest.mark.parametrize("state", CREATES)
def test_a_create_killed_at_any_step_is_done_by_its_repeat(site: Site, state: Callable[[rados.Ioctx], None]) -> None:
    state(site.pool)
    made = site.ours.create(site.place, NAME)
    assert site.ours.create(site.place, NAME) == made
    assert site.ours.listed(site.place) == [NAME]
    with rbd.Image(site.pool, NAME) as image:
        image.write(DATA, 0)
        assert image.size() == GIB
        assert image.flags() == 0
    site.settled()


@pytest.mark.parametrize("state", CREATES)
def test_a_create_killed_at_any_step_can_be_abandoned(site: Site, state: Callable[[rados.Ioctx], None]) -> None:
    state(site.pool)
    site.ours.volumes.abandon(site.volume)
    assert site.ceph.images(site.place.pool, site.place.namespace) == []
    site.settled()


@pytest.mark.parametrize("state", BEFORE_THE_HEADER)
def test_a_create_killed_before_there_was_an_image_can_be_deleted(site: Site, state: Callable[[rados.Ioctx], None]) -> None:
    state(site.pool)
    site.ours.delete(site.place, NAME)
    site.settled()


@pytest.mark.parametrize("state", BEFORE_THE_HEADER)
def test_a_create_killed_before_there_was_an_image_can_be_repeated_with_other_parameters(
    site: Site, state: Callable[[rados.Ioctx], None]
) -> None:
    state(site.pool)
    assert site.ours.create(site.place, NAME, 2 * GIB, Layout(frozenset({"layering"}))).size == 2 * GIB
    site.settled()


def test_a_striped_create_killed_before_its_striping_is_done_by_its_repeat(site: Site) -> None:
    rbd.RBD().create(site.pool, NAME, GIB, features=ALL, stripe_unit=65536, stripe_count=4)
    drop_omap(site.pool, f"rbd_header.{image_id(site.pool, NAME)}", "stripe_unit", "stripe_count")
    site.ours.create(site.place, NAME, layout=STRIPED)
    with rbd.Image(site.pool, NAME) as image:
        assert (image.stripe_unit(), image.stripe_count()) == (65536, 4)
    site.settled()


def test_a_striped_create_killed_before_its_striping_is_not_adopted_without_striping(site: Site) -> None:
    rbd.RBD().create(site.pool, NAME, GIB, features=ALL, stripe_unit=65536, stripe_count=4)
    with pytest.raises(AlreadyExists, match="striping"):
        site.ours.create(site.place, NAME)


@pytest.mark.parametrize("size", [100 * MIB, 17 * MIB, MIB])
@pytest.mark.parametrize(
    "layout", [Layout(), STRIPED, Layout(object_size=8 * MIB, stripe_unit=MIB, stripe_count=8), Layout(object_size=64 * 1024)]
)
def test_an_object_map_made_by_the_repeat_is_as_large_as_librbd_s(site: Site, size: int, layout: Layout) -> None:
    site.ours.create(site.place, "whole", size, layout)
    site.ours.create(site.place, NAME, size, layout)
    maps = [f"rbd_object_map.{image_id(site.pool, name)}" for name in ("whole", NAME)]
    marks = [key for key in omap(site.pool, f"rbd_header.{image_id(site.pool, NAME)}") if key.startswith("metadata_")]
    drop_omap(site.pool, f"rbd_header.{image_id(site.pool, NAME)}", *marks)
    site.pool.remove_object(maps[1])
    site.ours.create(site.place, NAME, size, layout)
    whole, made = (site.pool.read(each, 1 << 20) for each in maps)
    assert whole == made
    with rbd.Image(site.pool, NAME) as image:
        image.write(DATA, size - len(DATA))
        assert image.flags() == 0


def test_the_create_of_a_large_image_killed_before_its_mark_is_done_by_its_repeat(site: Site) -> None:
    rbd.RBD().create(site.pool, NAME, 1 << 40, features=ALL)
    began = time.monotonic()
    site.ours.create(site.place, NAME, 1 << 40)
    assert time.monotonic() - began < 5


# --- move to the trash: our mark of death, trash entry, id object gone, directory gone ---


def _marked(site: Site) -> str:
    volume = site.ours.create(site.place, NAME)
    with rbd.Image(site.pool, NAME) as image:
        image.metadata_set("ceph-provisioner.deleting", volume.image_id)
    return volume.image_id


def _in_trash_too(site: Site, state: int = 0) -> str:
    made = _marked(site)
    now = struct.pack("<II", int(time.time()), 0)
    body = b"\0" + string(NAME) + now + now + bytes((state,))
    set_omap(site.pool, "rbd_trash", {f"id_{made}": struct.pack("<BBI", 2, 1, len(body)) + body})
    return made


def _as_librbd_begins_it(site: Site) -> str:
    return _in_trash_too(site, state=1)


def _without_id(site: Site) -> str:
    made = _in_trash_too(site)
    site.pool.remove_object(f"rbd_id.{NAME}")
    return made


def _without_id_as_librbd_leaves_it(site: Site) -> str:
    made = _as_librbd_begins_it(site)
    site.pool.remove_object(f"rbd_id.{NAME}")
    return made


def _all_but_the_state(site: Site) -> str:
    made = _without_id_as_librbd_leaves_it(site)
    call(site.pool, "rbd_directory", "dir_remove_image", NAME, made)
    return made


DELETES = [_marked, _in_trash_too, _as_librbd_begins_it, _without_id, _without_id_as_librbd_leaves_it, _all_but_the_state]


@pytest.mark.parametrize("state", DELETES)
def test_a_delete_killed_at_any_step_is_done_by_its_repeat(site: Site, state: Callable[[Site], str]) -> None:
    state(site)
    began = time.monotonic()
    site.ours.delete(site.place, NAME)
    assert time.monotonic() - began < salvage._QUIET
    assert site.ours.listed(site.place) == []
    site.settled()


@pytest.mark.parametrize("state", DELETES)
def test_after_a_delete_killed_at_any_step_the_name_can_be_made_anew(site: Site, state: Callable[[Site], str]) -> None:
    old = state(site)
    made = site.ours.create(site.place, NAME, 2 * GIB)
    assert made.image_id != old
    site.ours.purge()
    assert site.ours.volumes.get(made.id) == made
    site.settled()


@pytest.mark.parametrize("state", DELETES)
def test_a_volume_whose_delete_was_killed_is_told_nowhere(site: Site, state: Callable[[Site], str]) -> None:
    state(site)
    assert site.ours.listed(site.place) == []


@pytest.mark.parametrize("state", DELETES[1:])
def test_a_move_to_the_trash_killed_at_any_step_is_finished_by_the_purge(site: Site, state: Callable[[Site], str]) -> None:
    state(site)
    site.ours.volumes.attend(site.place)
    assert site.ours.purge() == (1, 0)
    assert site.ceph.images(site.place.pool, site.place.namespace) == []
    site.settled()


def test_a_delete_whose_name_was_made_anew_meanwhile_takes_the_old_image_only(site: Site) -> None:
    first = site.ours.create(site.place, NAME)
    site.ours.delete(site.place, NAME)
    second = site.ours.create(site.place, NAME)
    site.ours.store.discard(first, None)  # what a process does that looked before, and slept since
    assert site.ours.volumes.get(second.id) == second
    site.settled()
    assert site.ours.listed(site.place) == [NAME]


def test_a_delete_that_slept_until_the_purge_was_through_leaves_nothing(site: Site) -> None:
    first = site.ours.create(site.place, NAME)
    site.ours.delete(site.place, NAME)
    site.ours.purge()
    site.ours.store.discard(first, None)
    site.settled()


# --- whose pieces are they? ---


def test_pieces_that_an_administrator_is_at_work_on_are_waited_for(site: Site) -> None:
    _listed_without_header(site.pool)
    shape = struct.pack("<QBQ", GIB, 22, 1)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(site.ours.create, site.place, NAME)
        until(site.ours.volumes.operations, 60, "the create is under way")
        call(site.pool, f"rbd_header.{ID}", "create", shape, f"rbd_data.{ID}", struct.pack("<q", -1))
        assert isinstance(asked.exception(10), AlreadyExists), "the administrator's image has other features"
    assert image_id(site.pool, NAME) == ID


def test_pieces_of_a_living_process_of_ours_are_left_to_it(site: Site, peer: Provisioner) -> None:
    peer.volumes.attend(site.place)
    _listed_without_header_by(peer, site.pool)
    before = omap(site.pool, "rbd_directory")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="another process of ours"):
        site.ours.create(site.place, NAME)
    assert time.monotonic() - began < 2 * salvage._PATIENCE
    assert omap(site.pool, "rbd_directory") == before


def _listed_without_header_by(author: Provisioner, pool: rados.Ioctx) -> None:
    """As librbd leaves it under way in that process: the image's id begins with the client's."""
    made = f"{author.client():x}00000000"
    pool.write_full(f"rbd_id.{NAME}", struct.pack("<I", len(made)) + made.encode())
    call(pool, "rbd_directory", "dir_add_image", NAME, made)


def test_pieces_of_a_dead_process_are_cleared_though_others_live(site: Site, peer: Provisioner) -> None:
    peer.volumes.attend(site.place)
    _listed_without_header(site.pool)
    began = time.monotonic()
    assert site.ours.create(site.place, NAME).size == GIB
    assert time.monotonic() - began < 2 * salvage._PATIENCE


def test_pieces_that_lie_longer_than_any_call_lasts_are_nobody_s(ceph: Ceph, place: Place, peer: Provisioner) -> None:
    hasty = peer.retuned(timeout=1)
    try:
        peer.volumes.attend(place)
        with at(ceph, place) as pool:
            _listed_without_header_by(peer, pool)
            until(lambda: _made(hasty, place), salvage._CALLS + 5, "the pieces are cleared")
            assert not unexplained(pool)
    finally:
        hasty.close()


def _made(process: Provisioner, place: Place) -> Volume | None:
    try:
        return process.create(place, NAME)
    except Unavailable:
        return None


def test_an_image_that_another_client_made_meanwhile_is_not_marked_as_just_made(site: Site) -> None:
    plan = plan_for(CreateRequest(NAME, site.place, SizeRange(GIB)))
    another = site.ours.client() + 1
    with site.ours.clusters.connection("dev") as connection, connection.pool(site.place) as pool:
        assert images.make(pool, plan, another, Moulds()) is None
    assert site.ours.listed(site.place) == []
    assert site.ours.create(site.place, NAME).size == GIB
