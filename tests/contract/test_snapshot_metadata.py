"""SnapshotMetadata through the socket, with the bytes that librbd reads from both snapshots as the other side. About 15 seconds.

Ceph knows of an object's first bytes how far they reach, not which of them were written: so a run may begin too early, within its
object, but never too late.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import grpc
import pytest
import rbd

from csi.pb import csi_pb2
from tests.contract.driver import GIB, MIB, Driver, refused, unique
from tests.harness.ceph import Ceph

K = 1 << 10
BLOCK = 4 * K
Runs = list[tuple[int, int]]


@dataclass(frozen=True)
class Written:
    """A volume of 64 MiB with two snapshots: `old`, and `new` after more was written, wiped and added."""

    image: str
    old: str
    new: str


@pytest.fixture(scope="module", params=["fast-diff", "layering"])
def written(driver: Driver, ceph: Ceph, request: pytest.FixtureRequest) -> Iterator[Written]:
    features = "layering" if request.param == "layering" else "layering,exclusive-lock,object-map,fast-diff"
    name = unique()
    driver.create(name, 60 * MIB, parameters={"imageFeatures": features})
    with ceph.open_image(name) as image:
        image.write(b"a" * 8 * K, 0)
        image.write(b"b" * 4 * K, 10 * MIB)
        image.write(b"c" * 4 * MIB, 20 * MIB)
        old = snapshot(driver, name)
        image.write(b"d" * 4 * K, 4 * K)
        image.discard(20 * MIB, 4 * MIB)
        image.resize(64 * MIB)
        image.write(b"e" * 4 * K, 64 * MIB - 4 * K)
        new = snapshot(driver, name)
    yield Written(name, old, new)
    for each in (old, new):
        driver.delete_snapshot(each)
    driver.delete(driver.id_of(name))


def snapshot(driver: Driver, name: str) -> str:
    return driver.snapshot(driver.id_of(name)).snapshot_id


def allocated(
    driver: Driver, snapshot_id: str, start: int = 0, most: int = 0, **fields: object
) -> list[csi_pb2.GetMetadataAllocatedResponse]:
    request = csi_pb2.GetMetadataAllocatedRequest(snapshot_id=snapshot_id, starting_offset=start, max_results=most, **fields)
    return list(driver.snapshot_metadata.GetMetadataAllocated(request, timeout=30))


def delta(driver: Driver, base: str, target: str, start: int = 0, most: int = 0) -> list[csi_pb2.GetMetadataDeltaResponse]:
    request = csi_pb2.GetMetadataDeltaRequest(
        base_snapshot_id=base, target_snapshot_id=target, starting_offset=start, max_results=most
    )
    return list(driver.snapshot_metadata.GetMetadataDelta(request, timeout=30))


def runs(answers: Sequence[csi_pb2.GetMetadataAllocatedResponse | csi_pb2.GetMetadataDeltaResponse]) -> Runs:
    return [(run.byte_offset, run.size_bytes) for answer in answers for run in answer.block_metadata]


def content(ceph: Ceph, image: str, snapshot_id: str) -> bytes:
    with ceph.admin_pool() as pool, rbd.Image(pool, image, snapshot_id.split("@")[1].rpartition(".")[0]) as opened:
        data: bytes = opened.read(0, opened.size())
        return data


def blocks(runs: Runs) -> set[int]:
    return {block for at, length in runs for block in range(at // BLOCK, -(-(at + length) // BLOCK))}


def differing(base: bytes, target: bytes) -> set[int]:
    base = base.ljust(len(target), b"\0")
    return {at // BLOCK for at in range(0, len(target), BLOCK) if base[at : at + BLOCK] != target[at : at + BLOCK]}


def test_all_that_a_snapshot_holds_is_told(driver: Driver, ceph: Ceph, written: Written) -> None:
    for snapshot_id in (written.old, written.new):
        holds = differing(b"", content(ceph, written.image, snapshot_id))
        assert holds <= blocks(runs(allocated(driver, snapshot_id)))


def test_objects_that_hold_nothing_are_not_told(driver: Driver, written: Written) -> None:
    assert runs(allocated(driver, written.old)) == [(0, 8 * K), (8 * MIB, 2 * MIB + 4 * K), (20 * MIB, 4 * MIB)]


def test_exactly_what_was_rewritten_wiped_or_added_differs(driver: Driver, ceph: Ceph, written: Written) -> None:
    told = blocks(runs(delta(driver, written.old, written.new)))
    true = differing(content(ceph, written.image, written.old), content(ceph, written.image, written.new))
    assert true <= told
    assert {block for block in told - true if block < 60 * MIB // BLOCK} == set()


def test_what_was_wiped_is_not_allocated(driver: Driver, written: Written) -> None:
    told = runs(allocated(driver, written.new))
    assert [run for run in told if 20 * MIB <= run[0] < 24 * MIB] == []


def test_every_message_tells_the_snapshots_own_size_and_that_runs_vary(driver: Driver, written: Written) -> None:
    for snapshot_id, size in ((written.old, 60 * MIB), (written.new, 64 * MIB)):
        answers = allocated(driver, snapshot_id, most=1)
        assert {(each.volume_capacity_bytes, each.block_metadata_type) for each in answers} == {(size, csi_pb2.VARIABLE_LENGTH)}


@pytest.mark.parametrize("most", [1, 2, 3, 1 << 30])
def test_no_message_holds_more_runs_than_asked_for(driver: Driver, written: Written, most: int) -> None:
    answers = delta(driver, written.old, written.new, most=most)
    assert max(len(each.block_metadata) for each in answers) <= most
    assert runs(answers) == runs(delta(driver, written.old, written.new))


def test_an_answer_is_taken_up_again_at_any_byte(driver: Driver, written: Written) -> None:
    whole = runs(allocated(driver, written.old))
    for start in (1, 8 * K - 1, 8 * K, 10 * MIB, 21 * MIB + 5, 24 * MIB, 60 * MIB):
        rest = [(max(at, start), at + length - max(at, start)) for at, length in whole if at + length > start]
        assert runs(allocated(driver, written.old, start)) == rest


def test_a_snapshot_against_itself_does_not_differ(driver: Driver, written: Written) -> None:
    (answer,) = delta(driver, written.new, written.new)
    assert (runs([answer]), answer.volume_capacity_bytes) == ([], 64 * MIB)


@pytest.mark.parametrize("start", [-1, 64 * MIB + 1])
def test_a_start_outside_of_the_snapshot_is_out_of_range(driver: Driver, written: Written, start: int) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "starting_offset"):
        allocated(driver, written.new, start)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "starting_offset"):
        delta(driver, written.old, written.new, start)


def test_a_foreign_snapshot_is_not_found(driver: Driver, ceph: Ceph, written: Written) -> None:
    with ceph.open_image(written.image) as image:
        image.create_snap("by-hand")
        foreign = f"{driver.id_of(written.image)}@by-hand.{image.id()}"
        try:
            with refused(grpc.StatusCode.NOT_FOUND, foreign):
                allocated(driver, foreign)
        finally:
            image.remove_snap("by-hand")


def test_a_member_of_a_group_snapshot_can_be_compared(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    volume_id = driver.create(name, 8 * MIB).volume_id
    base = snapshot(driver, name)
    with ceph.open_image(name) as image:
        image.write(b"x" * 4 * K, 4 * MIB)
    request = csi_pb2.CreateVolumeGroupSnapshotRequest(name=unique("group-"), source_volume_ids=[volume_id])
    group = driver.groups.CreateVolumeGroupSnapshot(request, timeout=60).group_snapshot
    assert runs(delta(driver, base, group.snapshots[0].snapshot_id)) == [(4 * MIB, 4 * K)]


def test_what_is_no_snapshot_is_not_found(driver: Driver, written: Written) -> None:
    others = (
        written.old.replace("@", "@other"),
        written.old.rpartition(".")[0] + ".abc",
        "dev/gone/a@b.c",
        "else/rbd/a@b.c",
        "x",
    )
    for other in others:
        with refused(grpc.StatusCode.NOT_FOUND, other):
            allocated(driver, other)
        with refused(grpc.StatusCode.NOT_FOUND, other):
            delta(driver, other, written.new)
        with refused(grpc.StatusCode.NOT_FOUND, other):
            delta(driver, written.old, other)


@pytest.mark.parametrize("field", ["base_snapshot_id", "target_snapshot_id"])
def test_both_snapshots_are_required(driver: Driver, written: Written, field: str) -> None:
    given = {"base_snapshot_id": written.old, "target_snapshot_id": written.new, field: ""}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
        list(driver.snapshot_metadata.GetMetadataDelta(csi_pb2.GetMetadataDeltaRequest(**given), timeout=30))


def test_the_older_snapshot_is_the_base(driver: Driver, written: Written) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "base_snapshot_id", "younger"):
        delta(driver, written.new, written.old)


def test_snapshots_of_two_volumes_are_not_compared(driver: Driver, ceph: Ceph, written: Written) -> None:
    other = unique()
    driver.create(other, MIB)
    foreign = snapshot(driver, other)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "base_snapshot_id"):
        delta(driver, foreign, written.new)


def test_a_negative_number_of_runs_is_refused(driver: Driver, written: Written) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "max_results"):
        allocated(driver, written.new, most=-1)


def test_credentials_of_the_request_win(driver: Driver, ceph: Ceph, written: Written) -> None:
    key = ceph.command("auth get", entity=f"client.{ceph.user}")[0]["key"]  # type: ignore[index]
    with refused(grpc.StatusCode.PERMISSION_DENIED, "client.nobody"):
        allocated(driver, written.new, secrets={"userID": "nobody", "userKey": key})
    assert allocated(driver, written.new, secrets={"userID": ceph.user, "userKey": key}) == allocated(driver, written.new)


def test_the_service_is_declared(driver: Driver) -> None:
    told = driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest(), timeout=5)
    kinds = {each.service.type for each in told.capabilities}
    assert csi_pb2.PluginCapability.Service.SNAPSHOT_METADATA_SERVICE in kinds


def test_a_sparse_volume_of_a_tebibyte_is_told_at_once(driver: Driver, ceph: Ceph) -> None:
    name, at = unique(), [5 * GIB, 300 * GIB, 1023 * GIB]
    driver.create(name, 1024 * GIB)
    with ceph.open_image(name) as image:
        for offset in at:
            image.write(b"x" * 4 * K, offset)
        told = allocated(driver, snapshot(driver, name))
    assert runs(told) == [(offset, 4 * K) for offset in at]


def test_runs_of_a_striped_volume_come_in_order(driver: Driver, ceph: Ceph) -> None:
    name = unique()
    striped = {"objectSize": str(64 * K), "stripeUnit": str(4 * K), "stripeCount": "4"}
    driver.create(name, 8 * MIB, parameters=striped)
    with ceph.open_image(name) as image:
        for offset in range(0, 8 * MIB, 36 * K):
            image.write(b"x" * 4 * K, offset)
        told = runs(allocated(driver, snapshot(driver, name)))
    assert all(run[0] + run[1] <= following[0] for run, following in pairwise(told))
    assert {offset // BLOCK for offset in range(0, 8 * MIB, 36 * K)} <= blocks(told)
