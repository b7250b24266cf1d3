"""How fast a volume may be, through the socket, with librbd as the other side. About 6 seconds."""

import json
import time

import grpc
import pytest
import rbd

from csi.pb import csi_pb2
from tests.contract.driver import GIB, MIB, Driver, create_request, refused, unique
from tests.harness.ceph import Ceph

GROWING = {"baseIops": "1000", "iopsPerGiB": "100", "baseVolSizeBytes": str(GIB), "maxBps": "1048576"}
PREFIX = "conf_rbd_qos_"


def limits(ceph: Ceph, image: str) -> dict[str, str]:
    return {key.removeprefix(PREFIX): value for key, value in ceph.image_metadata(image).items() if key.startswith(PREFIX)}


def modify(driver: Driver, volume_id: str, **changes: str) -> None:
    request = csi_pb2.ControllerModifyVolumeRequest(volume_id=volume_id, mutable_parameters=changes)
    driver.controller.ControllerModifyVolume(request, timeout=30)


def expand(driver: Driver, volume_id: str, size: int) -> None:
    asked = csi_pb2.CapacityRange(required_bytes=size)
    request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=asked)
    driver.controller.ControllerExpandVolume(request, timeout=30)


class TestCreateVolume:
    def test_limits_of_the_class_are_on_the_image(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        driver.create(name, 3 * GIB, parameters=GROWING)
        assert limits(ceph, name) == {"iops_limit": "1200", "bps_limit": "1048576"}

    def test_mutable_parameters_win_over_those_of_the_class(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        driver.create(name, GIB, parameters={"maxIops": "100", "maxBps": "5000"}, mutable_parameters={"maxIops": "200"})
        assert limits(ceph, name) == {"iops_limit": "200", "bps_limit": "5000"}

    def test_without_them_the_image_bears_no_word_of_limits(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        driver.create(name)
        assert not [key for key in ceph.image_metadata(name) if "qos" in key]

    def test_they_cost_no_opening_of_the_image(self, driver: Driver, ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
        name = unique()
        with monkeypatch.context() as patched:
            patched.setattr(rbd, "Image", None)
            driver.create(name, parameters=GROWING)
        assert limits(ceph, name)

    def test_a_repeat_leaves_what_was_modified_since(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, mutable_parameters={"maxIops": "100"})
        modify(driver, volume.volume_id, maxIops="200")
        assert driver.create(name, mutable_parameters={"maxIops": "100"}) == volume
        assert limits(ceph, name) == {"iops_limit": "200"}

    def test_the_last_word_of_an_asker_counts(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, mutable_parameters={"maxIops": "100", "maxBps": "5000"})
        assert driver.create(name, mutable_parameters={"maxIops": "300"}) == volume
        assert limits(ceph, name) == {"iops_limit": "300"}

    @pytest.mark.parametrize(
        ("fields", "word"),
        [
            ({"mutable_parameters": {"maxIpos": "1"}}, "mutable_parameters.maxIpos"),
            ({"mutable_parameters": {"pool": "rbd"}}, "mutable_parameters.pool"),
            ({"mutable_parameters": {"maxIops": "fast"}}, "mutable_parameters.maxIops"),
            ({"parameters": {"maxIops": "-1"}}, "parameters.maxIops"),
            ({"parameters": {"iopsPerGiB": "1"}}, "baseVolSizeBytes"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, driver: Driver, fields: dict[str, dict[str, str]], word: str) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
            driver.controller.CreateVolume(create_request(unique(), **fields), timeout=30)


class TestControllerModifyVolume:
    def test_what_is_named_changes_and_what_is_not_stays(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, parameters=GROWING).volume_id
        modify(driver, volume, maxBps="2097152", maxReadIops="10")
        assert limits(ceph, name) == {"iops_limit": "1000", "bps_limit": "2097152", "read_iops_limit": "10"}

    def test_zero_lifts_a_limit(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, parameters=GROWING).volume_id
        modify(driver, volume, maxBps="0", baseIops="0", iopsPerGiB="0")
        assert limits(ceph, name) == {}

    def test_a_volume_without_limits_gets_some(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        modify(driver, driver.create(name).volume_id, maxIops="10", burstIops="100", burstSeconds="2")
        assert limits(ceph, name) == {"iops_limit": "10", "iops_burst": "100", "iops_burst_seconds": "2"}

    def test_a_client_that_has_the_image_open_obeys_at_once(self, driver: Driver, ceph: Ceph) -> None:
        name, per_second = unique(), 5
        volume = driver.create(name, GIB)
        with ceph.open_image(name) as image:
            image.write(b"x", 0)  # it has the lock now: whoever wants to change something through librbd has to ask for it
            modify(driver, volume.volume_id, maxWriteIops=str(per_second))
            started = time.monotonic()
            for block in range(4 * per_second):
                image.write(b"x", block * 4096)
            assert time.monotonic() - started > 2

    def test_a_repeat_changes_nothing(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, parameters=GROWING).volume_id
        modify(driver, volume, maxIops="900")
        before = ceph.image_metadata(name)
        modify(driver, volume, maxIops="900")
        modify(driver, volume)
        assert ceph.image_metadata(name) == before

    def test_limits_set_by_hand_stay_until_there_are_some_of_ours(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name).volume_id
        with ceph.open_image(name) as image:
            image.metadata_set("conf_rbd_qos_bps_limit", "12345")
        expand(driver, volume, 2 * GIB)
        assert limits(ceph, name) == {"bps_limit": "12345"}
        modify(driver, volume, maxIops="10")
        assert limits(ceph, name) == {"iops_limit": "10"}

    def test_refused_changes_change_nothing(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, parameters=GROWING).volume_id
        before = ceph.image_metadata(name)
        for changes in ({"maxIops": "5", "poll": "x"}, {"maxIops": "5", "maxBps": "much"}, {"maxIops": "5", "burstReadBps": "5"}):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, list(changes)[1]):
                modify(driver, volume, **changes)
        assert ceph.image_metadata(name) == before

    @pytest.mark.parametrize("volume_id", ["nonsense", "dev/rbd/none", "dev/no-such-pool/x", "prod/rbd/x"])
    def test_what_cannot_be_there_is_not_found(self, driver: Driver, volume_id: str) -> None:
        with refused(grpc.StatusCode.NOT_FOUND):
            modify(driver, volume_id, maxIops="1")

    def test_an_id_is_required(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id"):
            modify(driver, "", maxIops="1")


class TestControllerExpandVolume:
    def test_a_larger_volume_is_faster(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, GIB, parameters=GROWING).volume_id
        expand(driver, volume, 11 * GIB)
        assert limits(ceph, name) == {"iops_limit": "2000", "bps_limit": "1048576"}

    def test_one_that_was_killed_before_it_scaled_is_made_good_by_a_repeat(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name, GIB, parameters=GROWING).volume_id
        with ceph.open_image(name) as image:
            image.resize(11 * GIB)
        expand(driver, volume, 11 * GIB)
        assert limits(ceph, name)["iops_limit"] == "2000"


def test_limits_copied_from_another_image_count_for_nothing(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    volume = driver.create(name, 2 * MIB).volume_id
    foreign = {"image_id": "of-another", "size": 1, "made_with": {}, "qos": {"maxIops": 7}}
    with ceph.open_image(name) as image:
        image.metadata_set("ceph-provisioner.qos", json.dumps(foreign))
        image.metadata_set("conf_rbd_qos_iops_limit", "7")
    modify(driver, volume, maxBps="1000")
    assert limits(ceph, name) == {"bps_limit": "1000"}
