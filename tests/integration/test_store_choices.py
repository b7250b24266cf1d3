"""One volume in one of several places, whoever is killed at whatever step and asks again from elsewhere. About 10 seconds.

The places are RADOS namespaces: to the choice they are as good as pools.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import pytest

from provisioner.ceph import reaper
from provisioner.ceph.reaper import Reaper
from provisioner.ceph.reservations import SHARDS, CephReservations
from provisioner.core.choices import Candidate, Choices, Reservations
from provisioner.core.errors import AlreadyExists, OutOfSpace, ProvisionerError, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, Credentials, SizeRange, Volume
from provisioner.core.volumes import Volumes
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, new_place, objects, omap


class Killed(BaseException):
    """Ends a request as a kill would: nothing of ours catches it."""


class Cut:
    """Forwards to `real`, and dies before or after the step named: for the first time, or after so many times."""

    def __init__(self, real: object, step: str, when: str, spare: int = 0) -> None:
        self._real, self._step, self._when, self._spare = real, step, when, spare

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(self._real, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            self._spare -= name == self._step
            if name != self._step or self._spare >= 0:
                return real(*args, **kwargs)
            if self._when == "after":
                with suppress(ProvisionerError):
                    real(*args, **kwargs)
            raise Killed

        return step


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph) -> Iterator[Provisioner]:
    made = Provisioner(ceph.config())
    yield made
    made.close()


@pytest.fixture
def places(ceph: Ceph) -> list[Place]:
    """Three: the first is the home of the choice."""
    return [new_place(ceph) for _ in range(3)]


def choices(provisioner: Provisioner, step: str = "", when: str = "", spare: int = 0) -> Choices:
    volumes, reservations = (
        Cut(provisioner.volumes, step, when, spare),
        Cut(CephReservations(provisioner.places), step, when, spare),
    )
    return Choices(cast(Volumes, volumes), cast(Reservations, reservations))


def make(choice: Choices, places: Sequence[Place], *wanted: int, name: str = "pvc-1") -> Volume:
    pools = [Candidate(place) for place in places]
    request = CreateRequest(name, places[0], SizeRange(GIB))
    return choice.create(request, pools, [pools[each] for each in wanted])


def where(provisioner: Provisioner, places: Sequence[Place]) -> list[int]:
    """The places that hold a volume."""
    return [number for number, place in enumerate(places) if provisioner.listed(place)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("step", "spare"), [("reserved", 0), ("get", 0), ("get", 2), ("reserve", 0), ("create", 0), ("reserved", 1)]
)
def test_a_kill_at_any_step_leaves_one_choice(
    provisioner: Provisioner, places: list[Place], step: str, spare: int, when: str
) -> None:
    with pytest.raises(Killed):
        make(choices(provisioner, step, when, spare), places, 1, 2)
    is_reserved = CephReservations(provisioner.places).reserved(places[0], "pvc-1", None) is not None
    made = make(choices(provisioner), places, 2, 1)
    assert made.id.place == places[1 if is_reserved else 2]
    assert where(provisioner, places) == [1 if is_reserved else 2]


@pytest.mark.parametrize("step", ["release", "discard"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_delete_killed_at_any_step_leaves_nothing_once_repeated(
    provisioner: Provisioner, ceph: Ceph, places: list[Place], step: str, when: str
) -> None:
    made = make(choices(provisioner), places, 2)
    with pytest.raises(Killed):
        Volumes(cast(Any, Cut(provisioner.store, step, when))).delete(made.id)
    provisioner.volumes.delete(made.id)
    assert where(provisioner, places) == []
    with at(ceph, places[0]) as pool:
        assert [entry for each in objects(pool) if each in SHARDS.objects for entry in omap(pool, each)] == []


def test_an_interrupted_delete_forgets_no_choice_while_the_volume_lives(provisioner: Provisioner, places: list[Place]) -> None:
    made = make(choices(provisioner), places, 2)
    with pytest.raises(Killed):
        Volumes(cast(Any, Cut(provisioner.store, "discard", "before"))).delete(made.id)
    assert make(choices(provisioner), places, 1, 2).image_id == made.image_id
    with pytest.raises(AlreadyExists, match=str(places[2])):
        make(choices(provisioner), places, 1)


def test_many_that_choose_at_once_make_one_volume(provisioner: Provisioner, ceph: Ceph, places: list[Place]) -> None:
    processes = [Provisioner(ceph.config()) for _ in range(3)]

    def ask(number: int) -> str:
        while True:
            try:
                return str(make(choices(processes[number % 3]), places, number % 2 + 1, 2 - number % 2).id)
            except Unavailable:
                continue

    try:
        with ThreadPoolExecutor(6) as pool:
            answers = set(pool.map(ask, range(6)))
    finally:
        for process in processes:
            process.close()
    assert len(answers) == len(where(provisioner, places)) == 1


@pytest.mark.parametrize("dies", [True, False])
def test_where_one_finds_no_room_and_another_does_in_the_same_place_there_is_one_volume(
    provisioner: Provisioner, ceph: Ceph, places: list[Place], dies: bool
) -> None:
    """The other comes, and may be killed before it answers, when the first has found nothing there and not yet gone on."""
    answers: list[Volume] = []
    other = Provisioner(ceph.config())

    def ask() -> None:
        with suppress(Killed):
            answers.append(make(choices(other, "reserved", "before", spare=2) if dies else choices(other), places, 1, 2))

    asks = threading.Thread(target=ask)

    class Full:
        """Has no room in the first place once, and lets the other ask when it was looked through."""

        def create(self, request: CreateRequest) -> Volume:
            if request.place == places[1]:
                raise OutOfSpace(str(request.place))
            return provisioner.volumes.create(request)

        def settle(self, volume: VolumeId, credentials: Credentials | None) -> Volume | None:
            found = provisioner.volumes.settle(volume, credentials)
            asks.start()
            asks.join(3)
            return found

        def __getattr__(self, name: str) -> object:
            return getattr(provisioner.volumes, name)

    try:
        answers.append(make(Choices(cast(Volumes, Full()), CephReservations(provisioner.places)), places, 1, 2))
        asks.join(60)
    finally:
        other.close()
    assert where(provisioner, places) == [places.index(answers[0].id.place)]
    assert len({each.image_id for each in answers}) == 1


def test_a_choice_that_nothing_came_of_is_forgotten_in_time(
    provisioner: Provisioner, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make(choices(provisioner), places, 1, name="pvc-kept")
    with pytest.raises(Killed):
        make(choices(provisioner, "create", "before"), places, 1)
    reservations = CephReservations(provisioner.places)
    assert _reap(provisioner, places[0]) == 0
    assert reservations.reserved(places[0], "pvc-1", None) == places[1]
    monkeypatch.setattr(reaper, "_CALLS", 0)
    assert _reap(provisioner, places[0], walks=2) == 1
    assert reservations.reserved(places[0], "pvc-1", None) is None
    assert reservations.reserved(places[0], "pvc-kept", None) == kept.id.place


def _reap(provisioner: Provisioner, home: Place, walks: int = 1) -> int:
    """Entries that went in the home, other than the cluster's."""
    mine = Reaper(index_every=0.0)
    with provisioner.places.enrolled(home, None) as room:
        return sum(mine.walk(room, home, lambda _, __: False, lambda: True).entries for _ in range(walks))


def test_names_that_no_key_can_hold_are_reserved_too(provisioner: Provisioner, places: list[Place]) -> None:
    name = "ä/" * 80
    made = make(choices(provisioner), places, 1, name=name)
    assert make(choices(provisioner), places, 2, 1, name=name).image_id == made.image_id
