"""Several processes of ours on the same names: one image each, one answer for all, nobody's image lost. Takes about 25 s."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import rbd

from provisioner.core.errors import AlreadyExists, Conflict, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, Layout, SizeRange, Volume
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, omap, unexplained

T = TypeVar("T")

Shape = tuple[SizeRange, Layout]
SMALL = Layout(frozenset({"layering"}))


def _patiently(act: Callable[[], T]) -> T:
    """As every asker does: again while the answer is to ask again."""
    pause = threading.Event()
    for _ in range(100):
        try:
            return act()
        except (Conflict, Unavailable) as error:
            told = error
            pause.wait(0.05)
    raise told


def _together(*acts: Callable[[], T]) -> list[T | ProvisionerError]:
    """All at once, as far as threads go."""
    gate = threading.Barrier(len(acts))

    def run(act: Callable[[], T]) -> T | ProvisionerError:
        gate.wait(60)
        try:
            return _patiently(act)
        except ProvisionerError as error:
            return error

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(run, acts))


def test_two_processes_make_the_same_hundred_volumes_once(ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place) -> None:
    names = [f"pvc-{number:03}" for number in range(100)]
    with ThreadPoolExecutor(16) as threads:
        asked = {
            (index, name): threads.submit(_patiently, lambda p=process, n=name: p.create(place, n))  # type: ignore[misc]
            for name in names
            for index, process in enumerate((ours, peer))
        }
        made = {key: future.result(60) for key, future in asked.items()}
    assert all(made[0, name] == made[1, name] for name in names)
    assert len({volume.image_id for volume in made.values()}) == 100
    assert ceph.images(place.pool, place.namespace) == names
    with at(ceph, place) as pool:
        for name in names:
            header = omap(pool, f"rbd_header.{made[0, name].image_id}")
            assert [key for key in header if key.endswith("fingerprint")] == ["metadata_ceph-provisioner.fingerprint"]
        assert not unexplained(pool)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((SizeRange(GIB, GIB), Layout()), (SizeRange(2 * GIB), Layout())),
        ((SizeRange(GIB), Layout()), (SizeRange(GIB), SMALL)),
        ((SizeRange(GIB), Layout()), (SizeRange(GIB), Layout(object_size=4 << 20))),
        ((SizeRange(2 * GIB), SMALL), (SizeRange(GIB), Layout(stripe_unit=65536, stripe_count=2))),
    ],
)
def test_of_two_different_requests_for_a_name_exactly_one_wins(
    ceph: Ceph,
    ours: Provisioner,
    peer: Provisioner,
    place: Place,
    first: tuple[SizeRange, Layout],
    second: tuple[SizeRange, Layout],
) -> None:
    for number in range(12):
        one, other = (CreateRequest(f"pvc-{number}", place, *each) for each in (first, second))
        answers = _together(lambda r=one: ours.volumes.create(r), lambda r=other: peer.volumes.create(r))  # type: ignore[misc]
        won = [answer for answer in answers if isinstance(answer, Volume)]
        lost = [answer for answer in answers if isinstance(answer, AlreadyExists)]
        assert (len(won), len(lost)) == (1, 1), answers
        winner = one if answers[0] is won[0] else other
        assert ours.volumes.get(won[0].id) == won[0]
        assert (won[0].size, dict(won[0].asked)) == (winner.size.required, winner.layout.described())
        with at(ceph, place) as pool, rbd.Image(pool, one.name, read_only=True) as image:
            assert image.size() == winner.size.required
            assert bool(image.features() & rbd.RBD_FEATURE_OBJECT_MAP) == ("object-map" in winner.layout.features)


def test_many_threads_of_two_processes_delete_once(ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place) -> None:
    for number in range(10):
        made = ours.create(place, f"pvc-{number}")
        answers = _together(*[lambda p=process, m=made: p.volumes.delete(m.id) for process in (ours, peer) for _ in range(3)])  # type: ignore[misc]
        assert answers == [None] * 6
    assert ours.listed(place) == []
    while ours.purge()[0]:
        pass
    with at(ceph, place) as pool:
        assert not unexplained(pool)
        assert omap(pool, "rbd_trash") == {}


def test_a_delete_and_a_create_of_the_same_name_never_take_the_new_image_for_the_old(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place
) -> None:
    for number in range(15):
        name = f"pvc-{number}"
        old = ours.create(place, name)

        def make(name: str = name, old: Volume = old) -> Volume:
            while (made := peer.create(place, name)).image_id == old.image_id:
                pass
            return made

        def remove(old: Volume = old) -> None:
            ours.volumes.delete(old.id, image_id=old.image_id)
            ours.volumes.delete(old.id, image_id=old.image_id)

        made, _ = _together(make, remove)
        assert isinstance(made, Volume)
        assert peer.volumes.get(made.id) == made, "the image that was made last is there"
    with at(ceph, place) as pool:
        ours.purge()
        assert not unexplained(pool)


def test_expansions_that_race_end_at_the_largest(ours: Provisioner, peer: Provisioner, place: Place) -> None:
    made = ours.create(place, "pvc-1")
    sizes = [2 * GIB, 5 * GIB, 3 * GIB, 4 * GIB]
    acts = [
        lambda p=process, s=size: p.volumes.expand(made.id, SizeRange(s)).size  # type: ignore[misc]
        for process, size in zip((ours, peer, ours, peer), sizes, strict=True)
    ]
    answers = _together(*acts)
    assert all(isinstance(answer, int) and answer >= size for answer, size in zip(answers, sizes, strict=True)), answers
    assert ours.volumes.get(made.id).size == 5 * GIB


def test_an_expansion_and_a_delete_that_race_leave_a_volume_or_nothing(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place
) -> None:
    for number in range(10):
        made = ours.create(place, f"pvc-{number}")
        grown, gone = _together(
            lambda m=made: ours.volumes.expand(m.id, SizeRange(2 * GIB)),  # type: ignore[misc]
            lambda m=made: peer.volumes.delete(m.id),  # type: ignore[misc]
        )
        assert isinstance(grown, (Volume, NotFound)), grown
        assert gone is None, gone
    assert ours.listed(place) == []
    ours.purge()
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_a_name_asked_for_by_many_threads_of_a_process_is_made_in_one_go(ours: Provisioner, place: Place) -> None:
    answers = _together(*[lambda: ours.create(place, "pvc-1") for _ in range(16)])
    assert len({answer.image_id for answer in answers if isinstance(answer, Volume)}) == 1
    assert all(answer == answers[0] for answer in answers)


def test_abandoning_while_another_process_still_makes_it_ends_in_one_of_both(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place
) -> None:
    for number in range(15):
        name = f"pvc-{number}"
        made, _ = _together(
            lambda n=name: ours.create(place, n),  # type: ignore[misc]
            lambda n=name: peer.volumes.abandon(VolumeId(place, n)),  # type: ignore[misc]
        )
        assert isinstance(made, Volume), made
    for name in ours.listed(place):
        ours.delete(place, name)
    ours.purge()
    with at(ceph, place) as pool:
        assert not unexplained(pool)
