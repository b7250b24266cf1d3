"""CreateVolume through the socket, with `rbd info` as the other side. About 4 seconds."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from csi.pb import csi_pb2
from tests.contract.driver import GIB, MIB, Driver, capability, create_request, error_info, refused, unique
from tests.harness.ceph import Ceph

Mode = csi_pb2.VolumeCapability.AccessMode


def test_the_volume_is_an_image_of_the_requests_name(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    volume = driver.create(name, 2 * GIB)
    assert volume.volume_id == driver.id_of(name)
    assert volume.capacity_bytes == ceph.info(name)["size"] == 2 * GIB


def test_the_context_tells_a_node_where_the_image_is(driver: Driver) -> None:
    name = unique()
    volume = driver.create(name, parameters={"mapOptions": "krbd:lock_on_read", "mkfsOptions": "-K"})
    expected = {"clusterID": "dev", "pool": driver.pool, "imageName": name}
    assert dict(volume.volume_context) == expected | {"mapOptions": "krbd:lock_on_read", "mkfsOptions": "-K"}


def test_sizes_are_rounded_up_to_mib_and_the_real_one_is_told(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    assert driver.create(name, 5 * MIB + 1).capacity_bytes == ceph.info(name)["size"] == 6 * MIB


def test_without_a_size_the_volume_has_a_gib(driver: Driver) -> None:
    request = create_request(unique())
    request.ClearField("capacity_range")
    assert driver.controller.CreateVolume(request, timeout=30).volume.capacity_bytes == GIB


def test_an_upper_bound_alone_is_used_up_to_a_gib(driver: Driver) -> None:
    assert driver.create(size=0, limit=10 * MIB + 5).capacity_bytes == 10 * MIB


def test_class_parameters_reach_the_image(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    driver.create(name, parameters={"imageFeatures": "layering", "objectSize": str(8 * MIB)})
    info = ceph.info(name)
    assert (info["features"], info["object_size"]) == (["layering"], 8 * MIB)


def test_a_repeat_gives_the_same_answer(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    first = driver.create(name)
    made = ceph.info(name)["id"]
    assert driver.create(name) == first
    assert ceph.info(name)["id"] == made


def test_concurrent_repeats_all_get_the_same_answer(driver: Driver) -> None:
    name, together = unique(), threading.Barrier(12)

    def ask(_: int) -> str:
        together.wait(60)
        return driver.create(name).volume_id

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, range(12))) == {driver.id_of(name)}


def test_the_same_name_with_another_size_is_refused_with_the_difference(driver: Driver) -> None:
    name = unique()
    driver.create(name, GIB, GIB)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "size is 1073741824 bytes"):
        driver.create(name, 2 * GIB, 2 * GIB)


def test_the_same_name_with_other_parameters_is_refused_with_the_difference(driver: Driver) -> None:
    name = unique()
    driver.create(name)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "imageFeatures"):
        driver.create(name, parameters={"imageFeatures": "layering"})


def test_a_foreign_image_of_that_name_is_left_alone(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    with ceph.admin_pool() as pool:
        import rbd

        rbd.RBD().create(pool, name, 3 * MIB)
    with refused(grpc.StatusCode.ALREADY_EXISTS, name):
        driver.create(name)
    assert ceph.info(name)["size"] == 3 * MIB


def test_refusals_carry_their_reason_for_programs_too(driver: Driver) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        driver.create(parameters={"imageFeatures": "layering,journaling"})
    info = error_info(caught.value)
    assert (info.reason, info.domain, info.metadata["field"]) == ("INVALID_REQUEST", "ceph-provisioner", "imageFeatures")


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"poll": "rbd"}, "unknown parameter"),
        ({"pool": "there-is-none"}, "no such pool"),
        ({"clusterID": "there-is-none"}, "known clusters: dev"),
        ({"pvType": "native"}, "csi PersistentVolume"),
        ({"monitors": "10.0.0.1"}, "has clusterID"),
        ({"objectSize": "4095"}, "power of two"),
    ],
)
def test_a_parameter_that_cannot_be_honoured_is_named(driver: Driver, parameters: dict[str, str], word: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, next(iter(parameters.values())), word):
        driver.create(parameters=parameters)


def test_the_sidecars_metadata_become_labels_of_the_image(driver: Driver, ceph: Ceph) -> None:
    name, metadata = unique(), {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop"}
    driver.create(name, parameters=metadata | {"csi.storage.k8s.io/pv/name": name})
    with ceph.open_image(name) as image:
        told = image.metadata_get("ceph-provisioner.labels")
    assert told == f'{{"claim":"data","namespace":"shop","volume":"{name}"}}'


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (capability(Mode.MULTI_NODE_MULTI_WRITER), "block volume"),
        (capability(Mode.MULTI_NODE_SINGLE_WRITER), "block volume"),
        (capability(Mode.MULTI_NODE_READER_ONLY), "nobody may write"),
        (capability(Mode.UNKNOWN), "access_mode"),
        (capability(fs_type="ntfs"), "ntfs"),
        (csi_pb2.VolumeCapability(access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER)), "block or mount"),
    ],
)
def test_a_use_that_an_image_cannot_have_is_refused(driver: Driver, asked: csi_pb2.VolumeCapability, word: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_capabilities", word):
        driver.create(volume_capabilities=[capability(), asked])


@pytest.mark.parametrize("mode", sorted(set(Mode.Mode.values()) - {Mode.UNKNOWN}))
def test_a_block_volume_may_be_used_in_every_mode(driver: Driver, mode: int) -> None:
    assert driver.create(size=MIB, volume_capabilities=[capability(mode, block=True)]).volume_id


@pytest.mark.parametrize("fields", [{"name": ""}, {"volume_capabilities": []}])
def test_what_the_spec_requires_is_required(driver: Driver, fields: dict[str, object]) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, next(iter(fields))):
        driver.controller.CreateVolume(create_request(**{"name": unique(), **fields}), timeout=30)


@pytest.mark.parametrize(("size", "limit"), [(2 * GIB, GIB), (1 << 60, 0), (-1, 0), (0, 5), (5 * MIB + 1, 5 * MIB + 2)])
def test_a_size_that_cannot_be_had_is_out_of_range(driver: Driver, size: int, limit: int) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE):
        driver.create(size=size, limit=limit)


def test_credentials_of_the_request_win(driver: Driver, ceph: Ceph) -> None:
    key = ceph.command("auth get", entity=f"client.{ceph.user}")[0]["key"]  # type: ignore[index]
    with refused(grpc.StatusCode.PERMISSION_DENIED, "client.nobody"):
        driver.create(secrets={"userID": "nobody", "userKey": key})
    assert driver.create(secrets={"userID": ceph.user, "userKey": f"{key}\n"}).volume_id


@pytest.mark.parametrize("half", ["userID", "userKey"])
def test_half_a_credential_is_refused_without_showing_it(driver: Driver, half: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        driver.create(secrets={half: "QVFEc2VjcmV0"})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "QVFEc2VjcmV0" not in str(caught.value)
