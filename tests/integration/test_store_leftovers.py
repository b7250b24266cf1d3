"""Snapshots that killed processes left without a mark: they go if nobody comes back, and never with one that was told of.

About 40 seconds.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import rados
import rbd

from provisioner.ceph import snapshot_removal, snapshots, unopened
from provisioner.ceph.reaper import Reaper
from provisioner.ceph.snapshot_headers import Album, SnapshotMark, read_album
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.core.errors import Conflict, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Entry, Snapshot
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, at_home, index, omap
from tests.harness.waiting import until

DEAD = 999999
"""A client that is on no list."""


@dataclass(frozen=True)
class Source:
    """An image that snapshots are of."""

    ceph: Ceph
    place: Place
    name: str
    image_id: str

    def left(self, name: str, by: int = DEAD) -> Entry:
        """What a process leaves that is killed between the snapshot and its mark."""
        with at(self.ceph, self.place) as pool:
            entry = snapshots.index.put(pool, Entry(name, VolumeId(self.place, self.name), self.image_id, by), None)
            assert entry is not None
            with rbd.Image(pool, self.name) as image:
                image.create_snap(entry.id.snapshot)
        return entry

    def album(self) -> Album:
        with at(self.ceph, self.place) as pool:
            album = read_album(pool, self.image_id)
        assert album is not None
        return album

    def there(self) -> dict[str, bool]:
        """Its snapshots, and whether they are marked."""
        album = self.album()
        return {each.name: album.mark_of(each) is not None for each in album.snapshots}

    def is_clean(self) -> bool:
        """No snapshot, claim, mark or condemnation is left."""
        with at(self.ceph, self.place) as pool:
            told = [key for key in omap(pool, f"rbd_header.{self.image_id}") if "snapshot" in key or ".going." in key]
            return not told and not index(pool) and not self.there()


@pytest.fixture
def peer(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """Another process of ours, with the same home."""
    process = Provisioner(at_home(ceph, place))
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def homely(homely: Provisioner) -> Provisioner:
    """One that does not wait before it tidies up."""
    homely.store._reaper = Reaper(index_every=0, unmarked_for=0)
    return homely


@pytest.fixture
def src(ceph: Ceph, homely: Provisioner, place: Place) -> Source:
    return Source(ceph, place, "src", homely.create(place, "src").image_id)


def test_one_whose_asker_is_dead_goes_and_one_whose_asker_lives_stays(
    homely: Provisioner, peer: Provisioner, place: Place, src: Source
) -> None:
    whole = homely.snapshot(place, "src", "whole")
    peer.volumes.attend(place)
    src.left("of-the-dead")
    src.left("of-the-living", peer.client())
    assert homely.reap().entries == 1
    assert src.there() == {"whole": True, "of-the-living": False}
    assert homely.snapshots.get(whole.id) == whole
    assert peer.snapshot(place, "src", "of-the-living").id.image_id == src.image_id


def test_it_is_left_for_a_while_to_whoever_asks_again(homely: Provisioner, src: Source) -> None:
    src.left("monday")
    homely.store._reaper = Reaper(index_every=0, unmarked_for=3)
    assert homely.reap().entries == 0
    assert src.there() == {"monday": False}
    until(lambda: homely.reap().entries == 1, 60, "it goes when nobody came")
    assert src.is_clean()


@pytest.mark.parametrize("name", ["monday", "Ü / @"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("then", ["reaped", "asked for"])
def test_a_removal_that_was_killed_is_gone_on_with(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, src: Source, name: str, steps: int, then: str
) -> None:
    """After the condemnation, after the snapshot, after the condemnation's end."""
    entry, album = src.left(name), src.album()
    with at(ceph, place) as pool:
        assert snapshot_removal._condemned(pool, album, album.snapshots[0])
        if steps > 1:
            with rbd.Image(pool, "src") as image:
                image.remove_snap(entry.id.snapshot)
    if steps > 2:
        with homely.places.enrolled(place, None) as room:
            snapshot_removal.finish(room, src.image_id, entry.id.snapshot)
    if then == "reaped":
        assert homely.reap().entries == 1
    else:
        taken = peer.snapshot(place, "src", name)
        assert src.there() == {taken.id.snapshot: True}
        assert homely.reap().entries == 0
        peer.snapshots.delete(taken.id)
    assert src.is_clean()


