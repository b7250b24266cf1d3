"""Pods on a real kubelet write to volumes of ours and find again what they wrote. About 90 seconds, 20 of them the start.

Kubernetes 1.36, containerd, the standard sidecars, our controller and our node service, each a process of its own with the
rights that manifests/overlays/csi gives it; images are attached by `mounter: fuse`, which needs no module of the kernel.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2, csi_pb2_grpc
from hack.kubernetes.cluster import free_ports
from hack.kubernetes.remains import mounts, storage_daemons
from hack.sidecars.build import sidecars
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, Object
from tests.contract.driver import capability
from tests.harness import kubernetes as kubernetes_harness
from tests.harness import snapshots
from tests.harness.ceph import Ceph
from tests.harness.daemonset import run_as_pod
from tests.harness.pods import NODE, PodCluster
from tests.harness.waiting import until

# the first test waits for a Ceph and a Kubernetes to start, on a machine that may be busy
pytestmark = pytest.mark.timeout(600)

GIB = 1 << 30
WAIT = "while :; do sleep 0.1; done"
"""A script's end that is no end: the pod runs until it is deleted."""


@pytest.fixture(scope="module")
def pods(ceph: Ceph) -> Iterator[PodCluster]:
    """The cluster; below /tmp, since the sockets of CSI plugins have short names only."""
    with tempfile.TemporaryDirectory(prefix="cp-pods-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        home = Path(directory) / "k"
        try:
            started = kubernetes_harness.start(home, "1.36", "--kubelet")
            started.define(*sorted((sidecars(print) / "crds").glob("*.yaml")))
            made = PodCluster(ceph, started, Path(directory))
            try:
                yield made.start()
            finally:
                made.stop()
        finally:
            kubernetes_harness.stop(home)
            made.sweep()


@pytest.fixture(scope="module")
def storage_class(pods: PodCluster) -> str:
    return pods.make_class()


@pytest.fixture(scope="module")
def xfs_class(pods: PodCluster) -> str:
    parameters = {"clusterID": "dev", "pool": pods.pool, "csi.storage.k8s.io/fstype": "xfs"}
    return pods.kubernetes.make_class(pods.driver, parameters)


def written(pods: PodCluster, claim: Object) -> bytes:
    """Every byte that the claim's image has, as Ceph has it."""
    found = list[bytes]()
    with pods.ceph.open_image(f"pvc-{claim['metadata']['uid']}", pods.pool) as image:
        image.diff_iterate(0, image.size(), None, lambda at, length, exists: found.append(image.read(at, length)))
    return b"".join(found)


def test_what_one_pod_writes_the_next_one_reads(pods: PodCluster, storage_class: str) -> None:
    claim = pods.kubernetes.make_claim(storage_class)
    pods.do("echo a letter >/data/letter; sync -f /data", claim)
    assert pods.do("cat /data/letter", claim) == "a letter"
    assert pods.ceph.info(f"pvc-{claim['metadata']['uid']}", pods.pool)["size"] == GIB
    assert b"a letter\n" in written(pods, claim)


def test_a_pod_of_an_ordinary_user_may_write_as_its_group(pods: PodCluster, storage_class: str) -> None:
    claim = pods.kubernetes.make_claim(storage_class)
    who = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}
    assert pods.do("touch /data/mine; stat -c %u:%g /data/mine", claim, securityContext=who) == "1000:2000"


