"""Every state that a process killed between two of librbd's steps leaves, and what the next request makes of it.

The states are made by hand, piece by piece, in the order that `provisioner.ceph.salvage` tells; test_store_kills shows with
real kills that no other occurs. Takes about 45 s, most of it the second that each undecided piece has to lie still.
"""

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import rados
import rbd

from provisioner.ceph import images, salvage
from provisioner.core.errors import AlreadyExists, ProvisionerError, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import MIB, CreateRequest, Layout, SizeRange, Volume
from provisioner.core.volumes import plan_for
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, drop_omap, image_id, omap, read, set_omap, unexplained, write
from tests.harness.waiting import until

NAME = "pvc-1"
ID = "10ab12cd34ef"
ALL = 61
DATA = b"somebody's data"
STRIPED = Layout(stripe_unit=65536, stripe_count=4)


@dataclass(frozen=True)
class Site:
    """Where a state is made, and who finds it."""

    ceph: Ceph
    ours: Provisioner
    place: Place
    pool: rados.Ioctx

    @property
    def volume(self) -> VolumeId:
        return VolumeId(self.place, NAME)

    def settled(self) -> None:
        """Nothing is left over: purge, and account for every object."""
        self.ours.purge()
        assert omap(self.pool, "rbd_trash") == {}
        assert not unexplained(self.pool)


@pytest.fixture
def site(ceph: Ceph, ours: Provisioner, place: Place) -> Iterator[Site]:
    with at(ceph, place) as pool:
        yield Site(ceph, ours, place, pool)


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _call(pool: rados.Ioctx, obj: str, method: str, *arguments: str | bytes) -> None:
    payload = b"".join(_string(each) if isinstance(each, str) else each for each in arguments)
    pool.execute(obj, "rbd", method, payload)


# --- create: directory, id object, header, striping, object map, our mark ---


def _listed_only(pool: rados.Ioctx) -> None:
    _call(pool, "rbd_directory", "dir_add_image", NAME, ID)


def _id_only(pool: rados.Ioctx) -> None:
    pool.write_full(f"rbd_id.{NAME}", _string(ID))


def _listed_without_header(pool: rados.Ioctx) -> None:
    _id_only(pool)
    _call(pool, "rbd_directory", "dir_add_image", NAME, ID)


def _without_object_map(pool: rados.Ioctx) -> None:
    rbd.RBD().create(pool, NAME, GIB, features=ALL)
    pool.remove_object(f"rbd_object_map.{image_id(pool, NAME)}")


def _without_mark(pool: rados.Ioctx) -> None:
    rbd.RBD().create(pool, NAME, GIB, features=ALL)


BEFORE_THE_HEADER = [_listed_only, _id_only, _listed_without_header]
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
    body = b"\0" + _string(NAME) + now + now + bytes((state,))
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
    _call(site.pool, "rbd_directory", "dir_remove_image", NAME, made)
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


# --- remove (by hand): header gone, id object gone, directory gone ---


def _header_gone(pool: rados.Ioctx) -> None:
    rbd.RBD().create(pool, NAME, GIB, features=1)
    pool.remove_object(f"rbd_header.{image_id(pool, NAME)}")


def _header_and_id_gone(pool: rados.Ioctx) -> None:
    _header_gone(pool)
    pool.remove_object(f"rbd_id.{NAME}")


@pytest.mark.parametrize("state", [_header_gone, _header_and_id_gone])
@pytest.mark.parametrize("request_kind", ["create", "delete"])
def test_what_a_killed_removal_left_is_cleared(site: Site, state: Callable[[rados.Ioctx], None], request_kind: str) -> None:
    state(site.pool)
    getattr(site.ours, request_kind)(site.place, NAME)
    assert site.ours.listed(site.place) == ([NAME] if request_kind == "create" else [])
    site.settled()


# --- rename (by hand): new id object, directory, old id object gone ---


def _other_with_data(site: Site, name: str = "alice") -> str:
    rbd.RBD().create(site.pool, name, GIB, features=ALL)
    write(site.ceph, site.place, name, DATA)
    return image_id(site.pool, name)


