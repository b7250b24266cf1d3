"""Volumes from snapshots and volumes through the socket, with the bytes that librbd reads as the other side. About 15 seconds."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from csi.pb import csi_pb2
from tests.contract.driver import MIB, Driver, capability, refused, unique
from tests.harness.ceph import Ceph
from tests.harness.waiting import until

Volume, Source = csi_pb2.Volume, csi_pb2.VolumeContentSource
SIZE = 8 * MIB
PIECES = {0: b"first", 3 * MIB: b"x" * 70_000, SIZE - 5: b"last!"}


def image_of(volume: Volume) -> str:
    return str(volume.volume_context["imageName"])


def of_snapshot(snapshot_id: str) -> Source:
    return Source(snapshot=Source.SnapshotSource(snapshot_id=snapshot_id))


def of_volume(volume_id: str) -> Source:
    return Source(volume=Source.VolumeSource(volume_id=volume_id))


def content(ceph: Ceph, volume: Volume) -> bytes:
    with ceph.open_image(image_of(volume)) as image:
        data: bytes = image.read(0, image.size())
        return data


def fill(ceph: Ceph, volume: Volume, pieces: dict[int, bytes] = PIECES) -> bytes:
    with ceph.open_image(image_of(volume)) as image:
        for at, data in pieces.items():
            image.write(data, at)
    return content(ceph, volume)


@pytest.fixture
def volume(driver: Driver, ceph: Ceph) -> Volume:
    """A volume with something in it."""
    made = driver.create(size=SIZE)
    fill(ceph, made)
    return made


def test_a_restored_volume_holds_the_snapshots_bytes(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    frozen = content(ceph, volume)
    snapshot = driver.snapshot(volume.volume_id)
    fill(ceph, volume, {0: b"later", 5 * MIB: b"more"})
    source = of_snapshot(snapshot.snapshot_id)
    restored = driver.create(size=SIZE, volume_content_source=source)
    assert content(ceph, restored) == frozen
    assert restored.content_source == source


def test_a_cloned_volume_holds_the_volumes_bytes_and_lives_its_own_life(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    before = content(ceph, volume)
    source = of_volume(volume.volume_id)
    clone = driver.create(size=SIZE, volume_content_source=source)
    assert (content(ceph, clone), clone.content_source) == (before, source)
    fill(ceph, volume, {0: b"other"})
    assert content(ceph, clone) == before
    fill(ceph, clone, {0: b"clone"})
    assert content(ceph, volume)[:5] == b"other"


@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_copy_may_be_larger_and_is_empty_behind_the_source(driver: Driver, ceph: Ceph, volume: Volume, kind: str) -> None:
    source = of_volume(volume.volume_id) if kind == "volume" else of_snapshot(driver.snapshot(volume.volume_id).snapshot_id)
    made = driver.create(size=2 * SIZE, volume_content_source=source)
    assert made.capacity_bytes == ceph.info(image_of(made))["size"] == 2 * SIZE
    assert content(ceph, made) == content(ceph, volume) + bytes(SIZE)


@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_copy_smaller_than_its_source_is_out_of_range(driver: Driver, volume: Volume, kind: str) -> None:
    source = of_volume(volume.volume_id) if kind == "volume" else of_snapshot(driver.snapshot(volume.volume_id).snapshot_id)
    with refused(grpc.StatusCode.OUT_OF_RANGE):
        driver.create(size=SIZE - MIB, volume_content_source=source)
    with refused(grpc.StatusCode.OUT_OF_RANGE):
        driver.create(size=0, limit=SIZE - MIB, volume_content_source=source)


def test_without_a_size_a_copy_is_as_large_as_its_source(driver: Driver, volume: Volume) -> None:
    assert driver.create(size=0, volume_content_source=of_volume(volume.volume_id)).capacity_bytes == SIZE


@pytest.mark.parametrize("named", ["x", "dev/rbd/none", "dev/gone/a", "else/rbd/a"])
def test_a_source_that_is_not_there_is_not_found(driver: Driver, ceph: Ceph, named: str) -> None:
    for source in (of_volume(named), of_snapshot(named), of_snapshot(f"{named}@s.abc")):
        for size in (SIZE, 0):
            name = unique()
            with refused(grpc.StatusCode.NOT_FOUND):
                driver.create(name, size, volume_content_source=source)
            assert name not in ceph.images()


@pytest.mark.parametrize("source", [Source(), of_volume(""), of_snapshot("")])
def test_a_source_has_to_be_named(driver: Driver, source: Source) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume_content_source"):
        driver.create(volume_content_source=source)


def test_a_repeat_gives_the_same_answer_even_after_the_source_is_gone(driver: Driver, volume: Volume) -> None:
    snapshot, name = driver.snapshot(volume.volume_id), unique()
    made = driver.create(name, 0, volume_content_source=of_snapshot(snapshot.snapshot_id))
    driver.delete_snapshot(snapshot.snapshot_id)
    driver.delete(volume.volume_id)
    assert driver.create(name, 0, volume_content_source=of_snapshot(snapshot.snapshot_id)) == made


def test_the_same_name_with_another_source_is_refused(driver: Driver, volume: Volume) -> None:
    name = unique()
    driver.create(name, SIZE, volume_content_source=of_volume(volume.volume_id))
    for source in (of_snapshot(driver.snapshot(volume.volume_id).snapshot_id), of_volume(driver.create(size=SIZE).volume_id)):
        with refused(grpc.StatusCode.ALREADY_EXISTS, "source"):
            driver.create(name, SIZE, volume_content_source=source)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "source"):
        driver.create(name, SIZE)


def test_concurrent_repeats_all_get_the_same_answer(driver: Driver, volume: Volume) -> None:
    name, together, source = unique(), threading.Barrier(6), of_volume(volume.volume_id)

    def ask(_: int) -> str:
        together.wait(60)
        return driver.create(name, SIZE, volume_content_source=source).volume_id

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(6))) == {driver.id_of(name)}


@pytest.mark.parametrize("order", list(itertools.permutations(["volume", "snapshot", "restored"])), ids="-".join)
def test_what_is_left_is_whole_in_every_order_of_deleting(
    driver: Driver, ceph: Ceph, volume: Volume, order: tuple[str, ...]
) -> None:
    frozen = content(ceph, volume)
    snapshot = driver.snapshot(volume.volume_id)
    restored = driver.create(size=SIZE, volume_content_source=of_snapshot(snapshot.snapshot_id))
    left = {"volume", "snapshot", "restored"}
    for each in order:
        if each == "snapshot":
            driver.delete_snapshot(snapshot.snapshot_id)
        else:
            driver.delete(volume.volume_id if each == "volume" else restored.volume_id)
        left.remove(each)
        for there in left - {"snapshot"}:
            assert content(ceph, volume if there == "volume" else restored) == frozen
        if "snapshot" in left:
            again = driver.create(size=SIZE, volume_content_source=of_snapshot(snapshot.snapshot_id))
            assert content(ceph, again) == frozen
            driver.delete(again.volume_id)


def test_credentials_of_the_request_win(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    key = ceph.command("auth get", entity=f"client.{ceph.user}")[0]["key"]  # type: ignore[index]
    with refused(grpc.StatusCode.PERMISSION_DENIED, "client.nobody"):
        driver.create(size=SIZE, volume_content_source=of_volume(volume.volume_id), secrets={"userID": "nobody", "userKey": key})
    secrets = {"userID": ceph.user, "userKey": key}
    made = driver.create(size=SIZE, volume_content_source=of_volume(volume.volume_id), secrets=secrets)
    assert content(ceph, made) == content(ceph, volume)


def test_a_file_system_with_content_may_be_read_on_many_nodes(driver: Driver, volume: Volume) -> None:
    readers = capability(csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY)
    source = of_volume(volume.volume_id)
    assert driver.create(size=SIZE, volume_content_source=source, volume_capabilities=[readers]).volume_id


def test_a_copy_is_validated_like_any_volume(driver: Driver, volume: Volume) -> None:
    made = driver.create(size=SIZE, volume_content_source=of_volume(volume.volume_id))
    request = csi_pb2.ValidateVolumeCapabilitiesRequest(
        volume_id=made.volume_id, volume_capabilities=[capability()], parameters={"clusterID": "dev"}
    )
    assert driver.controller.ValidateVolumeCapabilities(request, timeout=30).HasField("confirmed")


def test_a_listing_tells_the_source(driver: Driver, volume: Volume) -> None:
    made = driver.create(size=SIZE, volume_content_source=of_volume(volume.volume_id))

    def found() -> list[Volume]:
        entries = driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30).entries
        return [entry.volume for entry in entries if entry.volume.volume_id == made.volume_id]

    assert until(found, 60, "it is listed") == [made]
