"""A cluster that stops answering: told in time, nothing else held up, everything goes on by itself after. Takes about 30 s."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from provisioner.ceph.registry import LAPSE
from provisioner.core.errors import ProvisionerError, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import SizeRange
from tests.harness import ceph as ceph_harness
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, new_place, processes, unexplained
from tests.harness.waiting import until

TIMEOUT = 3


@pytest.fixture
def hasty(ceph: Ceph) -> Iterator[Provisioner]:
    """A process of ours that gives each call 3 s."""
    process = Provisioner(ceph.config(timeout=TIMEOUT))
    yield process
    process.close()


def _outcome(act: Callable[[], object]) -> tuple[BaseException | None, float]:
    began = time.monotonic()
    try:
        act()
    except ProvisionerError as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


def test_while_the_osd_is_frozen_every_request_is_told_so_in_time_and_after_it_all_goes_on(
    ceph: Ceph, hasty: Provisioner, place: Place
) -> None:
    """One freeze, and all that is claimed of it."""
    for number in range(4):
        hasty.create(place, f"pvc-{number}")
    taken = hasty.snapshot(place, "pvc-0", f"{place.namespace}-old").id
    requests: list[Callable[[], object]] = [
        lambda: hasty.snapshot(place, "pvc-0", f"{place.namespace}-new"),
        lambda: hasty.snapshots.get(taken),
        lambda: hasty.clone(place, "pvc-restored", taken),
        lambda: hasty.clone(place, "pvc-cloned", VolumeId(place, "pvc-0")),
        lambda: hasty.create(place, "pvc-new"),
        lambda: hasty.create(place, "pvc-0"),
        lambda: hasty.volumes.get(VolumeId(place, "pvc-0")),
        lambda: hasty.volumes.expand(VolumeId(place, "pvc-1"), SizeRange(2 << 30)),
        lambda: hasty.delete(place, "pvc-2"),
        lambda: hasty.listed(place),
        lambda: hasty.volumes.abandon(VolumeId(place, "pvc-3")),
    ]
    with ceph.frozen_osd(), ThreadPoolExecutor(len(requests)) as threads:
        asked = [threads.submit(_outcome, request) for request in requests]
        until(lambda: len(hasty.volumes.operations()) >= 4, 60, "the requests are under way")
        assert _outcome(lambda: hasty.volumes.monitors("dev"))[1] < 1, "what needs no OSD is answered"
        assert _outcome(lambda: hasty.volumes.capacity(place))[1] < 1, "as is this"
        for error, seconds in [future.result(30) for future in asked]:
            assert isinstance(error, Unavailable), error
            assert "does not answer in time" in str(error)
            assert seconds < 2 * TIMEOUT + 1
    for request in requests:
        until(lambda request=request: _outcome(request)[0] is None, 60, "it works again", lambda r=request: str(_outcome(r)))  # type: ignore[misc]
    assert hasty.listed(place) == ["pvc-0", "pvc-1", "pvc-cloned", "pvc-new", "pvc-restored"]
    hasty.snapshots.delete(taken)
    hasty.reap()
    hasty.purge()
    with at(ceph, place) as pool:
        assert not unexplained(pool)


def test_a_lock_that_a_stall_keeps_from_being_given_back_is_given_back_soon_after(
    ceph: Ceph, hasty: Provisioner, place: Place
) -> None:
    """Its holder lives, so nobody else would take it away before it lapses."""
    other = Provisioner(ceph.config())
    with hasty.places.enrolled(place, None) as room, other.places.enrolled(place, None) as rival:
        with ExitStack() as frozen, room.registry.turn(room.pool, "work", seconds=600) as turn:
            assert turn is not None
            frozen.enter_context(ceph.frozen_osd())
        with rival.registry.turn(rival.pool, "work", seconds=600, patience=LAPSE) as theirs:
            assert theirs is not None
    other.close()


def test_a_frozen_cluster_costs_another_none_of_its_heartbeats(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The other cluster is real, too: a second one, frozen, beside the one that all tests share."""
    with ceph_harness.running(tmp_path_factory.mktemp("second") / "c") as second:
        configs = {"one": ceph.config("one", TIMEOUT), "two": second.config("two", 60)}
        both = Provisioner(configs["one"], configs["two"])
        here = new_place(ceph, "one")
        both.create(here, "pvc-1")
        both.create(Place("two", second.pool), "pvc-1")
        with ceph.admin_pool(here.pool, here.namespace) as pool, second.frozen_osd():
            watched = Provisioner(ceph.config("one"))
            watched.volumes.attend(here)
            deadline = time.monotonic() + LAPSE + 7
            until(lambda: time.monotonic() > deadline, LAPSE + 10, "a lock would have lapsed", every=1)
            watched.store.purge(lambda: True)
            assert both.client() in processes(pool)
            assert both.create(here, "pvc-2")
            watched.close()
        both.close()
