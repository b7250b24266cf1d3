"""Group snapshots through the socket, with librbd as the other side: who reads, who writes meanwhile. About 15 seconds."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import rbd

from csi.pb import csi_pb2
from provisioner.ceph.groups import GROUPS
from tests.contract.driver import MIB, Driver, refused, unique
from tests.harness.ceph import Ceph
from tests.harness.store import drop_omap, omap
from tests.harness.writer import number_in, writing

Group, Volume, Source = csi_pb2.VolumeGroupSnapshot, csi_pb2.Volume, csi_pb2.VolumeContentSource


@pytest.fixture
def volumes(driver: Driver) -> list[Volume]:
    return [driver.create(size=4 * MIB) for _ in range(3)]


def ids(volumes: Sequence[Volume]) -> list[str]:
    return [volume.volume_id for volume in volumes]


def image_of(volume: Volume) -> str:
    return str(volume.volume_context["imageName"])


def take(driver: Driver, sources: Sequence[str], name: str = "", **fields: object) -> Group:
    request = csi_pb2.CreateVolumeGroupSnapshotRequest(name=name or unique("group-"), source_volume_ids=sources, **fields)
    return driver.groups.CreateVolumeGroupSnapshot(request, timeout=60).group_snapshot


def get(driver: Driver, group_id: str, members: Sequence[str] = ()) -> Group:
    request = csi_pb2.GetVolumeGroupSnapshotRequest(group_snapshot_id=group_id, snapshot_ids=members)
    return driver.groups.GetVolumeGroupSnapshot(request, timeout=30).group_snapshot


def delete(driver: Driver, group_id: str, members: Sequence[str] = ()) -> None:
    request = csi_pb2.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group_id, snapshot_ids=members)
    driver.groups.DeleteVolumeGroupSnapshot(request, timeout=30)


def snapshots_of(ceph: Ceph, volume: Volume) -> list[str]:
    with ceph.open_image(image_of(volume)) as image:
        return [snapshot["name"] for snapshot in image.list_snaps()]


def members_of(group: Group) -> list[str]:
    return [snapshot.snapshot_id for snapshot in group.snapshots]


def test_a_group_has_a_ready_snapshot_of_each_volume(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    name = unique("group-")
    group = take(driver, ids(volumes), name)
    assert group.group_snapshot_id == f"dev/{ceph.pool}/@{name}"
    assert sorted(snapshot.source_volume_id for snapshot in group.snapshots) == sorted(ids(volumes))
    assert {(each.ready_to_use, each.group_snapshot_id) for each in group.snapshots} == {(True, group.group_snapshot_id)}
    assert group.ready_to_use
    assert abs(group.creation_time.seconds - time.time()) < 60


def test_a_member_is_a_snapshot_like_any_other(driver: Driver, volumes: list[Volume]) -> None:
    group = take(driver, ids(volumes))
    for member in group.snapshots:
        request = csi_pb2.GetSnapshotRequest(snapshot_id=member.snapshot_id)
        assert driver.controller.GetSnapshot(request, timeout=30).snapshot == member
        listed = csi_pb2.ListSnapshotsRequest(source_volume_id=member.source_volume_id)
        assert [each.snapshot for each in driver.controller.ListSnapshots(listed, timeout=30).entries] == [member]


def test_a_volume_is_restored_from_a_member(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    with ceph.open_image(image_of(volumes[0])) as image:
        image.write(b"before", MIB)
        (member,) = [each for each in take(driver, ids(volumes)).snapshots if each.source_volume_id == volumes[0].volume_id]
        image.write(b"behind", MIB)
    source = Source(snapshot=Source.SnapshotSource(snapshot_id=member.snapshot_id))
    restored = driver.create(size=4 * MIB, volume_content_source=source)
    with ceph.open_image(image_of(restored)) as image:
        assert image.read(MIB, 6) == b"before"


def test_a_repeat_gives_the_same_answer_in_whatever_order(driver: Driver, volumes: list[Volume]) -> None:
    name = unique("group-")
    group = take(driver, ids(volumes), name)
    assert take(driver, [*reversed(ids(volumes)), volumes[0].volume_id], name) == group
    assert get(driver, group.group_snapshot_id, members_of(group)) == group


def test_concurrent_repeats_all_get_the_same_answer(driver: Driver, volumes: list[Volume]) -> None:
    name, together = unique("group-"), threading.Barrier(5)

    def ask(_: int) -> tuple[str, ...]:
        together.wait(60)
        return tuple(members_of(take(driver, ids(volumes), name)))

    with ThreadPoolExecutor(5) as pool:
        assert len(set(pool.map(ask, range(5)))) == 1


def test_the_same_name_with_other_volumes_is_refused_naming_the_first(driver: Driver, volumes: list[Volume]) -> None:
    name = unique("group-")
    take(driver, ids(volumes[:2]), name)
    for sources in (volumes, volumes[:1], volumes[1:]):
        with refused(grpc.StatusCode.ALREADY_EXISTS, volumes[0].volume_id):
            take(driver, ids(sources), name)


def test_a_deleted_group_leaves_nothing(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    name = unique("group-")
    group = take(driver, ids(volumes), name)
    delete(driver, group.group_snapshot_id, members_of(group))
    delete(driver, group.group_snapshot_id, members_of(group))
    assert [snapshots_of(ceph, volume) for volume in volumes] == [[], [], []]
    assert traces(ceph, name) == []
    with refused(grpc.StatusCode.NOT_FOUND, group.group_snapshot_id):
        get(driver, group.group_snapshot_id)


def traces(ceph: Ceph, name: str) -> list[str]:
    """What lies in the pool under the group's name: its roll, entries in the index, marks."""
    with ceph.admin_pool() as pool:
        lists = [GROUPS, *(f"ceph-provisioner.snapshots.{digit:x}" for digit in range(16))]
        lists += [item.key for item in pool.list_objects() if item.key.startswith("rbd_header.")]
        return [f"{each}: {key}" for each in lists for key in omap(pool, each) if name in key]


