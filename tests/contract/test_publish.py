"""Publish and unpublish through the socket, with real clients as nodes. About 8 seconds."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2
from provisioner.core.attachments import Node
from provisioner.core.ids import Place, VolumeId
from tests.contract.driver import Driver, capability, refused, running, unique
from tests.harness.ceph import Ceph
from tests.harness.nodeclient import NodeClient
from tests.harness.store import blocklisted

Mode = csi_pb2.VolumeCapability.AccessMode
CUT_OFF = "failed 108"
ELSEWHERE = "192.0.2.7"


def publish(
    driver: Driver, volume_id: str, node: str, asked: csi_pb2.VolumeCapability | None = None, **fields: object
) -> dict[str, str]:
    request = csi_pb2.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id=node, volume_capability=asked or capability(), **fields
    )
    return dict(driver.controller.ControllerPublishVolume(request, timeout=30).publish_context)


def unpublish(driver: Driver, volume_id: str, node: str = "") -> None:
    request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node)
    driver.controller.ControllerUnpublishVolume(request, timeout=30)


def published(driver: Driver, volume_id: str) -> list[str]:
    request = csi_pb2.ControllerGetVolumeRequest(volume_id=volume_id)
    return list(driver.controller.ControllerGetVolume(request, timeout=30).status.published_node_ids)


def new_node(driver: Driver) -> str:
    name = f"node-{uuid.uuid4().hex[:8]}"
    driver.attachments.enrol_node("dev", Node(name, (ELSEWHERE,)))
    return name


@pytest.fixture
def node(driver: Driver) -> str:
    return new_node(driver)


@pytest.fixture
def other(driver: Driver) -> str:
    return new_node(driver)


# --- publish ---


def test_a_node_is_told_all_that_it_needs_but_the_key(driver: Driver, ceph: Ceph, node: str) -> None:
    name = unique()
    made = driver.create(name, parameters={"mapOptions": "noshare"})
    told = publish(driver, made.volume_id, node, volume_context=dict(made.volume_context))
    assert told == {
        "clusterID": "dev",
        "monitors": ",".join(ceph.monitors),
        "pool": ceph.pool,
        "imageName": name,
        "imageID": ceph.image_ids()[name],
        "mapOptions": "noshare",
    }


def test_the_user_of_the_request_is_named_and_its_key_is_not(driver: Driver, ceph: Ceph, node: str) -> None:
    user = ceph.make_user(f"u{uuid.uuid4().hex[:8]}", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    volume = driver.create().volume_id
    told = publish(driver, volume, node, secrets={"userID": user.name, "userKey": user.key}, readonly=True)
    assert (told["user"], told["readOnly"]) == (user.name, "true")
    assert user.key not in str(told)


def test_a_repeat_is_success_also_at_once(driver: Driver, node: str) -> None:
    volume = driver.create().volume_id
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: publish(driver, volume, node), range(8)))
    assert told == told[:1] * 8
    assert published(driver, volume) == [node]


def test_a_volume_for_one_node_is_refused_to_another_by_the_first_ones_name(driver: Driver, node: str, other: str) -> None:
    volume = driver.create().volume_id
    publish(driver, volume, node)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, node):
        publish(driver, volume, other)


@pytest.mark.parametrize(
    ("asked", "readonly", "word"),
    [
        (capability(), True, "readonly"),
        (capability(block=True), False, "block device"),
        (capability(Mode.SINGLE_NODE_SINGLE_WRITER), False, "single-node-single-writer"),
    ],
)
def test_another_use_on_the_same_node_already_exists(
    driver: Driver, node: str, asked: csi_pb2.VolumeCapability, *, readonly: bool, word: str
) -> None:
    volume = driver.create().volume_id
    publish(driver, volume, node)
    with refused(grpc.StatusCode.ALREADY_EXISTS, word):
        publish(driver, volume, node, asked, readonly=readonly)


def test_a_block_volume_for_many_is_everywhere_at_once_and_listed_so(driver: Driver) -> None:
    nodes = [new_node(driver) for _ in range(6)]
    many = capability(Mode.MULTI_NODE_MULTI_WRITER, block=True)
    volume = driver.create(volume_capabilities=[many]).volume_id
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: publish(driver, volume, name, many), nodes))
    entries = driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30).entries
    (told,) = [entry.status.published_node_ids for entry in entries if entry.volume.volume_id == volume]
    assert sorted(told) == sorted(nodes)
    unpublish(driver, volume)
    assert published(driver, volume) == []


@pytest.mark.parametrize(
    ("volume_id", "node_id", "fields", "word"),
    [
        ("", "n", {"volume_capability": capability()}, "volume_id"),
        ("dev/rbd/x", "", {"volume_capability": capability()}, "node_id"),
        ("dev/rbd/x", "n", {}, "volume_capability"),
        ("dev/rbd/x", "n", {"volume_capability": capability(Mode.MULTI_NODE_MULTI_WRITER)}, "block volume"),
    ],
)
def test_what_is_missing_or_can_not_be_is_invalid(
    driver: Driver, volume_id: str, node_id: str, fields: dict[str, object], word: str
) -> None:
    request = csi_pb2.ControllerPublishVolumeRequest(volume_id=volume_id, node_id=node_id, **fields)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
        driver.controller.ControllerPublishVolume(request, timeout=30)


@pytest.mark.parametrize("volume_id", ["fake", "prod/rbd/x", "dev/no-such-pool/x", "dev/rbd/none", "dev/rbd/x@y"])
def test_a_volume_that_can_not_be_there_is_not_found(driver: Driver, node: str, volume_id: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        publish(driver, volume_id, node)


def test_a_node_that_never_enrolled_is_not_found(driver: Driver) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "nobody"):
        publish(driver, driver.create().volume_id, "nobody")


def test_a_published_volume_is_not_deleted(driver: Driver, ceph: Ceph, node: str) -> None:
    name = unique()
    volume = driver.create(name).volume_id
    publish(driver, volume, node)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, node):
        driver.delete(volume)
    unpublish(driver, volume, node)
    driver.delete(volume)
    assert name not in ceph.images()


def test_a_clone_of_a_published_volume_is_published_nowhere(driver: Driver, node: str, other: str) -> None:
    source = driver.create()
    publish(driver, source.volume_id, node)
    content = csi_pb2.VolumeContentSource(volume=csi_pb2.VolumeContentSource.VolumeSource(volume_id=source.volume_id))
    clone = driver.create(volume_content_source=content).volume_id
    assert published(driver, clone) == []
    publish(driver, clone, other)
    assert (published(driver, source.volume_id), published(driver, clone)) == ([node], [other])


# --- unpublish ---


@pytest.mark.parametrize("volume_id", ["fake", "dev/no-such-pool/x", "dev/rbd/none", "dev/rbd/x@y"])
def test_what_can_not_be_there_is_unpublished(driver: Driver, node: str, volume_id: str) -> None:
    unpublish(driver, volume_id, node)
    unpublish(driver, volume_id)


def test_of_a_cluster_that_is_not_configured_nobody_says_that_it_is_unpublished(driver: Driver, node: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "prod"):
        unpublish(driver, "prod/rbd/pvc-1", node)


def test_an_unknown_node_and_a_repeat_are_success(driver: Driver, node: str) -> None:
    volume = driver.create().volume_id
    publish(driver, volume, node)
    unpublish(driver, volume, "nobody")
    assert published(driver, volume) == [node]
    unpublish(driver, volume, node)
    unpublish(driver, volume, node)


def test_an_id_is_required(driver: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_id"):
        unpublish(driver, "", "n")


def test_once_unpublish_is_answered_the_node_can_not_write_and_the_next_one_has_the_volume(
    driver: Driver, ceph: Ceph, node: str, other: str
) -> None:
    name = unique()
    volume = driver.create(name).volume_id
    publish(driver, volume, node)
    client = NodeClient(ceph, Place("dev", ceph.pool), name)
    try:
        driver.attachments.record_client(VolumeId.parse(volume), node, client.address)
        assert client.ask("write late") == "written"
        with refused(grpc.StatusCode.FAILED_PRECONDITION, node):
            publish(driver, volume, other)
        unpublish(driver, volume, node)
        assert client.address in blocklisted(ceph)
        publish(driver, volume, other)
        assert client.ask("flush") == CUT_OFF
    finally:
        client.kill()


def test_while_the_fence_can_not_be_verified_unpublish_is_unavailable_and_the_node_keeps_the_volume(
    ceph: Ceph, tmp_path: Path, driver: Driver, node: str
) -> None:
    with running(ceph, tmp_path, timeout=2) as hasty:
        volume = hasty.create().volume_id
        publish(hasty, volume, node)
        hasty.attachments.record_client(VolumeId.parse(volume), node, "192.0.2.9:0/77")
        with ceph.frozen_osd(), refused(grpc.StatusCode.UNAVAILABLE):
            unpublish(hasty, volume, node)
        assert published(driver, volume) == [node]
        unpublish(hasty, volume, node)
        assert published(driver, volume) == []


def test_two_controllers_give_a_volume_to_one_of_two_nodes(
    ceph: Ceph, tmp_path: Path, driver: Driver, node: str, other: str
) -> None:
    with running(ceph, tmp_path) as second:
        for _ in range(10):
            volume = driver.create().volume_id
            start = threading.Barrier(2)
            with ThreadPoolExecutor(2) as pool:
                tries = [pool.submit(_outcome, start, each, volume, name) for each, name in ((driver, node), (second, other))]
                assert sorted(str(each.result()) for each in tries) == ["FAILED_PRECONDITION", "OK"]
            assert len(published(driver, volume)) == 1


def _outcome(start: threading.Barrier, driver: Driver, volume: str, node: str) -> str:
    start.wait(60)
    try:
        publish(driver, volume, node)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
