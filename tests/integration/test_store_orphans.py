"""Headers and object maps that nothing leads to, as creates leave them which Ceph did not answer in time. Takes about 40 s."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from threading import Timer

import pytest
import rados
import rbd

from provisioner.ceph import names, suspects, wire
from provisioner.ceph.orphans import Sweeper
from provisioner.core.errors import ProvisionerError, Unavailable
from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.half_made import ALL
from tests.harness.store import GIB, Provisioner, at, at_home, image_id, objects, processes, unexplained
from tests.harness.waiting import until

TIMEOUT = 3


@pytest.fixture
def sweeping(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """A process of ours that gives each call 3 s, and looks for a suspect at once."""
    process = Provisioner(at_home(ceph, place)).retuned(timeout=TIMEOUT)
    process.store._sweeper = Sweeper(settled=0, rest=0)
    process.store.attend(place, None)
    yield process
    process.close()


def begin(ours: Provisioner, place: Place) -> str:
    """What is left of a create of this process whose header, or object map, came to be after librbd had undone the rest."""
    with ours.places.at(place, None) as (_, pool):
        rbd.RBD().create(pool, "begun", GIB, features=ALL)
        return lose(pool, "begun")


def lose(pool: rados.Ioctx, name: str) -> str:
    """Take away what leads to the image; gives its id."""
    made = image_id(pool, name)
    names.unlist(pool, name, made)
    names.remove_id(pool, name, made)
    return made


def suspect(ceph: Ceph, place: Place, ours: Provisioner) -> None:
    with at(ceph, place) as pool:
        suspects.note(pool, str(ours.client()))


def suspected(ceph: Ceph, place: Place) -> set[int]:
    with at(ceph, place) as pool:
        return set(suspects.noted(pool))


def test_creates_that_ceph_does_not_answer_in_time_leave_nothing(ceph: Ceph, sweeping: Provisioner, place: Place) -> None:
    """The process finds out by itself that it is to be suspected, and what librbd left on the way is gone in the end."""

    def make(number: int) -> None:
        with suppress(ProvisionerError):
            for turn in range(1000):
                sweeping.create(place, f"pvc-{number}-{turn}")

    with ThreadPoolExecutor(8) as threads:
        making = [threads.submit(make, number) for number in range(8)]
        until(lambda: len(sweeping.listed(place)) > 8, 60, "they are at it")
        with ceph.frozen_osd():
            for each in making:
                each.result(30)
    until(lambda: suspected(ceph, place) == {sweeping.client()}, 60, "the process suspects itself")
    until(lambda: sweeping.sweep() >= 0 and not suspected(ceph, place), 60, "the place was looked through")
    with at(ceph, place) as pool:
        assert not {each for each in unexplained(pool) if each.startswith(("rbd_header", "rbd_object_map"))}


def test_a_header_and_an_object_map_without_an_image_go_and_images_stay(ceph: Ceph, sweeping: Provisioner, place: Place) -> None:
    for name in ("kept", "deleted"):
        sweeping.create(place, name)
    sweeping.delete(place, "deleted")
    with at(ceph, place) as pool:
        before = objects(pool)
    for _ in range(2):
        begin(sweeping, place)
    assert sweeping.sweep() == 0, "nobody is suspected"
    suspect(ceph, place, sweeping)
    assert sweeping.sweep() == 4
    with at(ceph, place) as pool:
        assert objects(pool) == before | {suspects.LIST}
    assert not suspected(ceph, place)


def _lone_map(pool: rados.Ioctx, made: str) -> None:
    pool.remove_object(f"rbd_header.{made}")


def _bare_header(pool: rados.Ioctx, made: str) -> None:
    """What a lock makes of a header that is gone."""
    _lone_map(pool, made)
    pool.lock_exclusive(f"rbd_header.{made}", "rbd_lock", "auto 1")


@pytest.mark.parametrize("state", [_lone_map, _bare_header])
def test_what_holds_no_image_goes_whoever_made_it(
    ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place, state: Callable[[rados.Ioctx, str], None]
) -> None:
    with at(ceph, place) as pool:
        state(pool, begin(peer, place))
    suspect(ceph, place, sweeping)
    sweeping.sweep()
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def _foreign(ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place) -> str:
    return begin(peer, place)


def _marked(ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place) -> str:
    sweeping.create(place, "lost")
    with at(ceph, place) as pool:
        return lose(pool, "lost")


def _with_snapshot(ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place) -> str:
    with sweeping.places.at(place, None) as (_, pool):
        rbd.RBD().create(pool, "begun", GIB, features=ALL)
        with rbd.Image(pool, "begun") as image:
            image.create_snap("by-hand")
        return lose(pool, "begun")


def _written(ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place) -> str:
    with sweeping.places.at(place, None) as (_, pool):
        rbd.RBD().create(pool, "begun", GIB, features=ALL)
        with rbd.Image(pool, "begun") as image:
            image.write(b"a boot record", 0)
        return lose(pool, "begun")


def _described(ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place) -> str:
    with sweeping.places.at(place, None) as (_, pool):
        rbd.RBD().create(pool, "begun", GIB, features=ALL)
        with rbd.Image(pool, "begun") as image:
            image.metadata_set("said-by", "an administrator")
        return lose(pool, "begun")


@pytest.mark.parametrize("state", [_foreign, _marked, _with_snapshot, _written, _described])
def test_what_somebody_may_miss_stays(
    ceph: Ceph, sweeping: Provisioner, peer: Provisioner, place: Place, state: Callable[..., str]
) -> None:
    made = state(ceph, sweeping, peer, place)
    suspect(ceph, place, sweeping)
    assert sweeping.sweep() == 0
    with at(ceph, place) as pool:
        assert {f"rbd_header.{made}", f"rbd_object_map.{made}"} <= objects(pool)
    assert not suspected(ceph, place), "it was looked for"


def test_nothing_goes_where_the_directory_of_images_is_lost(ceph: Ceph, sweeping: Provisioner, place: Place) -> None:
    begin(sweeping, place)
    suspect(ceph, place, sweeping)
    with at(ceph, place) as pool:
        pool.remove_object(names.DIRECTORY)
        before = objects(pool)
        assert [type(done) for _, done in sweeping.store.sweep(lambda: True)] == [Unavailable]
        assert objects(pool) == before


def test_an_image_that_is_taken_back_and_thrown_away_between_two_looks_stays(
    ceph: Ceph, sweeping: Provisioner, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is asked while the image is in the trash, the trash while it is not, and so on."""
    with sweeping.places.at(place, None) as (_, pool):
        rbd.RBD().create(pool, "to-and-fro", GIB, features=ALL)
        made = image_id(pool, "to-and-fro")
        rbd.RBD().trash_move(pool, "to-and-fro", 0)
    look, looks = wire.omap_values, list[str]()

    def look_and_move(pool: rados.Ioctx, obj: str, *keys: str) -> dict[str, bytes]:
        seen = look(pool, obj, *keys)
        if f"id_{made}" in keys and len(looks) < 5:
            looks.append(obj)
            with at(ceph, place) as by_hand:
                if obj == names.DIRECTORY and len(looks) % 3 != 0:
                    rbd.RBD().trash_restore(by_hand, made, "to-and-fro")
                elif obj == names.TRASH:
                    rbd.RBD().trash_move(by_hand, "to-and-fro", 0)
        return seen

    suspect(ceph, place, sweeping)
    monkeypatch.setattr(wire, "omap_values", look_and_move)
    assert sweeping.sweep() == 0
    assert looks[:3] == [names.DIRECTORY, names.TRASH, names.DIRECTORY]
    with at(ceph, place) as pool:
        assert f"rbd_header.{made}" in objects(pool)


