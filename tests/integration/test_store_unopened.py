"""Snapshots of images that nobody has open: as librbd takes them, and left to it where anybody might write. Takes about 20 s."""

import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pkgutil import resolve_name
from typing import cast

import pytest
import rados
import rbd

from provisioner.ceph import headers, snapshots, unopened, wire
from provisioner.ceph.places import Room
from provisioner.ceph.snapshot_headers import is_whole, read_album
from provisioner.core.attachments import Node
from provisioner.core.errors import NotFound
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import MIB, Layout, SizeRange, Snapshot
from provisioner.core.uses import Mode, Use
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, image_id, index, omap, rbd_snapshots, unexplained

NAME, SNAPSHOT, OBJECT = "pvc-1", "monday", 4 * MIB
CURRENT = (1 << 64) - 2
"""What Ceph calls the image itself where the number of a snapshot is asked for."""
LAYOUTS = [
    Layout(),
    Layout(features=frozenset({"layering", "exclusive-lock"})),
    Layout(features=frozenset({"layering", "exclusive-lock", "object-map", "fast-diff"}), object_size=MIB),
]
NOT_FOR_US = [
    Layout(features=frozenset({"layering"})),
    Layout(stripe_unit=MIB, stripe_count=2),
]


@pytest.fixture
def pool(ceph: Ceph, place: Place) -> Iterator[rados.Ioctx]:
    with at(ceph, place) as opened:
        yield opened


@pytest.fixture
def room(homely: Provisioner, place: Place) -> Iterator[Room]:
    with homely.places.enrolled(place, None) as entered:
        yield entered


def _write(pool: rados.Ioctx, name: str, *numbers: int, content: bytes = b"content") -> None:
    """Write into the objects of these numbers, of 4 MiB each."""
    with rbd.Image(pool, name) as image:
        for number in numbers:
            image.write(content, number * OBJECT)