def test_a_rename_to_the_name_that_had_only_begun_is_undone(site: Site) -> None:
    other = _other_with_data(site)
    site.pool.write_full(f"rbd_id.{NAME}", _string(other))
    made = site.ours.create(site.place, NAME)
    assert made.image_id != other
    assert read(site.ceph, site.place, "alice", len(DATA)) == DATA
    site.settled()


def test_a_rename_from_the_name_that_lacks_its_last_step_is_finished(site: Site) -> None:
    other = _other_with_data(site)
    site.pool.write_full(f"rbd_id.{NAME}", _string(other))
    assert site.ours.create(site.place, NAME).image_id != other
    assert read(site.ceph, site.place, "alice", len(DATA)) == DATA
    site.settled()


def test_a_rename_to_the_name_that_lacks_its_last_step_holds_the_name(site: Site) -> None:
    other = _other_with_data(site)
    site.pool.write_full(f"rbd_id.{NAME}", _string(other))
    _call(site.pool, "rbd_directory", "dir_rename_image", "alice", NAME, other)
    with pytest.raises(AlreadyExists, match="it holds data"):
        site.ours.create(site.place, NAME)
    assert read(site.ceph, site.place, NAME, len(DATA)) == DATA


def test_a_volume_of_ours_whose_rename_back_was_killed_is_found(site: Site) -> None:
    made = site.ours.create(site.place, NAME)
    site.pool.write_full("rbd_id.elsewhere", _string(made.image_id))
    assert site.ours.create(site.place, NAME) == made
    site.ours.delete(site.place, "elsewhere")
    assert site.ours.volumes.get(made.id) == made
    site.settled()


# --- restore (by hand): state RESTORING, id object, directory, trash entry gone ---


def _trashed(site: Site, state: int) -> str:
    volume = site.ours.create(site.place, NAME)
    site.ours.delete(site.place, NAME)
    entry = omap(site.pool, "rbd_trash")[f"id_{volume.image_id}"]
    set_omap(site.pool, "rbd_trash", {f"id_{volume.image_id}": entry[:-1] + bytes((state,))})
    return volume.image_id


def _restoring(site: Site) -> str:
    return _trashed(site, 3)


def _restoring_with_id(site: Site) -> str:
    made = _restoring(site)
    site.pool.write_full(f"rbd_id.{NAME}", _string(made))
    return made


def _restoring_listed(site: Site) -> str:
    made = _restoring_with_id(site)
    _call(site.pool, "rbd_directory", "dir_add_image", NAME, made)
    return made


RESTORES = [_restoring, _restoring_with_id, _restoring_listed]


@pytest.mark.parametrize("state", RESTORES)
def test_a_restore_under_way_is_not_purged(site: Site, state: Callable[[Site], str]) -> None:
    made = state(site)
    assert site.ours.purge() == (0, 1)
    assert f"rbd_header.{made}" in {item.key for item in site.pool.list_objects()}


@pytest.mark.parametrize("state", RESTORES)
def test_a_restore_killed_at_any_step_can_be_done_by_hand_to_its_end(site: Site, state: Callable[[Site], str]) -> None:
    made = state(site)
    site.ours.purge()
    rbd.RBD().trash_restore(site.pool, made, NAME)
    assert image_id(site.pool, NAME) == made
    assert site.ceph.images(site.place.pool, site.place.namespace) == [NAME]


@pytest.mark.parametrize("state", RESTORES)
def test_after_a_restore_killed_at_any_step_the_name_can_be_made_anew(site: Site, state: Callable[[Site], str]) -> None:
    old = state(site)
    made = site.ours.create(site.place, NAME)
    assert made.image_id != old
    assert site.ours.volumes.get(made.id) == made


@pytest.mark.parametrize("state", RESTORES)
def test_after_a_restore_killed_at_any_step_a_delete_leaves_no_name(site: Site, state: Callable[[Site], str]) -> None:
    state(site)
    site.ours.delete(site.place, NAME)
    assert site.ceph.images(site.place.pool, site.place.namespace) == []