def test_a_file_system_grows_under_a_pod_that_uses_it(pods: PodCluster, xfs_class: str) -> None:
    claim = pods.kubernetes.make_claim(xfs_class)
    grown = "until [ $(df -k /data | awk 'END {print $2}') -gt 2000000 ]; do sleep 0.1; done; grep -o ' /data xfs ' /proc/mounts"
    pod = pods.run(f"echo kept >/data/file; {grown}; cat /data/file", claim)
    pods.wait_phase(pod, "Running")
    pods.kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    assert pods.output(pod).split() == ["/data", "xfs", "kept"]
    pods.delete(pod)
    assert (pods.kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "2Gi"
    assert pods.ceph.info(f"pvc-{claim['metadata']['uid']}", pods.pool)["size"] == 2 * GIB


def test_a_block_volume_is_a_device_of_the_pod(pods: PodCluster, storage_class: str) -> None:
    claim = pods.kubernetes.make_claim(storage_class, volumeMode="Block")
    pods.do("echo raw bytes | dd of=/dev/data bs=512 seek=8 conv=fsync 2>/dev/null", claim)
    assert pods.do("dd if=/dev/data bs=512 skip=8 count=1 2>/dev/null | head -n1", claim) == "raw bytes"
    assert written(pods, claim)[4096:4106] == b"raw bytes\n"


def test_a_block_volume_grows_under_a_pod_that_uses_it(pods: PodCluster, storage_class: str) -> None:
    claim = pods.kubernetes.make_claim(storage_class, volumeMode="Block")
    pod = pods.run("until [ $(blockdev --getsize64 /dev/data) = 2147483648 ]; do sleep 0.1; done; echo grown", claim)
    pods.wait_phase(pod, "Running")
    pods.kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    assert pods.output(pod) == "grown"
    pods.delete(pod)
    assert (pods.kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "2Gi"


def test_a_snapshot_becomes_the_volume_of_another_pod(pods: PodCluster, xfs_class: str) -> None:
    claim = pods.kubernetes.make_claim(xfs_class)
    pods.do("echo first >/data/file; sync -f /data", claim)
    snapshot_class = snapshots.make_snapshot_class(pods.kubernetes, pods.driver)
    taken = snapshots.wait_ready(pods.kubernetes, snapshots.take(pods.kubernetes, snapshot_class, claim))
    pods.do("echo second >/data/file; sync -f /data", claim)
    restored = pods.kubernetes.make_claim(xfs_class, "2Gi", dataSource=snapshots.source(taken))
    size = "df -k /data | awk 'END {print ($2 > 2000000)}'"
    assert pods.do(f"cat /data/file /data1/file; {size}", restored, claim).split() == ["first", "second", "1"]


def test_an_ephemeral_volume_lives_as_long_as_its_pod(pods: PodCluster, storage_class: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, "resources": {"requests": {"storage": "1Gi"}}}
    pod = pods.run(
        "echo x >/data/file; grep -o ' /data ext4 ' /proc/mounts", {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}
    )
    assert pods.output(pod) == "/data ext4"
    name = f"{pod['metadata']['name']}-v0"
    claim = pods.kubernetes.api.get(PERSISTENT_VOLUME_CLAIMS.path("default", name))
    assert f"pvc-{claim['metadata']['uid']}" in pods.images()
    pods.delete(pod)
    pods.kubernetes.wait_gone(claim)
    assert f"pvc-{claim['metadata']['uid']}" not in pods.images()


@pytest.fixture(scope="module")
def lone(pods: PodCluster, storage_class: str) -> Object:
    """A claim that one pod may use at a time."""
    return pods.kubernetes.make_claim(storage_class, accessModes=["ReadWriteOncePod"])


@pytest.fixture
def first(pods: PodCluster, lone: Object) -> Iterator[Object]:
    """The pod that uses it."""
    pod = pods.run(WAIT, lone)
    pods.wait_phase(pod, "Running")
    yield pod
    pods.delete(pod)


def test_a_claim_of_one_pod_is_refused_to_a_second_whichever_door_it_tries(pods: PodCluster, lone: Object, first: Object) -> None:
    second = pods.run("true", lone)
    pods.kubernetes.wait_event(second, "FailedScheduling", "ReadWriteOncePod")
    past_the_scheduler = pods.run("true", lone, nodeName=NODE)
    pods.kubernetes.wait_event(past_the_scheduler, "FailedMount", "ReadWriteOncePod")
    assert refusal_of_the_node(pods, lone) == grpc.StatusCode.FAILED_PRECONDITION
    pods.delete(second, past_the_scheduler)


def refusal_of_the_node(pods: PodCluster, claim: Object) -> grpc.StatusCode:
    """What our node says to a second path of a volume that is staged, asked past Kubernetes."""
    volume = pods.kubernetes.volume_of(claim)
    assert volume is not None
    (staging,) = [each.removeprefix("mount ") for each in pods.traces() if each.endswith("/globalmount")]
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id=volume["spec"]["csi"]["volumeHandle"],
        staging_target_path=staging,
        target_path=str(pods.kubelet / "second"),
        volume_capability=capability(csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER),
    )
    with grpc.insecure_channel(pods.node.endpoint) as channel, pytest.raises(grpc.RpcError) as refused:
        csi_pb2_grpc.NodeStub(channel).NodePublishVolume(request, timeout=30)
    code: grpc.StatusCode = refused.value.code()
    return code


class TestTheNodePluginIsKilled:
    def test_a_pod_goes_on_and_is_taken_down_by_the_next_one(self, pods: PodCluster, storage_class: str) -> None:
        claim = pods.kubernetes.make_claim(storage_class)
        pod = pods.run(f"echo before >/data/file; {WAIT}", claim)
        pods.wait_phase(pod, "Running")
        pods.node.kill()
        pods.kubernetes.api.delete(f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}")
        pods.node.start()
        until(lambda: pods.now(pod) is None, 120, "the pod is gone", pods.last_words)
        assert pods.do("cat /data/file", claim) == "before"

    def test_a_stage_that_was_cut_off_is_finished_by_the_next_one(self, pods: PodCluster, storage_class: str) -> None:
        claim = pods.kubernetes.make_claim(storage_class)
        pod = pods.run("echo after all >/data/file; cat /data/file", claim)
        until(lambda: storage_daemons(pods.node.run_directory), 120, "the stage has begun", pods.last_words, every=0.005)
        os.kill(pods.node.pid, signal.SIGKILL)
        pods.node.kill()
        pods.node.start()
        assert pods.output(pod) == "after all"
        pods.delete(pod)


def test_a_node_in_a_container_has_the_rights_that_it_needs_and_leaves_no_mount(pods: PodCluster, storage_class: str) -> None:
    claim = pods.kubernetes.make_claim(storage_class)
    until(lambda: not pods.traces(), 120, "this node has detached all that it had", lambda: str(pods.traces()))
    pods.node.stop()
    until(lambda: not pods.registered(), 120, "the kubelet has let go of the driver", pods.last_words)
    before = mounts(pods.kubelet)
    node = run_as_pod(pods, free_ports(1)[0])
    until(pods.registered, 120, "the kubelet knows the driver again", lambda: f"{pods.now(node)}\n{pods.log(node)}")
    try:
        pods.do("echo through a container >/data/file", claim)
        assert pods.do("cat /data/file", claim) == "through a container"
        assert pods.now(node)["status"]["containerStatuses"][0]["restartCount"] == 0
        until(lambda: not pods.attachments(), 120, "the volume is detached", lambda: pods.log(node))
    finally:
        pods.delete(node)
        pods.node.start()
    until(pods.registered, 120, "the kubelet knows the driver again", pods.node.text)
    until(lambda: mounts(pods.kubelet) == before, 120, "no mount is left", lambda: str(mounts(pods.kubelet)))


def test_nothing_is_left_once_everything_is_deleted(pods: PodCluster) -> None:
    snapshots.delete_everything(pods.kubernetes)
    until(lambda: not pods.left_over(), 120, "the pool is empty", lambda: str(pods.left_over()))
    until(lambda: not pods.traces(), 120, "this machine has nothing of them", lambda: str(pods.traces()))


def test_nobody_had_too_few_rights(pods: PodCluster) -> None:
    assert pods.sidecars.ended() + pods.sidecars.refused() == []


def test_no_controller_took_the_node_for_dead(pods: PodCluster) -> None:
    assert "cut off by Ceph" not in pods.node.text()


def test_the_node_is_healthy_and_registered(pods: PodCluster) -> None:
    assert pods.node.page("/healthz")[0] == 200
    assert [driver["nodeID"] for driver in pods.registered()] == [NODE]
