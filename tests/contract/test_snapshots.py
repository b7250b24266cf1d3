"""Snapshots through the socket, with librbd as the other side. About 10 seconds."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from csi.pb import csi_pb2
from tests.contract.driver import GIB, MIB, Driver, refused, unique
from tests.harness.ceph import Ceph

Volume, Snapshot = csi_pb2.Volume, csi_pb2.Snapshot


@pytest.fixture
def volume(driver: Driver) -> Volume:
    return driver.create(size=8 * MIB)


def image_of(volume: Volume) -> str:
    return str(volume.volume_context["imageName"])


def get(driver: Driver, snapshot_id: str, **fields: object) -> Snapshot:
    return driver.controller.GetSnapshot(csi_pb2.GetSnapshotRequest(snapshot_id=snapshot_id, **fields), timeout=30).snapshot


def listed(driver: Driver, entries: int = 0, token: str = "", **fields: object) -> tuple[list[Snapshot], str]:
    request = csi_pb2.ListSnapshotsRequest(max_entries=entries, starting_token=token, **fields)
    answer = driver.controller.ListSnapshots(request, timeout=30)
    return [entry.snapshot for entry in answer.entries], answer.next_token


def walked(driver: Driver, entries: int, **fields: object) -> list[str]:
    seen, token = list[str](), ""
    while True:
        page, token = listed(driver, entries, token, **fields)
        assert len(page) <= entries
        seen += [snapshot.snapshot_id for snapshot in page]
        if not token:
            return seen


def test_a_snapshot_is_one_of_the_image_by_the_requests_name(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    name = unique("snapshot-")
    made = driver.snapshot(volume.volume_id, name)
    with ceph.open_image(image_of(volume)) as image:
        (there,) = image.list_snaps()
        assert there["name"] == name
        assert made.snapshot_id == f"{volume.volume_id}@{name}.{image.id()}"
        when = image.get_snap_timestamp(there["id"]).timestamp()
    assert abs(made.creation_time.ToDatetime().timestamp() - when) % 3600 < 2
    assert (made.size_bytes, made.source_volume_id) == (8 * MIB, volume.volume_id)
    assert (made.ready_to_use, made.group_snapshot_id) == (True, "")


def test_a_repeat_gives_the_same_answer(driver: Driver, volume: Volume) -> None:
    name = unique("snapshot-")
    assert driver.snapshot(volume.volume_id, name) == driver.snapshot(volume.volume_id, name)


def test_concurrent_repeats_all_get_the_same_answer(driver: Driver, volume: Volume) -> None:
    name, together = unique("snapshot-"), threading.Barrier(8)

    def ask(_: int) -> str:
        together.wait(60)
        return driver.snapshot(volume.volume_id, name).snapshot_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_the_same_name_for_another_volume_is_refused_naming_the_first(driver: Driver, volume: Volume) -> None:
    name, other = unique("snapshot-"), driver.create(size=MIB)
    driver.snapshot(volume.volume_id, name)
    with refused(grpc.StatusCode.ALREADY_EXISTS, volume.volume_id):
        driver.snapshot(other.volume_id, name)


def test_it_is_told_of_until_it_is_deleted(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    made = driver.snapshot(volume.volume_id)
    assert get(driver, made.snapshot_id) == made
    driver.delete_snapshot(made.snapshot_id)
    with refused(grpc.StatusCode.NOT_FOUND, made.snapshot_id):
        get(driver, made.snapshot_id)
    with ceph.open_image(image_of(volume)) as image:
        assert list(image.list_snaps()) == []


def test_deleting_twice_is_fine(driver: Driver, volume: Volume) -> None:
    made = driver.snapshot(volume.volume_id)
    driver.delete_snapshot(made.snapshot_id)
    driver.delete_snapshot(made.snapshot_id)


def test_a_name_may_be_used_again_for_another_volume_once_its_snapshot_is_gone(driver: Driver, volume: Volume) -> None:
    name, other = unique("snapshot-"), driver.create(size=MIB)
    driver.delete_snapshot(driver.snapshot(volume.volume_id, name).snapshot_id)
    assert driver.snapshot(other.volume_id, name).source_volume_id == other.volume_id


def test_a_volume_that_was_made_again_does_not_answer_for_its_predecessors_snapshots(driver: Driver) -> None:
    name = unique()
    first = driver.create(name, MIB)
    old = driver.snapshot(first.volume_id)
    driver.delete(first.volume_id)
    driver.create(name, 2 * MIB)
    assert get(driver, old.snapshot_id).size_bytes == MIB
    assert listed(driver, source_volume_id=first.volume_id)[0] == []


IDS = ("x", "dev/rbd/a", "dev/rbd/a@b", "dev/rbd/a@b.c", "dev/gone/a@b.c", "else/rbd/a@b.c", "dev/rbd/a@b.c/d", "@.", "ü" * 200)


@pytest.mark.parametrize("snapshot_id", IDS)
def test_an_id_that_names_nothing_is_not_found_and_deleted_already(driver: Driver, snapshot_id: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        get(driver, snapshot_id)
    driver.delete_snapshot(snapshot_id)
    assert listed(driver, snapshot_id=snapshot_id) == ([], "")


@pytest.mark.parametrize("volume_id", ["x", "dev/rbd/none", "dev/gone/a", "else/rbd/a"])
def test_a_snapshot_of_nothing_is_not_found(driver: Driver, volume_id: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, volume_id):
        driver.snapshot(volume_id)
    assert listed(driver, source_volume_id=volume_id) == ([], "")


@pytest.mark.parametrize(("fields", "word"), [({"name": ""}, "name"), ({"source_volume_id": ""}, "source_volume_id")])
def test_what_the_spec_requires_is_required(driver: Driver, volume: Volume, fields: dict[str, str], word: str) -> None:
    given = {"name": "s", "source_volume_id": volume.volume_id, **fields}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
        driver.controller.CreateSnapshot(csi_pb2.CreateSnapshotRequest(**given), timeout=30)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "snapshot_id"):
        driver.delete_snapshot("")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "snapshot_id"):
        get(driver, "")


@pytest.mark.parametrize(
    ("parameter", "word"), [("snapshotNamePrefix", "named as the request"), ("clusterId", "unknown"), ("pool", "on the image")]
)
def test_a_parameter_that_cannot_be_honoured_is_named(driver: Driver, volume: Volume, parameter: str, word: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, parameter, word):
        driver.snapshot(volume.volume_id, parameters={parameter: "a"})


def test_parameters_of_the_class_and_of_the_sidecar_are_taken(driver: Driver, volume: Volume) -> None:
    told = {"clusterID": "dev", "csi.storage.k8s.io/volumesnapshot/name": "a"}
    assert driver.snapshot(volume.volume_id, parameters=told).ready_to_use
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "clusterID", "dev"):
        driver.snapshot(volume.volume_id, parameters={"clusterID": "else"})


def test_credentials_of_the_request_win(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    key = ceph.command("auth get", entity=f"client.{ceph.user}")[0]["key"]  # type: ignore[index]
    theirs, ours = ({"userID": user, "userKey": key} for user in ("nobody", ceph.user))
    made = driver.snapshot(volume.volume_id, secrets=ours)
    for call in (
        lambda: driver.snapshot(volume.volume_id, secrets=theirs),
        lambda: get(driver, made.snapshot_id, secrets=theirs),
        lambda: listed(driver, source_volume_id=volume.volume_id, secrets=theirs),
        lambda: listed(driver, secrets=theirs),
        lambda: driver.delete_snapshot(made.snapshot_id, secrets=theirs),
    ):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "client.nobody"):
            call()
    assert get(driver, made.snapshot_id, secrets=ours) == made
    driver.delete_snapshot(made.snapshot_id, secrets=ours)


@pytest.mark.parametrize("entries", [1, 2, 5])
def test_pages_of_any_size_tell_every_snapshot_once(driver: Driver, volume: Volume, entries: int) -> None:
    other = driver.create(size=MIB)
    made = {driver.snapshot(each.volume_id).snapshot_id for each in (volume, volume, other)}
    every = walked(driver, entries)
    assert len(every) == len(set(every))
    assert made <= set(every)


@pytest.mark.parametrize("entries", [1, 2, 5])
def test_snapshots_of_one_volume_are_told_oldest_first(driver: Driver, volume: Volume, entries: int) -> None:
    made = [driver.snapshot(volume.volume_id).snapshot_id for _ in range(4)]
    assert walked(driver, entries, source_volume_id=volume.volume_id) == made


def test_a_page_goes_on_though_the_snapshot_before_it_was_deleted(driver: Driver, volume: Volume) -> None:
    made = [driver.snapshot(volume.volume_id).snapshot_id for _ in range(3)]
    _, token = listed(driver, 1, source_volume_id=volume.volume_id)
    driver.delete_snapshot(made[0])
    page, _ = listed(driver, 5, token, source_volume_id=volume.volume_id)
    assert [each.snapshot_id for each in page] == made[1:]


def test_one_snapshot_is_told_by_its_id(driver: Driver, volume: Volume) -> None:
    made = driver.snapshot(volume.volume_id)
    assert listed(driver, snapshot_id=made.snapshot_id) == ([made], "")
    assert listed(driver, snapshot_id=made.snapshot_id, source_volume_id=volume.volume_id) == ([made], "")
    assert listed(driver, snapshot_id=made.snapshot_id, source_volume_id="dev/rbd/else") == ([], "")


@pytest.mark.parametrize("fields", [{}, {"source_volume_id": "set by the test"}])
def test_a_token_of_nobodys_is_aborted(driver: Driver, volume: Volume, fields: dict[str, str]) -> None:
    given = dict.fromkeys(fields, volume.volume_id)
    for token in ("x", "bm9uZQ==", "W10="):
        with refused(grpc.StatusCode.ABORTED, token):
            listed(driver, token=token, **given)


def test_a_foreign_snapshot_is_neither_told_of_nor_deleted(driver: Driver, ceph: Ceph, volume: Volume) -> None:
    with ceph.open_image(image_of(volume)) as image:
        image.create_snap("by-hand")
        foreign = f"{volume.volume_id}@by-hand.{image.id()}"
        with refused(grpc.StatusCode.NOT_FOUND):
            get(driver, foreign)
        driver.delete_snapshot(foreign)
        assert [each["name"] for each in image.list_snaps()] == ["by-hand"]
    assert listed(driver, source_volume_id=volume.volume_id) == ([], "")


def test_a_snapshot_keeps_the_size_that_its_volume_had(driver: Driver, volume: Volume) -> None:
    made = driver.snapshot(volume.volume_id)
    grow = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume.volume_id)
    grow.capacity_range.required_bytes = GIB
    driver.controller.ControllerExpandVolume(grow, timeout=30)
    assert get(driver, made.snapshot_id).size_bytes == 8 * MIB