def test_its_name_may_be_used_again_for_other_volumes(driver: Driver, volumes: list[Volume]) -> None:
    name = unique("group-")
    delete(driver, take(driver, ids(volumes[:2]), name).group_snapshot_id)
    assert len(take(driver, ids(volumes[2:]), name).snapshots) == 1


def test_a_member_does_not_go_alone(driver: Driver, volumes: list[Volume]) -> None:
    group = take(driver, ids(volumes))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, group.group_snapshot_id):
        driver.delete_snapshot(group.snapshots[0].snapshot_id)
    assert get(driver, group.group_snapshot_id) == group


def test_a_group_outlives_its_volumes(driver: Driver, volumes: list[Volume]) -> None:
    group = take(driver, ids(volumes))
    for volume in volumes:
        driver.delete(volume.volume_id)
    assert get(driver, group.group_snapshot_id) == group
    delete(driver, group.group_snapshot_id)
    with refused(grpc.StatusCode.NOT_FOUND):
        get(driver, group.group_snapshot_id)


def test_other_members_than_its_own_are_a_mismatch(driver: Driver, volumes: list[Volume]) -> None:
    group, foreign = take(driver, ids(volumes)), driver.snapshot(volumes[0].volume_id).snapshot_id
    for members in (members_of(group)[:2], [*members_of(group), foreign], ["x"]):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "snapshot_ids"):
            get(driver, group.group_snapshot_id, members)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "snapshot_ids"):
            delete(driver, group.group_snapshot_id, members)