def test_a_volume_restored_by_hand_and_unmarked_is_a_volume_again(site: Site) -> None:
    made = site.ours.create(site.place, NAME)
    site.ours.delete(site.place, NAME)
    rbd.RBD().trash_restore(site.pool, made.image_id, NAME)
    with rbd.Image(site.pool, NAME) as image:
        image.metadata_remove("ceph-provisioner.deleting")
    assert site.ours.create(site.place, NAME) == made
    site.settled()


# --- what no order of steps explains: repaired if there is one way to, else left to a person ---


def test_an_image_on_the_list_whose_id_object_is_gone_gets_it_back(site: Site) -> None:
    rbd.RBD().create(site.pool, NAME, GIB, features=ALL)
    write(site.ceph, site.place, NAME, DATA)
    site.pool.remove_object(f"rbd_id.{NAME}")
    with pytest.raises(AlreadyExists, match="it holds data"):
        site.ours.create(site.place, NAME)
    assert read(site.ceph, site.place, NAME, len(DATA)) == DATA


def test_an_image_on_no_list_is_listed_again(site: Site) -> None:
    other = _other_with_data(site, NAME)
    _call(site.pool, "rbd_directory", "dir_remove_image", NAME, other)
    with pytest.raises(AlreadyExists, match="it holds data"):
        site.ours.create(site.place, NAME)
    assert read(site.ceph, site.place, NAME, len(DATA)) == DATA
    assert site.ceph.images(site.place.pool, site.place.namespace) == [NAME]


def test_a_header_that_lost_its_size_is_left_to_a_person(site: Site) -> None:
    other = _other_with_data(site, NAME)
    drop_omap(site.pool, f"rbd_header.{other}", "size", "features", "order")
    before = {item.key for item in site.pool.list_objects()}
    for act in (site.ours.create, site.ours.delete, site.ours.abandon):
        with pytest.raises(ProvisionerError):
            act(site.place, NAME)
    site.ours.purge()
    assert {item.key for item in site.pool.list_objects()} == before | {"ceph-provisioner.processes"}


@pytest.mark.parametrize("garbage", [b"", b"\x01", b"\xff\xff\xff\xff", b"\x04\x00\x00\x00\xff\xfe\x00\x01"])
def test_garbled_pieces_are_told_in_the_core_s_words(site: Site, garbage: bytes) -> None:
    site.ours.create(site.place, "whole")
    site.pool.write_full(f"rbd_id.{NAME}", garbage)
    set_omap(site.pool, "rbd_directory", {f"name_{NAME}": garbage, "id_10ab": garbage})
    set_omap(site.pool, "rbd_trash", {"id_10ac": garbage})
    for act in (site.ours.create, site.ours.delete, site.ours.abandon):
        with contextlib.suppress(ProvisionerError):
            act(site.place, NAME)
    site.ours.purge()
    assert "whole" in site.ours.listed(site.place)


def test_two_images_that_claim_the_name_are_left_to_a_person(site: Site) -> None:
    first = _other_with_data(site, NAME)
    site.pool.remove_object(f"rbd_id.{NAME}")
    _call(site.pool, "rbd_directory", "dir_remove_image", NAME, first)
    second = _other_with_data(site, NAME)
    site.pool.write_full(f"rbd_id.{NAME}", _string(first))
    before = {item.key for item in site.pool.list_objects()}
    with pytest.raises(AlreadyExists, match=first):
        site.ours.create(site.place, NAME)
    assert {item.key for item in site.pool.list_objects()} >= before
    assert second in omap(site.pool, "rbd_directory")[f"name_{NAME}"].decode(errors="replace")


# --- whose pieces are they? ---


def test_pieces_that_an_administrator_is_at_work_on_are_waited_for(site: Site) -> None:
    _listed_without_header(site.pool)
    shape = struct.pack("<QBQ", GIB, 22, 1)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(site.ours.create, site.place, NAME)
        until(site.ours.volumes.operations, 5, "the create is under way")
        _call(site.pool, f"rbd_header.{ID}", "create", shape, f"rbd_data.{ID}", struct.pack("<q", -1))
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
    _call(pool, "rbd_directory", "dir_add_image", NAME, made)


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
        assert images.make(pool, plan, another) is None
    assert site.ours.listed(site.place) == []
    assert site.ours.create(site.place, NAME).size == GIB
