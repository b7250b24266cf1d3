"""What nobody asks for any more is tidied up, and chains of clones are kept short, in the background. Takes about 40 s."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import rbd

from provisioner.ceph import ancestry, clones, flatten, names, reaper, registry
from provisioner.ceph import index as name_index
from provisioner.ceph.users import osd_caps
from provisioner.core.errors import Conflict
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Entry, Layout
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, image_id, index, omap, read, set_omap, unexplained, write
from tests.harness.waiting import until

SHALLOW = Layout(frozenset({"layering", "exclusive-lock", "object-map", "fast-diff"}))


def _names(ceph: Ceph, place: Place) -> list[str]:
    with at(ceph, place) as pool:
        return sorted(key.removeprefix("name_") for key in omap(pool, "rbd_directory") if key.startswith("name_"))


def test_a_tombstone_stays_while_it_has_snapshots_and_then_goes(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    made = homely.create(place, "src").image_id
    taken = [homely.snapshot(place, "src", f"s{number}") for number in range(2)]
    homely.delete(place, "src")
    assert homely.reap() == reaper.Reap(kept=1)
    homely.snapshots.delete(taken[0].id)
    assert homely.reap() == reaper.Reap(kept=1)
    assert homely.purge() == (0, 0)
    homely.snapshots.delete(taken[1].id)
    assert _names(ceph, place) == [names.DEAD + made]
    assert homely.reap() == reaper.Reap(tombstones=1)
    assert _names(ceph, place) == []
    assert homely.purge() == (1, 0)
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_a_tombstone_with_a_snapshot_made_by_hand_stays(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    taken = homely.snapshot(place, "src", "monday")
    homely.delete(place, "src")
    dead = _names(ceph, place)[0]
    with at(ceph, place) as pool, rbd.Image(pool, dead) as image:
        image.create_snap("by-hand")
    homely.snapshots.delete(taken.id)
    assert homely.reap() == reaper.Reap(kept=1)
    with at(ceph, place) as pool, rbd.Image(pool, dead) as image:
        image.remove_snap("by-hand")
    assert homely.reap() == reaper.Reap(tombstones=1)


def test_a_tombstone_whose_snapshot_has_clones_goes_to_the_trash_and_stays_there_for_them(
    ceph: Ceph, homely: Provisioner, place: Place
) -> None:
    homely.create(place, "src")
    write(ceph, place, "src", b"content")
    taken = homely.snapshot(place, "src", "monday")
    homely.clone(place, "new", taken.id)
    homely.delete(place, "src")
    homely.snapshots.delete(taken.id)
    assert homely.reap() == reaper.Reap(tombstones=1)
    assert homely.purge() == (0, 1)
    assert read(ceph, place, "new", 7) == b"content"
    homely.delete(place, "new")
    homely.purge()
    assert homely.purge()[1] == 0
    with at(ceph, place) as pool:
        assert omap(pool, "rbd_trash") == {}
        assert not unexplained(pool)


def test_what_a_dead_builder_left_is_scrapped(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    taken = homely.snapshot(place, "src", "monday")
    with at(ceph, place) as pool:
        with rbd.Image(pool, "src") as image:
            image.protect_snap("monday")
        rbd.RBD().clone(pool, "src", "monday", pool, names.NEW + 32 * "0", features=61)
        pool.execute("rbd_directory", "rbd", "dir_add_image", _text(names.NEW + 32 * "1") + _text("0badc0ffee"))
    assert homely.listed(place) == ["src"]
    assert homely.reap() == reaper.Reap(scrapped=2)
    assert _names(ceph, place) == ["src"]
    assert homely.purge() == (1, 0)
    with at(ceph, place) as pool:
        assert not unexplained(pool)
        assert [name for name, _ in pool.get_xattrs(registry.PROCESSES)] == [f"lock.process.{homely.client()}"]
    assert homely.snapshots.get(taken.id)


def _text(word: str) -> bytes:
    return len(word).to_bytes(4, "little") + word.encode()


def test_what_a_living_builder_is_at_is_left_alone(ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    twin.volumes.attend(place)
    name = names.NEW + 32 * "0"
    with at(ceph, place) as pool:
        rbd.RBD().create(pool, name, GIB, features=61)
    for builder in (twin, homely):  # a process's own reaper, too
        with builder.places.enrolled(place, None) as room, room.registry.turn(room.pool, clones.lock_of(name), 60) as turn:
            assert turn is not None
            assert homely.reap() == reaper.Reap()
    assert homely.reap() == reaper.Reap(scrapped=1)


def test_a_momentary_snapshot_of_a_dead_builder_goes_and_one_of_a_living_stays(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place
) -> None:
    made = homely.create(place, "src").image_id
    twin.volumes.attend(place)
    with at(ceph, place) as pool:
        with rbd.Image(pool, "src") as image:
            image.create_snap("cp.src.dead")
            image.create_snap("cp.src.alive")
        notes = {"dead": 999999, "alive": twin.client()}
        set_omap(pool, clones.BUILDS, {key: json.dumps({"image_id": made, "by": by}).encode() for key, by in notes.items()})
        set_omap(pool, clones.BUILDS, {"garbled": b"?"})
        assert homely.reap() == reaper.Reap(scrapped=2)
        assert list(omap(pool, clones.BUILDS)) == ["alive"]
        with rbd.Image(pool, "src", read_only=True) as image:
            assert [each["name"] for each in image.list_snaps()] == ["cp.src.alive"]


def test_entries_that_stand_for_nothing_go_once_nobody_can_be_making_it(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place
) -> None:
    made = homely.create(place, "src").image_id
    taken = homely.snapshot(place, "src", "monday")
    twin.volumes.attend(place)
    with at(ceph, place) as pool:
        for name, by in (("dead", 999999), ("alive", twin.client())):
            assert name_index.put(pool, Entry(name, VolumeId(place, "src"), made, by), None)
        assert homely.reap() == reaper.Reap(entries=1)
        assert index(pool).keys() == {"monday", "alive"}
    assert homely.snapshots.get(taken.id)


def test_only_one_process_tidies_up_at_a_time(homely: Provisioner, twin: Provisioner, place: Place) -> None:
    homely.create(place, "src")
    twin.volumes.attend(place)
    with twin.places.enrolled(place, None) as room, room.registry.turn(room.pool, reaper.LOCK) as turn:
        assert turn is not None
        assert homely.reap().skipped
    assert not homely.reap().skipped


# --- flattening ---


def _chain(process: Provisioner, place: Place, length: int) -> None:
    """Volumes v0, v1 ..., each a clone of the one before."""
    process.create(place, "v0", size=GIB // 16)
    for number in range(1, length + 1):
        process.clone(place, f"v{number}", VolumeId(place, f"v{number - 1}"), GIB // 16)


def _depth(ceph: Ceph, process: Provisioner, place: Place, name: str) -> int:
    with process.places.enrolled(place, None) as room:
        header = clones.marks.read_header(room.pool, image_id(room.pool, name))
        assert header is not None
        return len(ancestry.ancestors(room.connection, header))


@pytest.mark.parametrize(("layout", "flattened"), [(Layout(), "v4"), (SHALLOW, "v5")])
def test_a_long_chain_is_flattened_in_the_background(
    ceph: Ceph, homely: Provisioner, place: Place, layout: Layout, flattened: str
) -> None:
    homely.create(place, "v0", layout=layout)
    write(ceph, place, "v0", b"content")
    for number in range(1, 6):
        homely.clone(place, f"v{number}", VolumeId(place, f"v{number - 1}"), layout=layout)
    with at(ceph, place) as pool:
        listed = omap(pool, flatten.LIST)
        assert list(listed) == [image_id(pool, flattened)]
        assert json.loads(listed[image_id(pool, flattened)])["volume"] == str(VolumeId(place, flattened))
    assert _depth(ceph, homely, place, "v5") == 5
    assert homely.flatten() == 1
    assert _depth(ceph, homely, place, flattened) == 0
    assert _depth(ceph, homely, place, "v5") == (1 if flattened == "v4" else 0)
    assert read(ceph, place, "v5", 7) == b"content"
    assert homely.flatten() == 0
    with at(ceph, place) as pool:
        assert omap(pool, flatten.LIST) == {}


def test_before_the_kernel_s_limit_a_clone_waits_for_the_flattening_and_is_told_of_it(
    ceph: Ceph, homely: Provisioner, place: Place
) -> None:
    _chain(homely, place, 15)
    with pytest.raises(Conflict, match=r"15 times over; flatten of .*v15 waits or runs since .*, 0 %"):
        homely.clone(place, "v16", VolumeId(place, "v15"))
    while homely.flatten():
        pass
    homely.clone(place, "v16", VolumeId(place, "v15"))
    assert _depth(ceph, homely, place, "v16") == 1


def test_flattening_is_told_as_it_goes_and_stops_when_asked(ceph: Ceph, homely: Provisioner, place: Place) -> None:
    volume = _large_clone(ceph, homely, place)
    told: list[tuple[str, int]] = []
    looks = iter([True, False])
    for _, done in homely.store.flatten(lambda: next(looks, False), lambda *each: told.append(each)):
        assert isinstance(done, flatten.Walk)
        assert done.flattened == 0
    with at(ceph, place) as pool:
        assert list(omap(pool, flatten.LIST)) == [volume.image_id], "it goes on later"
    assert homely.flatten() == 1


def _large_clone(ceph: Ceph, process: Provisioner, place: Place):  # type: ignore[no-untyped-def]
    """A clone, on the list, of so many objects that flattening it takes seconds."""
    small = Layout(object_size=4096)
    process.create(place, "src", 64 << 20, small)
    volume = process.clone(place, "new", VolumeId(place, "src"), 64 << 20, small)
    with at(ceph, place) as pool:
        flatten.ask(pool, volume.image_id, str(volume.id))
    return volume


def test_a_volume_is_deleted_while_it_is_flattened(ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place) -> None:
    _large_clone(ceph, homely, place)
    begun = threading.Event()
    twin.volumes.attend(place)

    def go_on() -> bool:
        begun.set()
        return True

    with ThreadPoolExecutor(1) as threads:
        walk = threads.submit(lambda: list(twin.store.flatten(go_on, lambda *_: None)))
        assert begun.wait(60)
        until(lambda: _is_open(ceph, place, "new") or walk.done(), 60, "the image is open", every=0.01)
        homely.delete(place, "new")
        walk.result(60)
    assert homely.listed(place) == ["src"]
    with at(ceph, place) as pool:
        assert omap(pool, flatten.LIST) == {}
    assert homely.purge() == (1, 0)


def _is_open(ceph: Ceph, place: Place, name: str) -> bool:
    with at(ceph, place) as pool, rbd.Image(pool, name, read_only=True) as image:
        return any(True for _ in image.watchers_list())


def test_a_process_that_is_away_does_not_keep_others_from_flattening(
    ceph: Ceph, homely: Provisioner, twin: Provisioner, place: Place
) -> None:
    _large_clone(ceph, homely, place)
    twin.volumes.attend(place)
    with twin.places.enrolled(place, None) as room:
        assert registry.Turn(room.pool, flatten.LOCK, "its own", 60).begin()
    assert homely.flatten() == 0, "another is at it"
    twin.die()
    twin.places.leave()
    with at(ceph, place) as pool:
        registry.wire.break_lock(pool, registry.PROCESSES, flatten.LOCK, twin.client(), "its own")
    assert homely.flatten() == 1


# --- users of clones ---


def test_a_clone_s_user_reads_through_to_every_ancestor_and_keeps_its_key_when_it_is_flat(
    ceph: Ceph, homely: Provisioner, place: Place
) -> None:
    homely.create(place, "v0")
    write(ceph, place, "v0", b"content")
    for number in range(1, 4):
        homely.clone(place, f"v{number}", VolumeId(place, f"v{number - 1}"))
    volume = homely.volumes.get(VolumeId(place, "v3"))
    grant = homely.volumes.publish(volume)
    assert _content(ceph, place, grant.credentials.user, grant.credentials.key, "v3") == b"content"
    with pytest.raises(rbd.PermissionError):
        _content(ceph, place, grant.credentials.user, grant.credentials.key, "v2")
    with at(ceph, place) as pool:
        flatten.ask(pool, volume.image_id, str(volume.id))
    assert homely.flatten() == 1
    assert homely.volumes.publish(volume) == grant
    assert "rbd_header" in osd_caps(volume, 1)


def _content(ceph: Ceph, place: Place, user: str, key: str, name: str) -> bytes:
    import rados

    handle = rados.Rados(conffile=ceph.conf, name=f"client.{user}", conf={"key": key})
    handle.connect()
    try:
        with handle.open_ioctx(place.pool) as pool:
            pool.set_namespace(place.namespace)
            with rbd.Image(pool, name, read_only=True) as image:
                content: bytes = image.read(0, 7)
                return content
    finally:
        handle.shutdown()
