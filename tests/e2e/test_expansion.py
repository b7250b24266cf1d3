"""Volumes grow when their claims ask for more, and never shrink. About 25 s, of which 15 wait for a dead leader's lease.

Kubernetes 1.30 has an expander for its own rbd plugin, which tries as well, without success: it wants the class' admin
Secret. Once our PersistentVolume has grown it sets the claim's capacity to what was asked for, which may be less.
"""

import pytest

from provisioner.kube.errors import Invalid
from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def storage_class(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> str:
    return kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})


def ask(kubernetes: Kubernetes, claim: Object, size: str) -> None:
    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": size}}}})


def status_of(kubernetes: Kubernetes, claim: Object) -> Object:
    now = kubernetes.claim(claim)
    assert now is not None
    status: Object = now["status"]
    return status


def conditions_of(kubernetes: Kubernetes, claim: Object) -> list[str]:
    return [condition["type"] for condition in status_of(kubernetes, claim).get("conditions") or []]


def test_a_file_system_is_left_to_its_node_once_the_image_has_grown(
    ceph: Ceph, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class, "1Gi")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    ask(kubernetes, claim, "2Gi")
    until(lambda: "FileSystemResizePending" in conditions_of(kubernetes, claim), 120, "the claim waits for its node")
    volume = kubernetes.volume_of(claim)
    assert volume is not None
    assert ceph.info(image)["size"] == 2 << 30
    assert volume["spec"]["capacity"]["storage"] == "2Gi"
    assert status_of(kubernetes, claim)["capacity"]["storage"] == "1Gi"


def test_a_file_system_that_waits_for_its_node_can_grow_again(ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
    claim = kubernetes.make_claim(storage_class, "1Gi")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    for size in ("2Gi", "3Gi"):
        ask(kubernetes, claim, size)
        until(lambda size=size: kubernetes.volume_of(claim)["spec"]["capacity"]["storage"] == size, 120, f"the volume has {size}")
    assert ceph.info(image)["size"] == 3 << 30


def test_a_block_device_has_its_new_size_at_once(ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
    claim = kubernetes.make_claim(storage_class, "1Gi", volumeMode="Block")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    ask(kubernetes, claim, "1537Mi")
    until(lambda: status_of(kubernetes, claim)["capacity"]["storage"] == "1537Mi", 120, "the claim says 1537Mi")
    assert ceph.info(image)["size"] == 1537 << 20
    assert "FileSystemResizePending" not in conditions_of(kubernetes, claim)


def test_a_size_between_two_mebibytes_is_rounded_up(ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
    claim = kubernetes.make_claim(storage_class, "1Gi", volumeMode="Block")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    ask(kubernetes, claim, str((1 << 30) + 1))
    until(lambda: kubernetes.volume_of(claim)["spec"]["capacity"]["storage"] == "1025Mi", 120, "the volume has 1025Mi")
    assert ceph.info(image)["size"] == 1025 << 20


def test_shrinking_is_refused(ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
    claim = kubernetes.make_claim(storage_class, "2Gi")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    with pytest.raises(Invalid):
        ask(kubernetes, claim, "1Gi")
    assert ceph.info(image)["size"] == 2 << 30


def test_a_size_that_no_image_can_have_is_refused_with_field_and_value(
    ceph: Ceph, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class, "1Gi")
    image = kubernetes.wait_bound(claim)["spec"]["rbd"]["image"]
    ask(kubernetes, claim, "2Pi")
    kubernetes.wait_event(claim, "VolumeResizeFailed", "spec.resources.requests.storage '2Pi'")
    assert ceph.info(image)["size"] == 1 << 30


def test_the_claims_of_others_are_left_alone(kubernetes: Kubernetes, provisioner: Program, storage_class: str) -> None:
    foreign = kubernetes.make_class("other.example.com/disk")
    claim = kubernetes.make_claim(foreign, "1Gi")
    by_hand = kubernetes.make_volume_by_hand(f"by-hand-{claim['metadata']['uid']}", foreign, claim)
    until(lambda: status_of(kubernetes, claim).get("phase") == "Bound", 120, "the claim is bound")
    failures = provisioner.total("ceph_provisioner_reconcile_failures_total")
    ask(kubernetes, claim, "2Pi")
    kubernetes.wait_bound(kubernetes.make_claim(storage_class))
    assert provisioner.total("ceph_provisioner_reconcile_failures_total") == failures
    assert not [event for event in kubernetes.events(claim) if event["source"]["component"] == provisioner.provisioner]
    kubernetes.delete_claim(claim)
    kubernetes.delete_volume(by_hand)


def test_an_expansion_asked_for_while_nobody_runs_is_made_up_for(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": ceph.pool}), "1Gi", volumeMode="Block")
    kubernetes.wait_bound(claim)
    program.kill()
    ask(kubernetes, claim, "2Gi")
    program.start(ready=False)
    until(lambda: status_of(kubernetes, claim)["capacity"]["storage"] == "2Gi", 120, "the claim says 2Gi")