def test_a_stalled_asker_marks_nothing_that_went_meanwhile(
    homely: Provisioner, peer: Provisioner, place: Place, src: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = src.left("monday")
    gone = iter([lambda: CephSnapshots(homely.places).scrap(entry, None)])

    def stalled(*given: object) -> SnapshotMark:
        for go in gone:
            assert go()
        return SnapshotMark(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "SnapshotMark", stalled)
    with pytest.raises(Unavailable, match="taken away while it was made"):
        CephSnapshots(peer.places).take(entry, None)
    assert src.is_clean()
    taken = peer.snapshot(place, "src", "monday")
    assert src.there() == {"monday": True}
    assert homely.snapshots.get(taken.id) == taken


@pytest.mark.parametrize("by", ["librbd", "us"])
def test_what_came_in_place_of_the_one_just_taken_is_not_told_of(
    ceph: Ceph, homely: Provisioner, peer: Provisioner, place: Place, src: Source, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Its asker stalled for so long that another took it away, and left a half-made one of that name in its turn."""
    left: list[int] = []

    def stalled(pool: rados.Ioctx, image_id: str) -> Album | None:
        album = read_album(pool, image_id)
        if not left and album is not None and album.named("monday"):
            with peer.places.enrolled(place, None) as room:
                assert snapshot_removal.take_away(room, src.image_id, "monday")
            with at(ceph, place) as admin, rbd.Image(admin, "src") as image:
                image.create_snap("monday")
                left.append(image.snap_get_id("monday"))
            album = read_album(pool, image_id)
        return album

    if by == "librbd":
        monkeypatch.setattr(unopened, "take", lambda *_: None)
    monkeypatch.setattr(snapshots if by == "librbd" else unopened, "read_album", stalled)
    taken = homely.snapshot(place, "src", "monday")
    assert left
    assert [each.number > left[0] for each in src.album().snapshots] == [True]
    assert src.there() == {"monday": True}
    assert homely.snapshots.get(taken.id) == taken


def test_a_condemned_one_that_its_asker_comes_back_for_is_taken_anew(
    homely: Provisioner, peer: Provisioner, place: Place, src: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = src.left("monday")
    condemned, may_go_on = threading.Event(), threading.Event()
    real = snapshot_removal._condemned

    def slowly(*given: object) -> bool:
        done: bool = real(*given)  # type: ignore[arg-type]
        if not condemned.is_set():  # the first only: its asker may condemn it, too
            condemned.set()
            assert may_go_on.wait(60)
        return done

    monkeypatch.setattr(snapshot_removal, "_condemned", slowly)
    with ThreadPoolExecutor(1) as threads:
        walk = threads.submit(CephSnapshots(homely.places).scrap, entry, None)
        assert condemned.wait(60)
        taken = peer.snapshot(place, "src", "monday")
        may_go_on.set()
        assert not walk.result(30), "the claim is another's by now"
    assert src.there() == {"monday": True}
    assert peer.snapshots.get(taken.id) == taken


def test_repeats_that_race_the_reaper_are_told_only_of_what_stays(
    homely: Provisioner, peer: Provisioner, place: Place, src: Source
) -> None:
    wanted = [f"s{number}" for number in range(12)]
    for name in wanted:
        src.left(name)
    with ThreadPoolExecutor(2) as threads:
        walks = threads.submit(lambda: [homely.reap() for _ in range(6)])
        taken = list(threads.map(lambda name: _again(lambda: peer.snapshot(place, "src", name)), wanted))
        walks.result(120)
    homely.reap()
    assert src.there() == dict.fromkeys(wanted, True)
    assert [peer.snapshots.get(each.id) for each in taken] == taken


def _again(ask: Callable[[], Snapshot]) -> Snapshot:
    """As every asker does."""

    def answered() -> Snapshot | None:
        try:
            return ask()
        except (Unavailable, Conflict):
            return None

    return until(answered, 60, "it is taken")


def test_a_name_that_is_asked_for_of_another_volume_leaves_nothing_on_the_first(
    homely: Provisioner, peer: Provisioner, place: Place, src: Source
) -> None:
    other = homely.create(place, "other").image_id
    src.left("monday")
    assert peer.snapshot(place, "other", "monday").id.image_id == other
    assert src.there() == {}
    peer.delete(place, "src")
    assert peer.listed(place) == ["other"]
