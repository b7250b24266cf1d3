"""VolumeRuntime's snapshots through the socket, with `rbd` as the other side. About 5 s."""

import time

import grpc
import pytest

from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from tests.contract.driver import refused
from tests.contract.iri import LABEL, MIB, SNAPSHOT, Runtime, new_uid
from tests.harness.ceph import Ceph


def snapshots_of(ceph: Ceph, image: str) -> list[str]:
    with ceph.open_image(image) as opened:
        return [each["name"] for each in opened.list_snaps()]


def test_a_snapshot_is_ready_at_once_and_one_of_rbds_own(runtime: Runtime, ceph: Ceph) -> None:
    made, asked = runtime.create(size=2 * MIB), time.time()
    taken = runtime.snap(uid := new_uid(), made.metadata.id)
    assert taken.metadata.id == uid
    assert (taken.status.state, taken.status.size) == (pb.VOLUME_SNAPSHOT_READY, 2 * MIB)
    assert taken.spec.volume_id == made.metadata.id
    assert asked - 2 < taken.metadata.created_at / 1e9 < time.time() + 2
    assert snapshots_of(ceph, made.metadata.id) == [uid]


def test_a_repeat_gives_the_same_snapshot(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=MIB)
    first = runtime.snap(uid := new_uid(), made.metadata.id)
    assert runtime.snap(uid, made.metadata.id) == first
    assert snapshots_of(ceph, made.metadata.id) == [uid]


def test_lists_go_by_id_and_by_every_label_exactly(runtime: Runtime) -> None:
    made = runtime.create(size=MIB)
    one, other = runtime.snap(new_uid(), made.metadata.id), runtime.snap(new_uid(), made.metadata.id)
    mine = dict(one.metadata.labels)
    assert runtime.shots(id=one.metadata.id) == runtime.shots(label_selector=mine) == [one]
    by_name = {key: mine[key] for key in (f"{SNAPSHOT}namespace", f"{SNAPSHOT}name")}
    assert runtime.shots(label_selector=by_name) == [one]
    assert runtime.shots(label_selector=mine | {f"{SNAPSHOT}namespace": "else"}) == []
    assert {one.metadata.id, other.metadata.id} <= {each.metadata.id for each in runtime.shots()}
    assert runtime.shots(id=new_uid()) == runtime.shots(label_selector={f"{SNAPSHOT}uid": new_uid()}) == []


def test_the_kubernetes_name_of_a_volume_is_understood_in_place_of_its_id(runtime: Runtime) -> None:
    made = runtime.create(size=MIB)
    taken = runtime.snap(new_uid(), made.metadata.labels[f"{LABEL}name"])
    assert taken.spec.volume_id == made.metadata.id
    with refused(grpc.StatusCode.NOT_FOUND):
        runtime.snap(new_uid(), made.metadata.labels[f"{LABEL}name"], **{f"{SNAPSHOT}namespace": "else"})


def test_a_deleted_snapshot_is_gone_from_lists_and_from_the_image(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=MIB)
    taken = runtime.snap(uid := new_uid(), made.metadata.id)
    runtime.drop(taken.metadata.id)
    assert runtime.shots(label_selector={f"{SNAPSHOT}uid": uid}) == []
    assert snapshots_of(ceph, made.metadata.id) == []
    with refused(grpc.StatusCode.NOT_FOUND):
        runtime.drop(taken.metadata.id)


def test_events_tell_of_a_snapshots_life(runtime: Runtime) -> None:
    made = runtime.create(size=MIB)
    runtime.snap(uid := new_uid(), made.metadata.id)
    runtime.drop(uid)
    wanted = pb.EventFilter(label_selector={f"{SNAPSHOT}uid": uid})
    events = runtime.stub.ListEvents(pb.ListEventsRequest(filter=wanted), timeout=30).events
    assert [event.spec.reason for event in events] == ["VolumeSnapshotCreated", "VolumeSnapshotDeleted"]


@pytest.mark.parametrize("volume_id", ["", "no-such-volume", "a/b"])
def test_a_volume_that_there_is_not_has_no_snapshots(runtime: Runtime, volume_id: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        runtime.snap(new_uid(), volume_id)
    expected = grpc.StatusCode.NOT_FOUND if volume_id else grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.code() is expected
    assert "volume" in caught.value.details()


def test_another_volumes_snapshot_under_the_same_uid_is_refused(runtime: Runtime) -> None:
    one, other = runtime.create(size=MIB), runtime.create(size=MIB)
    runtime.snap(uid := new_uid(), one.metadata.id)
    with refused(grpc.StatusCode.ALREADY_EXISTS, one.metadata.id):
        runtime.snap(uid, other.metadata.id)