def test_a_lost_roll_is_made_again_from_the_members(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    name = unique("group-")
    group = take(driver, ids(volumes), name)
    with ceph.admin_pool() as pool:
        drop_omap(pool, GROUPS, name)
        assert get(driver, group.group_snapshot_id, members_of(group)) == group
        assert take(driver, ids(volumes), name) == group
        drop_omap(pool, GROUPS, name)
    delete(driver, group.group_snapshot_id, members_of(group))
    assert traces(ceph, name) == []


@pytest.mark.parametrize("group_id", ["x", "dev/rbd/@none", "dev/gone/@a", "else/rbd/@a", "dev/rbd/a@b.c", "@", "ü" * 200])
def test_an_id_that_names_nothing_is_not_found_and_deleted_already(driver: Driver, group_id: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        get(driver, group_id)
    delete(driver, group_id)


def test_what_the_spec_requires_is_required(driver: Driver, volumes: list[Volume]) -> None:
    for given in ({"name": ""}, {"source_volume_ids": []}, {"source_volume_ids": [""]}):
        fields = {"name": "g", "source_volume_ids": ids(volumes), **given}
        with refused(grpc.StatusCode.INVALID_ARGUMENT, next(iter(given))):
            driver.groups.CreateVolumeGroupSnapshot(csi_pb2.CreateVolumeGroupSnapshotRequest(**fields), timeout=30)
    for call in (get, delete):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "group_snapshot_id"):
            call(driver, "")


@pytest.mark.parametrize("missing", ["x", "dev/rbd/none", "dev/gone/a", "else/rbd/a"])
def test_a_group_with_a_volume_that_is_not_there_is_not_taken(
    driver: Driver, ceph: Ceph, volumes: list[Volume], missing: str
) -> None:
    name = unique("group-")
    with refused(grpc.StatusCode.NOT_FOUND):
        take(driver, [*ids(volumes), missing], name)
    assert (traces(ceph, name), snapshots_of(ceph, volumes[0])) == ([], [])


def test_a_volume_without_exclusive_lock_is_named_and_nothing_taken(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    name, plain = unique("group-"), driver.create(size=MIB, parameters={"imageFeatures": "layering"})
    with refused(grpc.StatusCode.FAILED_PRECONDITION, plain.volume_id, "exclusive-lock"):
        take(driver, [*ids(volumes), plain.volume_id], name)
    assert (traces(ceph, name), [snapshots_of(ceph, each) for each in (*volumes, plain)]) == ([], [[], [], [], []])


def test_a_volume_that_a_client_keeps_locked_is_named_and_nothing_taken(
    driver: Driver, ceph: Ceph, volumes: list[Volume]
) -> None:
    name = unique("group-")
    with ceph.open_image(image_of(volumes[1])) as image:
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, volumes[1].volume_id):
            take(driver, ids(volumes), name)
    assert (traces(ceph, name), [snapshots_of(ceph, volume) for volume in volumes]) == ([], [[], [], []])
    assert len(take(driver, ids(volumes), name).snapshots) == 3


def test_a_snapshot_made_by_hand_under_a_members_name_is_left_alone(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    name = unique("group-")
    group = take(driver, ids(volumes), name)
    (member,) = [each for each in group.snapshots if each.source_volume_id == volumes[0].volume_id]
    by_hand = member.snapshot_id.split("@")[1].rpartition(".")[0]
    delete(driver, group.group_snapshot_id)
    with ceph.open_image(image_of(volumes[0])) as image:
        image.create_snap(by_hand)
    with refused(grpc.StatusCode.ALREADY_EXISTS, volumes[0].volume_id):
        take(driver, ids(volumes), name)
    assert [snapshots_of(ceph, volume) for volume in volumes] == [[by_hand], [], []]


def test_credentials_of_the_request_win(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    key = ceph.command("auth get", entity=f"client.{ceph.user}")[0]["key"]  # type: ignore[index]
    with refused(grpc.StatusCode.PERMISSION_DENIED, "client.nobody"):
        take(driver, ids(volumes), secrets={"userID": "nobody", "userKey": key})
    assert take(driver, ids(volumes), secrets={"userID": ceph.user, "userKey": key}).ready_to_use


def numbers(ceph: Ceph, group: Group, volumes: Sequence[Volume]) -> list[int]:
    """What the snapshots of the volumes, in order, hold."""
    names = {each.source_volume_id: each.snapshot_id.split("@")[1].rpartition(".")[0] for each in group.snapshots}
    with ceph.admin_pool() as pool:
        return [number_in(pool, image_of(volume), names[volume.volume_id]) for volume in volumes]


def test_no_write_is_in_a_group_without_those_before_it_and_none_fails(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    with ceph.admin_pool() as pool, writing(pool, [image_of(volume) for volume in volumes]) as writer:
        groups = []
        for _ in range(4):
            writer.goes_on(30)
            groups.append(take(driver, ids(volumes)))
    assert writer.failures == []
    for group in groups:
        first, second, third = numbers(ceph, group, volumes)
        assert first >= second >= third >= first - 1
    assert len({tuple(numbers(ceph, group, volumes)) for group in groups}) > 1


def test_groups_that_share_volumes_are_taken_side_by_side(driver: Driver, ceph: Ceph, volumes: list[Volume]) -> None:
    images = [image_of(volume) for volume in volumes]
    with ceph.admin_pool() as pool, writing(pool, images) as writer, ThreadPoolExecutor(3) as threads:
        orders = [ids(volumes), ids(volumes)[::-1], ids(volumes)[:2]]
        groups = list(threads.map(lambda sources: take(driver, sources), orders))
    assert writer.failures == []
    assert [len(group.snapshots) for group in groups] == [3, 3, 2]
