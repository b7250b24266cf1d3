"""What an administrator's `rbd remove`, `rename` and `trash restore` leave when they are killed on the way, and what no order
of steps explains. Takes about 20 s, most of it the second that each undecided piece has to lie still.
"""

import contextlib
from collections.abc import Callable

import pytest
import rados
import rbd

from provisioner.core.errors import AlreadyExists, ProvisionerError
from tests.harness.half_made import ALL, DATA, NAME, Site, call, string
from tests.harness.store import GIB, drop_omap, image_id, omap, read, set_omap, write

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
    site.pool.write_full(f"rbd_id.{NAME}", string(other))
    made = site.ours.create(site.place, NAME)
    assert made.image_id != other
    assert read(site.ceph, site.place, "alice", len(DATA)) == DATA
    site.settled()


def test_a_rename_from_the_name_that_lacks_its_last_step_is_finished(site: Site) -> None:
    other = _other_with_data(site)
    site.pool.write_full(f"rbd_id.{NAME}", string(other))
    assert site.ours.create(site.place, NAME).image_id != other
    assert read(site.ceph, site.place, "alice", len(DATA)) == DATA
    site.settled()


def test_a_rename_to_the_name_that_lacks_its_last_step_holds_the_name(site: Site) -> None:
    other = _other_with_data(site)
    site.pool.write_full(f"rbd_id.{NAME}", string(other))
    call(site.pool, "rbd_directory", "dir_rename_image", "alice", NAME, other)
    with pytest.raises(AlreadyExists, match="it holds data"):
        site.ours.create(site.place, NAME)
    assert read(site.ceph, site.place, NAME, len(DATA)) == DATA


def test_a_volume_of_ours_whose_rename_back_was_killed_is_found(site: Site) -> None:
    made = site.ours.create(site.place, NAME)
    site.pool.write_full("rbd_id.elsewhere", string(made.image_id))
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
    site.pool.write_full(f"rbd_id.{NAME}", string(made))
    return made


def _restoring_listed(site: Site) -> str:
    made = _restoring_with_id(site)
    call(site.pool, "rbd_directory", "dir_add_image", NAME, made)
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
    call(site.pool, "rbd_directory", "dir_remove_image", NAME, other)
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
    call(site.pool, "rbd_directory", "dir_remove_image", NAME, first)
    second = _other_with_data(site, NAME)
    site.pool.write_full(f"rbd_id.{NAME}", string(first))
    before = {item.key for item in site.pool.list_objects()}
    with pytest.raises(AlreadyExists, match=first):
        site.ours.create(site.place, NAME)
    assert {item.key for item in site.pool.list_objects()} >= before
    assert second in omap(site.pool, "rbd_directory")[f"name_{NAME}"].decode(errors="replace")