def test_what_a_process_left_goes_when_it_is_buried(ceph: Ceph, sweeping: Provisioner, twin: Provisioner, place: Place) -> None:
    twin.store.attend(place, None)
    begin(twin, place)
    dead = twin.client()
    twin.die()
    with at(ceph, place) as pool:
        until(lambda: sweeping.purge() and dead not in processes(pool), 60, "it is buried")
        assert sweeping.sweep() == 2
        assert not unexplained(pool)


def test_a_sweep_that_ceph_stalls_in_is_done_again(ceph: Ceph, sweeping: Provisioner, place: Place) -> None:
    """A listing that is not answered ends without a word: what it had not come to is not taken for clean."""
    with at(ceph, place) as pool:
        for write in [pool.aio_write_full(f"rbd_data.{number}", b"") for number in range(3000)]:  # Ceph lists 1024 at a time
            write.wait_for_complete()
    begin(sweeping, place)
    suspect(ceph, place, sweeping)
    with ExitStack() as frozen:
        pauses = list[Timer]()

        def stall_at_the_second() -> bool:
            """Of 1000 objects: a few are known already, the others Ceph has to be asked for."""
            pauses.append(Timer(TIMEOUT + 1, frozen.close))
            if len(pauses) == 2:
                frozen.enter_context(ceph.frozen_osd())
                pauses[1].start()
            return True

        for _ in sweeping.store.sweep(stall_at_the_second):
            pass
        pauses[1].join()
    assert suspected(ceph, place) == {sweeping.client()}
    until(lambda: sweeping.sweep() >= 0 and not suspected(ceph, place), 60, "it was done again")
    with at(ceph, place) as pool:
        assert not {each for each in unexplained(pool) if not each.startswith("rbd_data.")}