def _changed(pool: rados.Ioctx, name: str, since: str | None, snapshot: str | None = None) -> set[int]:
    """Numbers of the objects that changed, as the object maps tell."""
    found: set[int] = set()
    with rbd.Image(pool, name, snapshot=snapshot, read_only=True) as image:
        image.diff_iterate(0, image.size(), since, lambda at, *_: found.add(at // OBJECT), whole_object=True)
    return found


def _is_sound(ceph: Ceph, place: Place, *specs: str) -> bool:
    """Have Ceph's own tool compare the object maps with the objects."""
    for spec in specs:
        image = f"{place.pool}/{place.namespace}/{spec}"
        common = ["rbd", "--conf", ceph.conf]
        subprocess.run([*common, "object-map", "check", "--no-progress", image], check=True, capture_output=True)
        told = subprocess.run([*common, "info", image], check=True, capture_output=True, text=True).stdout
        if "invalid" in told:
            return False
    return True


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{len(layout.features)} features")
def test_a_snapshot_is_as_librbd_takes_it(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, layout: Layout
) -> None:
    for name in (NAME, "other"):
        homely.create(place, name, layout=layout)
        _write(pool, name, 0, 3)
    with rbd.Image(pool, "other") as image:
        image.create_snap(SNAPSHOT)
    assert unopened.take(room, image_id(pool, NAME), SNAPSHOT) is not None
    assert _shape(pool, NAME) == _shape(pool, "other")


def test_it_keeps_what_was_there_and_the_maps_tell_what_came_after(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner
) -> None:
    homely.create(place, NAME)
    _write(pool, NAME, 0, 3, content=b"first")
    homely.snapshot(place, NAME, "monday")
    _write(pool, NAME, 3, 5, content=b"later")
    homely.snapshot(place, NAME, "tuesday")
    _write(pool, NAME, 7, content=b"today")
    with rbd.Image(pool, NAME, snapshot="monday", read_only=True) as image:
        assert [image.read(number * OBJECT, 5) for number in (0, 3, 5)] == [b"first", b"first", bytes(5)]
    assert _changed(pool, NAME, None, "monday") == {0, 3}
    assert _changed(pool, NAME, "monday", "tuesday") == {3, 5}
    assert _changed(pool, NAME, "monday") == {3, 5, 7}
    assert _changed(pool, NAME, "tuesday") == {7}
    assert _is_sound(ceph, place, NAME, f"{NAME}@monday", f"{NAME}@tuesday")


def test_when_the_older_one_is_deleted_the_maps_tell_the_changes_of_both(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner
) -> None:
    homely.create(place, NAME)
    taken = {}
    for number, name in enumerate(["monday", "tuesday", "wednesday"]):
        taken[name] = homely.snapshot(place, NAME, name).id
        _write(pool, NAME, number)
    homely.snapshots.delete(taken["tuesday"])
    assert _changed(pool, NAME, "monday", "wednesday") == {0, 1}
    homely.snapshots.delete(taken["wednesday"])
    assert _changed(pool, NAME, "monday") == {0, 1, 2}
    assert _is_sound(ceph, place, NAME, f"{NAME}@monday")


@pytest.mark.parametrize("writes", [False, True], ids=["it has not written", "it has the lock"])
def test_while_a_client_has_the_image_open_librbd_takes_it(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, *, writes: bool
) -> None:
    homely.create(place, NAME)
    with rbd.Image(pool, NAME) as image:
        if writes:
            image.write(b"first", 0)
        assert unopened.take(room, image_id(pool, NAME), SNAPSHOT) is None
        assert list(image.list_snaps()) == []
        homely.snapshot(place, NAME, SNAPSHOT)
        image.write(b"later", 0)
    with rbd.Image(pool, NAME, snapshot=SNAPSHOT, read_only=True) as image:
        assert image.read(0, 5) == (b"first" if writes else bytes(5))
    assert _changed(pool, NAME, SNAPSHOT) == {0}
    assert unexplained(pool) == set()


def _meet(monkeypatch: pytest.MonkeyPatch, before: str, act: Callable[[], object], time: int = 1) -> None:
    """Have something done before a step is done for the first time, or that one."""
    step, calls = cast("Callable[..., object]", resolve_name(f"provisioner.ceph.{before}")), count(1)

    def met(*arguments: object) -> object:
        if next(calls) == time:
            act()
        return step(*arguments)

    monkeypatch.setattr(f"provisioner.ceph.{before}", met)


def _open_after_the_first_look(monkeypatch: pytest.MonkeyPatch, stack: ExitStack, pool: rados.Ioctx) -> list[rbd.Image]:
    """Have a client open the image when nobody was found to have it open; it is given once it is there."""
    look, opened = unopened._is_open, list[rbd.Image]()

    def looked(room: rados.Ioctx, image: str) -> bool:
        answer = look(room, image)
        if not opened:
            opened.append(stack.enter_context(rbd.Image(pool, NAME)))
        return answer

    monkeypatch.setattr(unopened, "_is_open", looked)
    return opened


def test_whoever_opens_the_image_meanwhile_is_seen_at_the_end(
    pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    homely.create(place, NAME)
    _write(pool, NAME, 0, content=b"first")
    with ExitStack() as stack:
        clients = _open_after_the_first_look(monkeypatch, stack, pool)
        homely.snapshot(place, NAME, SNAPSHOT)
        clients[0].write(b"later", 0)
    with rbd.Image(pool, NAME, snapshot=SNAPSHOT, read_only=True) as image:
        assert image.read(0, 5) == b"first"
    assert _changed(pool, NAME, None, SNAPSHOT) == {0}
    assert _changed(pool, NAME, SNAPSHOT) == {0}


@pytest.mark.parametrize("before", ["unopened._add", "unopened._map", "unopened._is_open"])
def test_whoever_begins_to_write_between_two_steps_has_librbd_take_it(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Who had the image open before knows nothing of the snapshot, and comes and goes unseen."""
    homely.create(place, NAME)
    _write(pool, NAME, 0, content=b"first")
    homely.snapshot(place, NAME, "before")

    with ExitStack() as stack:
        writers = _open_after_the_first_look(monkeypatch, stack, pool)

        def comes_and_goes() -> None:
            writers[0].write(b"other", OBJECT)
            stack.close()

        _meet(monkeypatch, before, comes_and_goes, time=2 if before == "unopened._is_open" else 1)
        homely.snapshot(place, NAME, SNAPSHOT)
    _write(pool, NAME, 2, content=b"later")
    with rbd.Image(pool, NAME, snapshot=SNAPSHOT, read_only=True) as image:
        assert [image.read(number * OBJECT, 5) for number in range(3)] == [b"first", b"other", bytes(5)]
    assert rbd_snapshots(ceph, place, NAME) == ["before", SNAPSHOT]
    assert _changed(pool, NAME, None, SNAPSHOT) == {0, 1}
    assert _changed(pool, NAME, "before", SNAPSHOT) >= {1}
    assert _changed(pool, NAME, SNAPSHOT) == {2}
    assert _changed(pool, NAME, None) == {0, 1, 2}
    assert unexplained(pool) == set()


@pytest.mark.parametrize("before", ["unopened._add", "unopened._map", "unopened.unlocked.done", "headers.tell_watchers"])
def test_an_older_one_that_is_deleted_between_two_steps_leaves_what_it_knew_of_changes(
    pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """librbd has the map of the next one take it over, and forgets it where there is none."""
    homely.create(place, NAME)
    _write(pool, NAME, 0, 1)
    homely.snapshot(place, NAME, "oldest")
    _write(pool, NAME, 1)
    older = homely.snapshot(place, NAME, "older").id
    _meet(monkeypatch, before, lambda: homely.snapshots.delete(older))
    homely.snapshot(place, NAME, SNAPSHOT)
    assert _changed(pool, NAME, "oldest", SNAPSHOT) >= {1}
    assert _changed(pool, NAME, "oldest") >= {1}
    assert _changed(pool, NAME, SNAPSHOT) == set()
    assert unexplained(pool) == set()


@pytest.mark.parametrize("before", ["unopened._add", "unopened._map", "unopened._is_open"])
def test_of_a_volume_that_is_deleted_meanwhile_nothing_is_left(
    pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    homely.create(place, NAME)

    def vanishes() -> None:
        homely.delete(place, NAME)
        homely.purge()

    _meet(monkeypatch, before, vanishes)
    with pytest.raises(NotFound):
        homely.snapshot(place, NAME, SNAPSHOT)
    assert unexplained(pool) == set()
    assert index(pool) == {}


def test_one_that_is_taken_away_while_it_is_made_is_taken_anew(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    homely.create(place, NAME)

    def is_taken_away() -> None:
        with rbd.Image(pool, NAME) as image:
            image.remove_snap(SNAPSHOT)

    _meet(monkeypatch, "unopened.read_album", is_taken_away)
    homely.snapshot(place, NAME, SNAPSHOT)
    assert rbd_snapshots(ceph, place, NAME) == [SNAPSHOT]
    assert unexplained(pool) == set()


def test_what_a_killed_process_s_last_step_leaves_is_not_taken_for_librbd_s(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when librbd has opened the image and not locked it yet: librbd finds it then, and calls that a success."""
    homely.create(place, NAME)
    made, number = image_id(pool, NAME), pool.create_self_managed_snap()

    def last_words() -> None:
        seen = unopened._look(pool, made)
        assert seen is not None
        assert unopened._add(pool, made, seen.version, number, SNAPSHOT) is not None

    monkeypatch.setattr(unopened, "take", lambda *_: None)
    _meet(monkeypatch, "snapshot_removal.last", last_words)
    homely.snapshot(place, NAME, SNAPSHOT)
    album = read_album(pool, made)
    assert album is not None
    assert [each.number for each in album.snapshots] != [number]
    assert all(is_whole(pool, album, each.number) for each in album.snapshots)
    assert unexplained(pool) == set()


@pytest.mark.parametrize("before", ["unopened._add", "unopened._map", "unopened.read_album"])
def test_two_processes_that_take_the_same_at_once_agree(
    ceph: Ceph,
    pool: rados.Ioctx,
    place: Place,
    homely: Provisioner,
    twin: Provisioner,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
) -> None:
    homely.create(place, NAME)
    _write(pool, NAME, 0)
    other: list[Snapshot] = []
    _meet(monkeypatch, before, lambda: other.append(twin.snapshot(place, NAME, SNAPSHOT)))
    assert [homely.snapshot(place, NAME, SNAPSHOT)] == other
    assert rbd_snapshots(ceph, place, NAME) == [SNAPSHOT]
    assert _changed(pool, NAME, None, SNAPSHOT) == {0}
    assert _is_sound(ceph, place, NAME, f"{NAME}@{SNAPSHOT}")
    assert unexplained(pool) == set()


def test_a_step_that_comes_late_does_nothing(pool: rados.Ioctx, place: Place, homely: Provisioner) -> None:
    """As where Ceph stood still, and the asker came again before it was done."""
    homely.create(place, NAME)
    _write(pool, NAME, 0)
    made = image_id(pool, NAME)
    seen, number = unopened._look(pool, made), pool.create_self_managed_snap()
    assert seen is not None
    homely.snapshot(place, NAME, "before")
    _write(pool, NAME, 0)
    assert unopened._add(pool, made, seen.version, number, SNAPSHOT) is None
    assert not unopened._map(pool, made, seen, number)
    assert _changed(pool, NAME, "before") == {0}
    assert unexplained(pool) == set()


def test_the_map_by_which_everything_changed_is_not_written_over(pool: rados.Ioctx, place: Place, homely: Provisioner) -> None:
    """As where somebody takes the snapshot away whose author only paused before its map."""
    homely.create(place, NAME)
    _write(pool, NAME, 0)
    made = image_id(pool, NAME)
    seen, number = unopened._look(pool, made), pool.create_self_managed_snap()
    assert seen is not None
    assert unopened._add(pool, made, seen.version, number, SNAPSHOT) is not None
    headers.make_cautious_map(pool, made, number, GIB // OBJECT)
    cautious = pool.read(headers.map_object(made, number))
    assert not unopened._map(pool, made, seen, number)
    assert pool.read(headers.map_object(made, number)) == cautious


@pytest.mark.parametrize("part", ["rbd_header", "rbd_object_map"])
def test_a_lock_whose_owner_does_not_watch_keeps_it_from_being_taken_unopened(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, part: str
) -> None:
    """Who was cut off may still write, until librbd fences it."""
    homely.create(place, NAME)
    made = image_id(pool, NAME)
    assert wire.lock(pool, f"{part}.{made}", "rbd_lock", "auto 1", "", 0)
    assert unopened.take(room, made, SNAPSHOT) is None
    wire.unlock(pool, f"{part}.{made}", "rbd_lock", "auto 1")
    assert unexplained(pool) == set()


@pytest.mark.parametrize("features", [rbd.RBD_FEATURE_EXCLUSIVE_LOCK, rbd.RBD_FEATURE_FAST_DIFF], ids=["lock", "fast-diff"])
def test_features_that_go_while_it_is_looked_at_leave_it_to_librbd(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, monkeypatch: pytest.MonkeyPatch, features: int
) -> None:
    homely.create(place, NAME, layout=LAYOUTS[2] if features == rbd.RBD_FEATURE_FAST_DIFF else LAYOUTS[1])

    def go() -> None:
        with rbd.Image(pool, NAME) as image:
            image.update_features(features, enabled=False)

    _meet(monkeypatch, "unopened._add", go)
    assert unopened.take(room, image_id(pool, NAME), SNAPSHOT) is None
    assert unexplained(pool) == set()


def test_whoever_writes_before_the_mark_has_librbd_take_it(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    homely.create(place, NAME)
    commit = snapshots.commit

    def met(room: Room, entry: object, **told: object) -> object:
        if "version" in told:
            _write(pool, NAME, 1)
        return commit(room, entry, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "commit", met)
    homely.snapshot(place, NAME, SNAPSHOT)
    _write(pool, NAME, 2)
    assert _changed(pool, NAME, None, SNAPSHOT) == {1}
    assert _changed(pool, NAME, SNAPSHOT) == {2}
    assert _is_sound(ceph, place, NAME, f"{NAME}@{SNAPSHOT}")


@pytest.mark.parametrize("layout", NOT_FOR_US, ids=["no exclusive lock", "striping"])
def test_what_is_not_plain_is_left_to_librbd(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room, layout: Layout
) -> None:
    homely.create(place, NAME, layout=layout)
    _write(pool, NAME, 0)
    assert unopened.take(room, image_id(pool, NAME), SNAPSHOT) is None
    homely.snapshot(place, NAME, SNAPSHOT)
    with rbd.Image(pool, NAME, snapshot=SNAPSHOT, read_only=True) as image:
        assert image.read(0, 7) == b"content"


def test_an_image_with_clones_and_an_attached_one_are_left_to_librbd(
    ceph: Ceph, pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room
) -> None:
    homely.create(place, NAME)
    homely.clone(place, "clone", homely.snapshot(place, NAME, "base").id)
    homely.create(place, "attached")
    homely.attachments.enrol_node(place.cluster, Node("n1"))
    homely.attachments.attach(VolumeId(place, "attached"), "n1", Use(Mode.SINGLE_NODE_WRITER))
    for name in (NAME, "clone", "attached"):
        assert unopened.take(room, image_id(pool, name), SNAPSHOT) is None
        assert SNAPSHOT not in rbd_snapshots(ceph, place, name)


def test_a_lost_object_map_and_one_for_another_size_are_left_to_librbd(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room
) -> None:
    for name in ("lost", "larger"):
        homely.create(place, name)
    pool.remove_object(f"rbd_object_map.{image_id(pool, 'lost')}")
    made = image_id(pool, "larger")
    homely.volumes.expand(VolumeId(place, "larger"), SizeRange(2 * GIB))
    pool.execute(f"rbd_header.{made}", "rbd", "set_size", GIB.to_bytes(8, "little"))
    for name in ("lost", "larger"):
        assert unopened.take(room, image_id(pool, name), SNAPSHOT) is None
        homely.snapshot(place, name, f"{name}-{SNAPSHOT}")


@pytest.mark.parametrize("kept", [20, 40], ids=["no bits", "no sums"])
def test_a_garbled_object_map_is_left_to_librbd(pool: rados.Ioctx, place: Place, homely: Provisioner, kept: int) -> None:
    homely.create(place, NAME)
    map_object = f"rbd_object_map.{image_id(pool, NAME)}"
    pool.write_full(map_object, pool.read(map_object)[:kept])
    homely.snapshot(place, NAME, SNAPSHOT)
    homely.volumes.expand(VolumeId(place, NAME), SizeRange(2 * GIB))
    assert unexplained(pool) == set()


def test_an_object_map_that_is_known_to_be_wrong_is_left_to_librbd(
    pool: rados.Ioctx, place: Place, homely: Provisioner, room: Room
) -> None:
    homely.create(place, NAME)
    made, wrong = image_id(pool, NAME), rbd.RBD_FLAG_OBJECT_MAP_INVALID
    pool.execute(f"rbd_header.{made}", "rbd", "set_flags", struct.pack("<QQQ", wrong, wrong, CURRENT))
    assert unopened.take(room, made, SNAPSHOT) is None
    homely.snapshot(place, NAME, SNAPSHOT)


def _shape(pool: rados.Ioctx, name: str) -> tuple[object, ...]:
    """What header and object maps say, but for what differs from one snapshot to the next: its number, its time."""
    made = image_id(pool, name)
    header = omap(pool, f"rbd_header.{made}")
    fields = {key: header.get(key) for key in ("size", "order", "features", "flags", "op_features")}
    (key,) = (each for each in header if each.startswith("snapshot_"))
    number = int(key.removeprefix("snapshot_"), 16)
    assert int.from_bytes(header["snap_seq"], "little") == number
    record = header[key].replace(number.to_bytes(8, "little"), bytes(8))
    maps = [f"rbd_object_map.{made}", f"rbd_object_map.{made}.{number:016x}"]
    has_map = int.from_bytes(header["features"], "little") & rbd.RBD_FEATURE_OBJECT_MAP
    with rbd.Image(pool, name, snapshot=SNAPSHOT, read_only=True) as image:
        seen = (image.size(), image.flags(), image.is_protected_snap(SNAPSHOT))
    return fields, len(record), seen, [pool.read(each) for each in maps if has_map], wire.lockers(pool, f"rbd_header.{made}")
