"""Two clusters in one controller, and a request's user who may work in one pool only, through the socket. About 25 seconds."""

from collections.abc import Iterator

import grpc
import pytest

from csi.pb import csi_pb2
from provisioner.core.attachments import Node
from tests.contract.driver import MIB, Driver, capability, refused, running, unique
from tests.harness.ceph import Ceph

Source = csi_pb2.VolumeContentSource
PRIVATE = "private-of-clusters"
ONE, TWO = {"clusterID": "one"}, {"clusterID": "two"}


@pytest.fixture(scope="module")
def both(ceph: Ceph, second: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A controller of clusters `one` and `two`; in the first there is a pool that its user may not even read."""
    ceph.make_pool(PRIVATE)
    clusters = {"one": ceph.config("one", 5), "two": second.config("two", 5)}
    try:
        with running(ceph, tmp_path_factory.mktemp("csi"), clusters=clusters) as driver:
            for cluster in clusters:
                driver.attachments.enrol_node(cluster, Node("node-of-both", ("192.0.2.7",)))
            yield driver
    finally:
        ceph.drop_pool(PRIVATE)


@pytest.fixture(scope="module")
def secrets(both: Driver, ceph: Ceph) -> dict[str, str]:
    user = ceph.make_user("tenant-of-clusters", mon="profile rbd", osd=f"profile rbd pool={PRIVATE}")
    return {"userID": user.name, "userKey": user.key}


def copied(driver: Driver, source: str, parameters: dict[str, str], **fields: object) -> csi_pb2.Volume:
    of = {"snapshot": Source.SnapshotSource(snapshot_id=source)} if "@" in source else {}
    content = Source(**(of or {"volume": Source.VolumeSource(volume_id=source)}))
    return driver.create(size=4 * MIB, parameters=parameters, volume_content_source=content, **fields)


def publish(driver: Driver, volume_id: str, **fields: object) -> dict[str, str]:
    request = csi_pb2.ControllerPublishVolumeRequest(
        volume_id=volume_id, node_id="node-of-both", volume_capability=capability(), **fields
    )
    return dict(driver.controller.ControllerPublishVolume(request, timeout=30).publish_context)


def unpublish(driver: Driver, volume_id: str, **fields: object) -> None:
    request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id="node-of-both", **fields)
    driver.controller.ControllerUnpublishVolume(request, timeout=30)


def group(driver: Driver, name: str, *volumes: str, **fields: object) -> csi_pb2.VolumeGroupSnapshot:
    request = csi_pb2.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=volumes, **fields)
    return driver.groups.CreateVolumeGroupSnapshot(request, timeout=60).group_snapshot


def snapshots(driver: Driver) -> set[str]:
    answer = driver.controller.ListSnapshots(csi_pb2.ListSnapshotsRequest(), timeout=30)
    return {entry.snapshot.snapshot_id for entry in answer.entries}


class TestTwoClusters:
    def test_each_has_its_own_volumes_and_snapshots_of_the_same_names(self, both: Driver) -> None:
        volume, snapshot = unique(), unique("snapshot-")
        volumes = [both.create(volume, 4 * MIB, parameters=cluster).volume_id for cluster in (ONE, TWO)]
        taken = [both.snapshot(each, snapshot).snapshot_id for each in volumes]
        assert [each.partition("/")[0] for each in taken] == ["one", "two"]
        assert set(taken) <= snapshots(both)
        both.delete_snapshot(taken[0])
        assert snapshots(both) & set(taken) == {taken[1]}

    def test_a_volume_is_copied_within_its_cluster_only(self, both: Driver) -> None:
        volume = both.create(size=4 * MIB, parameters=TWO).volume_id
        for source in (volume, both.snapshot(volume).snapshot_id):
            assert copied(both, source, TWO).volume_id.startswith("two/")
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "cluster"):
                copied(both, source, ONE)

    def test_a_group_is_of_one_cluster(self, both: Driver) -> None:
        one, two = (both.create(size=4 * MIB, parameters=cluster).volume_id for cluster in (ONE, TWO))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "one, two"):
            group(both, unique("group-"), one, two)
        assert group(both, unique("group-"), two).group_snapshot_id.startswith("two/")

    def test_a_node_is_told_the_monitors_of_the_volumes_cluster(self, both: Driver, second: Ceph) -> None:
        volume = both.create(size=4 * MIB, parameters=TWO).volume_id
        told = publish(both, volume)
        assert (told["clusterID"], told["monitors"]) == ("two", ",".join(second.monitors))
        unpublish(both, volume)

    def test_one_that_hangs_holds_up_nothing_of_the_other(self, both: Driver, second: Ceph) -> None:
        theirs = both.create(size=4 * MIB, parameters=TWO).volume_id
        with second.frozen_osd():
            with refused(grpc.StatusCode.UNAVAILABLE):
                both.create(size=4 * MIB, parameters=TWO)
            ours = both.create(size=4 * MIB, parameters=ONE).volume_id
            both.delete_snapshot(both.snapshot(ours).snapshot_id)
            both.delete(ours)
            assert both.identity.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value
        both.delete(theirs)


class TestSecretsOfARequest:
    """They win over the config file's in every call, also where their user can't reach what belongs to the cluster."""

    CLASS = {**ONE, "pool": PRIVATE}

    @pytest.fixture
    def volume(self, both: Driver, secrets: dict[str, str]) -> str:
        return str(both.create(size=4 * MIB, parameters=self.CLASS, secrets=secrets).volume_id)

    def test_a_snapshot_is_taken_restored_and_deleted(self, both: Driver, secrets: dict[str, str], volume: str) -> None:
        snapshot = both.snapshot(volume, secrets=secrets).snapshot_id
        assert copied(both, snapshot, self.CLASS, secrets=secrets).volume_id.startswith(f"one/{PRIVATE}/")
        both.delete_snapshot(snapshot, secrets=secrets)

    def test_a_volume_is_cloned(self, both: Driver, secrets: dict[str, str], volume: str) -> None:
        assert copied(both, volume, self.CLASS, secrets=secrets).volume_id.startswith(f"one/{PRIVATE}/")

    def test_a_group_is_taken(self, both: Driver, secrets: dict[str, str], volume: str) -> None:
        assert group(both, unique("group-"), volume, secrets=secrets).ready_to_use

    def test_it_is_published_and_unpublished(self, both: Driver, secrets: dict[str, str], volume: str) -> None:
        assert publish(both, volume, secrets=secrets)["user"] == secrets["userID"]
        unpublish(both, volume, secrets=secrets)

    def test_without_them_all_is_denied(self, both: Driver, volume: str) -> None:
        attempts = (both.delete, both.snapshot, lambda each: publish(both, each), lambda each: copied(both, each, self.CLASS))
        for attempt in attempts:
            with refused(grpc.StatusCode.PERMISSION_DENIED):
                attempt(volume)
