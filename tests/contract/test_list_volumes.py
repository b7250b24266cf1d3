"""ListVolumes through the socket: every volume once, whatever happens between two pages. About 6 seconds."""

import base64
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2
from tests.contract.driver import MIB, Driver, refused, running, unique
from tests.harness.ceph import Ceph

POOL, GONE = "listed", "gone"


@pytest.fixture(scope="module")
def lister(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A controller that lists two pools, one it may not enter, and one that isn't there."""
    ceph.make_pool(POOL)
    try:
        with running(ceph, tmp_path_factory.mktemp("lister"), [ceph.pool, POOL, GONE]) as driver:
            yield driver
    finally:
        ceph.drop_pool(POOL)


@pytest.fixture
def volumes(lister: Driver) -> Iterator[list[str]]:
    """Seven volumes."""
    made = [lister.create(size=MIB).volume_id for _ in range(7)]
    yield made
    for volume in made:
        lister.delete(volume)


def page(driver: Driver, token: str = "", entries: int = 0) -> csi_pb2.ListVolumesResponse:
    return driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(max_entries=entries, starting_token=token), timeout=30)


def first_page(driver: Driver, volumes: list[str]) -> tuple[list[str], str]:
    """What the page tells that ends with the third of these volumes, whatever other tests left in the pool; and its token."""
    ends = [entries for entries, volume in enumerate(walk(driver, 0), start=1) if volume in volumes]
    answer = page(driver, entries=ends[2])
    return [entry.volume.volume_id for entry in answer.entries], answer.next_token


def walk(driver: Driver, entries: int, token: str = "") -> list[str]:
    seen: list[str] = []
    while True:
        answer = page(driver, token, entries)
        assert not entries or len(answer.entries) <= entries
        seen += [entry.volume.volume_id for entry in answer.entries]
        if not (token := answer.next_token):
            return seen


@pytest.mark.parametrize("entries", [0, 1, 3, 7, 100])
def test_pages_of_any_size_tell_every_volume_once(lister: Driver, volumes: list[str], entries: int) -> None:
    seen = walk(lister, entries)
    assert len(seen) == len(set(seen))
    assert set(volumes) <= set(seen)


def test_an_entry_tells_the_real_size_and_where_the_image_is(lister: Driver, ceph: Ceph) -> None:
    name = unique()
    made = lister.create(name, 2 * MIB)
    (told,) = [entry.volume for entry in page(lister).entries if entry.volume.volume_id == made.volume_id]
    assert told == made
    assert told.capacity_bytes == ceph.info(name)["size"]


def test_volumes_that_stay_are_told_once_while_others_come_and_go(lister: Driver, volumes: list[str]) -> None:
    told, token = first_page(lister, volumes)
    extra = lister.create(size=MIB).volume_id
    lister.delete(next(volume for volume in told if volume in volumes))
    seen = told + walk(lister, 2, token)
    assert [seen.count(volume) for volume in volumes] == [1] * len(volumes)
    assert seen.count(extra) <= 1


def test_a_token_works_after_the_last_volume_of_its_page_was_deleted(lister: Driver, volumes: list[str]) -> None:
    told, token = first_page(lister, volumes)
    lister.delete(told[-1])
    assert set(walk(lister, 2, token)) == set(walk(lister, 0)) - set(told)


def test_a_token_survives_the_controller(lister: Driver, ceph: Ceph, volumes: list[str], tmp_path: Path) -> None:
    first = page(lister, entries=3)
    with running(ceph, tmp_path, [ceph.pool, POOL, GONE]) as successor:
        assert walk(successor, 2, first.next_token) == walk(lister, 0)[3:]


def test_images_that_are_not_ours_are_not_told(lister: Driver, ceph: Ceph) -> None:
    import rbd

    name = unique("made-by-hand-")
    with ceph.admin_pool() as pool:
        rbd.RBD().create(pool, name, MIB)
    assert lister.id_of(name) not in walk(lister, 0)


@pytest.mark.parametrize("token", ["x", "invalid-token", "é", "bm90IGpzb24=", base64.b64encode(b'["dev","rbd"]').decode()])
def test_a_token_that_no_listing_gave_is_aborted(lister: Driver, token: str) -> None:
    with refused(grpc.StatusCode.ABORTED, "from the start"):
        page(lister, token)


def test_a_negative_number_of_entries_is_refused(lister: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "max_entries"):
        page(lister, entries=-1)
