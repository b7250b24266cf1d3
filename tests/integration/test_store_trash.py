"""The trash: purged in the background by whoever is there first, never somebody else's, never under a client. About 20 s."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import rados
import rbd

from provisioner.ceph.trash import Bystanders, Purge
from provisioner.core.ids import Place
from provisioner.core.model import Layout
from tests.harness.ceph import Ceph
from tests.harness.store import (
    GIB,
    Provisioner,
    Victim,
    at,
    blocklisted,
    image_id,
    objects,
    omap,
    processes,
    read,
    set_omap,
    unexplained,
    write,
)
from tests.harness.waiting import until

DATA = b"somebody's data"


def _trash(ceph: Ceph, place: Place) -> list[str]:
    with at(ceph, place) as pool:
        return sorted(entry["name"] for entry in rbd.RBD().trash_list(pool))


def test_only_what_was_deleted_through_us_is_purged(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    for name in ("deleted", "by-hand", "kept"):
        ours.create(place, name)
    with at(ceph, place) as pool:
        rbd.RBD().create(pool, "foreign", GIB, features=61)
        write(ceph, place, "foreign", DATA)
        rbd.RBD().trash_move(pool, "foreign", 0)
        rbd.RBD().trash_move(pool, "by-hand", 0)
    ours.delete(place, "deleted")
    assert ours.store.backlog(place) == 1
    assert ours.purge() == (1, 0)
    assert ours.store.backlog(place) == 0
    assert _trash(ceph, place) == ["by-hand", "foreign"]
    with at(ceph, place) as pool:
        rbd.RBD().trash_restore(pool, _trashed_id(ceph, place, "foreign"), "foreign")
    assert read(ceph, place, "foreign", len(DATA)) == DATA


def _trashed_id(ceph: Ceph, place: Place, name: str) -> str:
    with at(ceph, place) as pool:
        return next(str(entry["id"]) for entry in rbd.RBD().trash_list(pool) if entry["name"] == name)


def test_a_volume_of_ours_that_an_administrator_trashed_can_be_made_anew(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    first = ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        rbd.RBD().trash_move(pool, "pvc-1", 0)
    second = ours.create(place, "pvc-1")
    assert second.image_id != first.image_id
    ours.purge()
    assert _trash(ceph, place) == ["pvc-1"]


def test_more_than_a_page_of_trash_is_purged(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    with at(ceph, place) as pool:
        entry = b"\x02\x01\x18\x00\x00\x00\x00\x02\x00\x00\x00by" + bytes(17)
        set_omap(pool, "rbd_trash", {f"id_0{number:04}": entry for number in range(80)})
    ours.create(place, "pvc-1")
    ours.delete(place, "pvc-1")
    assert ours.purge() == (81, 0)
    assert _trash(ceph, place) == []


def test_an_image_that_a_client_still_has_open_is_kept_and_removed_later(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    ours.create(place, "pvc-2")
    made = ours.create(place, "pvc-3").image_id
    for name in ("pvc-1", "pvc-2", "pvc-3"):
        ours.delete(place, name)
    with at(ceph, place) as pool, rbd.Image(pool, image_id=made) as image:
        assert ours.purge() == (2, 1)
        image.write(DATA, 0)
        assert image.read(0, len(DATA)) == DATA
    assert ours.purge() == (1, 0)


def test_an_image_with_a_snapshot_made_at_the_last_moment_is_kept(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1").image_id
    ours.delete(place, "pvc-1")
    with at(ceph, place) as pool, rbd.Image(pool, image_id=made) as image:
        image.create_snap("late")
    assert ours.purge() == (0, 1)
    with at(ceph, place) as pool, rbd.Image(pool, image_id=made) as image:
        image.remove_snap("late")
    assert ours.purge() == (1, 0)


def test_an_image_that_cannot_be_removed_does_not_keep_the_others(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = [ours.create(place, f"pvc-{number}").image_id for number in range(3)]
    for number in range(3):
        ours.delete(place, f"pvc-{number}")
    damaged = sorted(made)[0]
    with at(ceph, place) as pool:
        header = omap(pool, f"rbd_header.{damaged}")
        set_omap(pool, f"rbd_header.{damaged}", {"object_prefix": b"\x01"})
        assert ours.purge() == (2, 1)
        set_omap(pool, f"rbd_header.{damaged}", {"object_prefix": header["object_prefix"]})
    assert ours.purge() == (1, 0)


def test_one_of_ours_that_was_somebody_else_s_lately_is_purged_in_the_end(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    with at(ceph, place) as pool:
        rbd.RBD().trash_move(pool, "pvc-1", 0)
        assert ours.purge() == (0, 0)
        rbd.RBD().trash_restore(pool, made.image_id, "pvc-1")
        ours.delete(place, "pvc-1")
        bystanders = Bystanders(seconds=0.2)
        bystanders.note(made.image_id)
        assert bystanders.is_one(made.image_id)
        until(lambda: not bystanders.is_one(made.image_id), 60, "it is looked at again")
    assert ours.store.backlog(place) == 1
    fresh = Provisioner(ceph.config())
    try:
        fresh.volumes.attend(place)
        assert fresh.purge() == (1, 0)
    finally:
        fresh.close()


def test_while_one_process_purges_the_others_leave_it_alone(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place
) -> None:
    for number in range(3):
        ours.create(place, f"pvc-{number}")
        ours.delete(place, f"pvc-{number}")
    peer.volumes.attend(place)
    at_work, go_on = threading.Event(), threading.Event()

    def pace() -> bool:
        at_work.set()
        return go_on.wait(60)

    with ThreadPoolExecutor(1) as threads:
        walk = threads.submit(lambda: dict(ours.store.purge(pace)))
        assert at_work.wait(60)
        assert dict(peer.store.purge(lambda: True)) == {place: Purge(0, 0, skipped=True)}
        go_on.set()
        assert walk.result(10) == {place: Purge(3, 0)}
    assert dict(peer.store.purge(lambda: True)) == {place: Purge(0, 0)}


def test_a_walk_that_is_stopped_goes_on_next_time(ours: Provisioner, place: Place) -> None:
    for number in range(4):
        ours.create(place, f"pvc-{number}")
        ours.delete(place, f"pvc-{number}")
    turns = iter([True, True, False])
    assert dict(ours.store.purge(lambda: next(turns))) == {place: Purge(2, 0)}
    assert ours.purge() == (2, 0)


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_purge_that_was_killed_is_gone_on_with(ceph: Ceph, ours: Provisioner, place: Place, after: int) -> None:
    victim = Victim(ceph, place, "fill", "10")
    until(lambda: victim.line() == "purging", 60, "the purge begins", every=0)
    for _ in range(after):
        victim.line()
    victim.kill()
    ours.volumes.attend(place)
    until(lambda: _purged(ours, place), 60, "the trash is empty", lambda: str(_trash(ceph, place)))
    with at(ceph, place) as pool:
        assert not unexplained(pool)
        assert processes(pool) == {ours.client()}


def _purged(process: Provisioner, place: Place) -> bool:
    process.purge()
    return process.store.backlog(place) == 0


def test_a_large_image_is_removed_to_its_last_object(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    volume = ours.create(place, "pvc-1", layout=Layout(frozenset({"layering"}), object_size=64 * 1024), size=32 << 20)
    write(ceph, place, "pvc-1", b"x" * (32 << 20))
    ours.delete(place, "pvc-1")
    assert ours.purge() == (1, 0)
    with at(ceph, place) as pool:
        assert not [name for name in objects(pool) if volume.image_id in name]


def test_a_process_that_ends_is_on_no_list_and_not_fenced(ceph: Ceph, place: Place) -> None:
    process = Provisioner(ceph.config())
    process.create(place, "pvc-1")
    address = process.address()
    with at(ceph, place) as pool:
        assert processes(pool) == {process.client()}
        process.close()
        assert processes(pool) == set()
        assert not list(_locks(pool))
    assert address not in blocklisted(ceph)


def _locks(pool: rados.Ioctx) -> list[str]:
    return [name for name, _ in pool.get_xattrs("ceph-provisioner.processes") if name.startswith("lock.")]


def test_the_dead_of_other_hosts_are_buried_by_the_purge(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    ours.create(place, "pvc-1")
    entry = b'{"address":"127.0.0.1:0/424242","identity":"elsewhere/boot","pid":1,"started":"1","pid_namespace":"pid:[1]"}'
    with at(ceph, place) as pool:
        set_omap(pool, "ceph-provisioner.processes", {"999999": entry, "888888": b"not ours"})
        ours.purge()
        assert set(omap(pool, "ceph-provisioner.processes")) == {str(ours.client()), "888888"}
    assert "127.0.0.1:0/424242" in blocklisted(ceph)


def test_an_image_of_the_trash_is_not_found_under_its_old_name(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1").image_id
    ours.delete(place, "pvc-1")
    with at(ceph, place) as pool:
        again = ours.create(place, "pvc-1").image_id
        assert image_id(pool, "pvc-1") == again != made
