"""Delete, expand, get, validate, capacity through the socket, with `rbd` as the other side. About 4 seconds."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import rbd

from csi.pb import csi_pb2
from provisioner.core.ids import Place
from tests.contract.driver import GIB, MIB, Driver, capability, refused, unique
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner

Mode = csi_pb2.VolumeCapability.AccessMode
NOWHERE = [
    "fake-vol-id",
    "dev/rbd",
    "a/b/c/d/e",
    "dev//x",
    "dev/rbd/x@y",
    "x" * 4000,
    "dev/no-such-pool/pvc-1",
    "dev/rbd/pvc-none",
]


def expand(
    driver: Driver, volume_id: str, size: int, limit: int = 0, *, block: bool = False
) -> csi_pb2.ControllerExpandVolumeResponse:
    request = csi_pb2.ControllerExpandVolumeRequest(
        volume_id=volume_id,
        capacity_range=csi_pb2.CapacityRange(required_bytes=size, limit_bytes=limit),
        volume_capability=capability(block=block),
    )
    return driver.controller.ControllerExpandVolume(request, timeout=30)


def validate(
    driver: Driver, volume_id: str, *asked: csi_pb2.VolumeCapability, **fields: object
) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
    request = csi_pb2.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=asked, **fields)
    return driver.controller.ValidateVolumeCapabilities(request, timeout=30)


class TestDeleteVolume:
    def test_the_image_is_gone_and_the_name_free(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        driver.delete(driver.create(name).volume_id)
        assert name not in ceph.images()
        assert driver.create(name, 2 * GIB).capacity_bytes == 2 * GIB

    def test_a_repeat_is_success_also_at_once(self, driver: Driver) -> None:
        volume = driver.create().volume_id
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(driver.delete, [volume] * 8)) == [None] * 8

    @pytest.mark.parametrize("volume_id", NOWHERE)
    def test_what_cannot_be_there_is_gone(self, driver: Driver, volume_id: str) -> None:
        driver.delete(volume_id)

    def test_an_id_of_a_cluster_that_is_not_configured_is_no_success(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "known clusters: dev"):
            driver.delete("prod/rbd/pvc-1")

    def test_an_image_in_use_stays_and_its_client_is_named(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name)
        with ceph.open_image(name), refused(grpc.StatusCode.FAILED_PRECONDITION, "in use by"):
            driver.delete(volume.volume_id)
        assert name in ceph.images()

    def test_a_process_of_ours_that_works_on_the_image_for_a_moment_is_waited_for(self, driver: Driver, ceph: Ceph) -> None:
        volume, closed = driver.create(unique()).volume_id, threading.Event()
        place, other = Place("dev", ceph.pool), Provisioner(ceph.config())

        def close() -> None:
            image.close()
            closed.set()

        try:
            other.volumes.attend(place)
            with other.clusters.connection("dev") as connection, connection.pool(place) as pool:
                image = rbd.Image(pool, volume.rpartition("/")[2])
                threading.Timer(0.7, close).start()
                driver.delete(volume)
                assert closed.is_set()
        finally:
            other.close()

    def test_an_image_that_is_not_ours_stays(self, driver: Driver, ceph: Ceph) -> None:
        name = unique("made-by-hand-")
        with ceph.admin_pool() as pool:
            rbd.RBD().create(pool, name, MIB)
        with pytest.raises(grpc.RpcError):
            driver.delete(driver.id_of(name))
        assert name in ceph.images()

    def test_an_id_is_required(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id"):
            driver.delete("")


class TestControllerExpandVolume:
    def test_the_image_grows(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = driver.create(name)
        answer = expand(driver, volume.volume_id, 2 * GIB + 1)
        assert answer.capacity_bytes == ceph.info(name)["size"] == 2 * GIB + MIB

    def test_a_node_has_to_grow_the_file_system_but_no_block_volume_that_it_has_not_got(self, driver: Driver) -> None:
        volume = driver.create().volume_id
        assert expand(driver, volume, 2 * GIB).node_expansion_required
        assert not expand(driver, volume, 3 * GIB, block=True).node_expansion_required

    def test_a_volume_that_is_large_enough_is_left_as_it_is(self, driver: Driver) -> None:
        assert expand(driver, driver.create(size=2 * GIB).volume_id, GIB).capacity_bytes == 2 * GIB

    def test_an_upper_bound_below_the_volume_is_out_of_range(self, driver: Driver) -> None:
        volume = driver.create(size=2 * GIB).volume_id
        with refused(grpc.StatusCode.OUT_OF_RANGE):
            expand(driver, volume, GIB, GIB)

    @pytest.mark.parametrize("volume_id", [*NOWHERE, "prod/rbd/pvc-1"])
    def test_what_cannot_be_there_is_not_found(self, driver: Driver, volume_id: str) -> None:
        with refused(grpc.StatusCode.NOT_FOUND):
            expand(driver, volume_id, GIB)

    def test_a_size_is_required(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "capacity_range"):
            driver.controller.ControllerExpandVolume(csi_pb2.ControllerExpandVolumeRequest(volume_id="dev/rbd/x"), timeout=30)


class TestControllerGetVolume:
    def test_it_tells_the_volume_as_ceph_has_it(self, driver: Driver, ceph: Ceph) -> None:
        name = unique()
        made = driver.create(name)
        with ceph.open_image(name) as image:
            image.resize(3 * GIB)
        answer = driver.controller.ControllerGetVolume(csi_pb2.ControllerGetVolumeRequest(volume_id=made.volume_id), timeout=30)
        assert answer.HasField("status")
        assert (answer.volume.volume_id, answer.volume.capacity_bytes) == (made.volume_id, 3 * GIB)

    @pytest.mark.parametrize("volume_id", NOWHERE)
    def test_what_cannot_be_there_is_not_found(self, driver: Driver, volume_id: str) -> None:
        with refused(grpc.StatusCode.NOT_FOUND):
            driver.controller.ControllerGetVolume(csi_pb2.ControllerGetVolumeRequest(volume_id=volume_id), timeout=30)


class TestValidateVolumeCapabilities:
    def test_what_works_is_confirmed_word_for_word(self, driver: Driver) -> None:
        volume = driver.create(parameters={"imageFeatures": "layering"})
        mutable = {"maxIops": "100"}
        fields = {"parameters": {"imageFeatures": "layering"}, "volume_context": dict(volume.volume_context)}
        confirmed = validate(
            driver, volume.volume_id, capability(), capability(block=True), mutable_parameters=mutable, **fields
        ).confirmed
        assert dict(confirmed.mutable_parameters) == mutable
        assert list(confirmed.volume_capabilities) == [capability(), capability(block=True)]
        assert (dict(confirmed.parameters), dict(confirmed.volume_context)) == tuple(fields.values())

    @pytest.mark.parametrize(
        ("asked", "fields", "word"),
        [
            (capability(Mode.MULTI_NODE_MULTI_WRITER), {}, "block volume"),
            (capability(), {"parameters": {"imageFeatures": "layering"}}, "other parameters"),
            (capability(), {"parameters": {"poll": "rbd"}}, "unknown parameter"),
            (capability(), {"mutable_parameters": {"pool": "rbd"}}, "mutable_parameters.pool"),
        ],
    )
    def test_what_does_not_is_explained(
        self, driver: Driver, asked: csi_pb2.VolumeCapability, fields: dict[str, object], word: str
    ) -> None:
        answer = validate(driver, driver.create().volume_id, asked, **fields)
        assert not answer.HasField("confirmed")
        assert word in answer.message

    def test_a_volume_that_is_not_there_is_not_found(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.NOT_FOUND):
            validate(driver, "dev/rbd/pvc-none", capability())

    def test_capabilities_are_required(self, driver: Driver) -> None:
        volume = driver.create().volume_id
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_capabilities"):
            validate(driver, volume)


class TestGetCapacity:
    def capacity(self, driver: Driver, **fields: object) -> csi_pb2.GetCapacityResponse:
        return driver.controller.GetCapacity(csi_pb2.GetCapacityRequest(**fields), timeout=30)

    def test_it_is_cephs_own_estimate(self, driver: Driver, ceph: Ceph) -> None:
        report = json.loads(json.dumps(ceph.command("df")))
        (room,) = [pool["stats"]["max_avail"] for pool in report["pools"] if pool["name"] == ceph.pool]
        answer = self.capacity(driver, parameters={"pool": ceph.pool})
        assert answer.available_capacity == pytest.approx(room, rel=0.05)
        assert answer.maximum_volume_size.value <= answer.available_capacity
        assert answer.minimum_volume_size.value == MIB

    def test_a_quota_bounds_it(self, driver: Driver, ceph: Ceph) -> None:
        ceph.command("osd pool set-quota", pool=ceph.pool, field="max_bytes", val=str(GIB))
        try:
            assert self.capacity(driver).available_capacity <= GIB
        finally:
            ceph.command("osd pool set-quota", pool=ceph.pool, field="max_bytes", val="0")

    def test_there_is_none_for_volumes_that_cannot_be_made(self, driver: Driver) -> None:
        assert self.capacity(driver, volume_capabilities=[capability(Mode.MULTI_NODE_MULTI_WRITER)]).available_capacity == 0

    def test_a_pool_that_is_not_there_is_named(self, driver: Driver) -> None:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "no-such-pool"):
            self.capacity(driver, parameters={"pool": "no-such-pool"})
