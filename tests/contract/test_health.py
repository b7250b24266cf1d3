"""What the controller tells of volumes' health, with images and pools that something is wrong with. About 15 seconds."""

from pathlib import Path

import grpc
import pytest
import rados
import rbd

from csi.pb import csi_pb2
from tests.contract.driver import GIB, Driver, refused, running, unique
from tests.harness.ceph import Ceph
from tests.harness.store import drop_omap, quota, set_omap
from tests.harness.waiting import until


def health(driver: Driver, volume_id: str, timeout: float = 30) -> list[tuple[str, str]]:
    """What is wrong: status and reason."""
    request = csi_pb2.ControllerGetVolumeHealthRequest(volume_id=volume_id)
    told = driver.controller.ControllerGetVolumeHealth(request, timeout=timeout).volume_health
    assert told.volume_id == volume_id
    return [(csi_pb2.VolumeHealthErrorType.Name(each.status), each.reason) for each in told.health_statuses]


def listed(driver: Driver, **fields: object) -> csi_pb2.ControllerListVolumeHealthResponse:
    return driver.controller.ControllerListVolumeHealth(csi_pb2.ControllerListVolumeHealthRequest(**fields), timeout=30)


def test_of_a_volume_that_is_well_nothing_is_told(driver: Driver) -> None:
    assert health(driver, driver.create().volume_id) == []


@pytest.mark.parametrize("volume_id", ["fake", "dev/rbd/none", "dev/no-such-pool/x", "prod/rbd/x"])
def test_what_is_no_volume_is_not_found(driver: Driver, volume_id: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        health(driver, volume_id)


def test_an_id_is_required(driver: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id"):
        health(driver, "")


def test_an_image_made_by_hand_is_no_volume(driver: Driver, ceph: Ceph) -> None:
    name = unique("by-hand-")
    with ceph.admin_pool() as pool:
        rbd.RBD().create(pool, name, GIB)
    with refused(grpc.StatusCode.NOT_FOUND):
        health(driver, driver.id_of(name))


def _lose_header(pool: rados.Ioctx, name: str, image_id: str) -> None:
    pool.remove_object(f"rbd_header.{image_id}")


def _lose_size(pool: rados.Ioctx, name: str, image_id: str) -> None:
    drop_omap(pool, f"rbd_header.{image_id}", "size")


def _lose_name(pool: rados.Ioctx, name: str, image_id: str) -> None:
    pool.remove_object(f"rbd_id.{name}")


def _lose_entry(pool: rados.Ioctx, name: str, image_id: str) -> None:
    drop_omap(pool, "rbd_directory", f"name_{name}", f"id_{image_id}")


def _spoil_map(pool: rados.Ioctx, name: str, image_id: str) -> None:
    set_omap(pool, f"rbd_header.{image_id}", {"flags": (1).to_bytes(8, "little")})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_lose_header, ("DATA_LOSS", "HeaderMissing")),
        (_lose_size, ("INACCESSIBLE", "HeaderDamaged")),
        (_lose_name, ("INACCESSIBLE", "NameMissing")),
        (_lose_entry, ("DEGRADED", "NotListed")),
        (_spoil_map, ("DEGRADED", "ObjectMapInvalid")),
    ],
)
def test_damage_to_the_image_is_told(driver: Driver, ceph: Ceph, damage: object, told: tuple[str, str]) -> None:
    name = unique()
    volume = driver.create(name).volume_id
    image_id = ceph.image_ids()[name]
    with ceph.admin_pool() as pool:
        damage(pool, name, image_id)  # type: ignore[operator]
    try:
        assert health(driver, volume) == [told]
    finally:
        _clear_away(ceph, name, image_id)


def _clear_away(ceph: Ceph, name: str, image_id: str) -> None:
    """Remove what is left, so that nobody else comes upon it."""
    with ceph.admin_pool() as pool:
        for obj in (f"rbd_header.{image_id}", f"rbd_id.{name}", f"rbd_object_map.{image_id}"):
            try:
                pool.remove_object(obj)
            except rados.ObjectNotFound:
                continue
        drop_omap(pool, "rbd_directory", f"name_{name}", f"id_{image_id}")


def test_a_pool_that_reached_its_quota_degrades_its_volumes_and_they_are_listed(
    driver: Driver, ceph: Ceph, tmp_path: Path
) -> None:
    with ceph.extra_pool() as pool, running(ceph, tmp_path, [pool]) as mine:
        volumes = [mine.create(parameters={"pool": pool}).volume_id for _ in range(3)]
        assert listed(mine).entries == []
        with quota(ceph, pool, 1):
            until(lambda: health(mine, volumes[0]) == [("DEGRADED", "PoolFull")], 60, "the volume is told degraded")
            assert sorted(entry.volume_id for entry in listed(mine).entries) == sorted(volumes)
            first = listed(mine, max_entries=2)
            rest = listed(mine, starting_token=first.next_token)
            assert (len(first.entries), len(rest.entries), rest.next_token) == (2, 1, "")


def test_a_token_that_nobody_gave_out_is_aborted(driver: Driver) -> None:
    with refused(grpc.StatusCode.ABORTED):
        listed(driver, starting_token="no token")


def test_a_cluster_that_does_not_answer_makes_a_volume_inaccessible(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, timeout=3) as driver:
        volume = driver.create().volume_id
        with ceph.frozen_osd():
            assert health(driver, volume, timeout=10) == [("INACCESSIBLE", "ClusterNotAnswering")]
