"""Sources that a claim may not have, each refused with an event that says why, and nothing left in Ceph. About 10 seconds."""

import uuid

import pytest

from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, Object
from tests.harness import snapshots
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until

HANDLE = "dev/rbd/pvc-gone@snapshot-gone.abcdef"


@pytest.fixture(scope="module")
def storage_class(ceph: Ceph, csi_kubernetes: Kubernetes, copier: Program) -> str:
    return csi_kubernetes.make_class(copier.provisioner, {"pool": ceph.pool, "pvType": "csi"})


@pytest.fixture(scope="module")
def bound(csi_kubernetes: Kubernetes, storage_class: str) -> Object:
    """A claim of 2 GiB to copy from."""
    claim = csi_kubernetes.make_claim(storage_class, "2Gi")
    csi_kubernetes.wait_bound(claim)
    return claim


def refused(kubernetes: Kubernetes, ceph: Ceph, claim: Object, *words: str) -> None:
    """The claim hears of it in these words, and has left nothing in Ceph."""
    event = kubernetes.wait_event(claim, "ProvisioningFailed", words[0])
    assert [word for word in words if word not in event["message"]] == []
    assert f"pvc-{claim['metadata']['uid']}" not in ceph.images()
    kubernetes.delete_claim(claim)
    until(lambda: kubernetes.claim(claim) is None, 20, "the claim is gone")


class TestClaims:
    def test_one_that_asks_for_less_than_its_source_has(
        self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, bound: Object
    ) -> None:
        claim = csi_kubernetes.make_claim(storage_class, "1Gi", dataSource=snapshots.source(bound))
        refused(csi_kubernetes, ceph, claim, "spec.resources.requests.storage", "has 2147483648 bytes")

    def test_one_of_another_volume_mode(self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, bound: Object) -> None:
        claim = csi_kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(bound), volumeMode="Block")
        refused(csi_kubernetes, ceph, claim, "spec.dataSource", "volumeMode Filesystem")

    def test_one_whose_source_is_another_drivers(self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str) -> None:
        foreign = csi_kubernetes.make_claim("by-hand")
        by_hand = csi_kubernetes.make_volume_by_hand(f"by-hand-{uuid.uuid4().hex[:8]}", "by-hand", foreign)
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(foreign))
        refused(csi_kubernetes, ceph, claim, "this provisioner did not make")
        csi_kubernetes.delete_claim(foreign)
        csi_kubernetes.delete_volume(by_hand)

    def test_one_whose_source_is_in_a_namespace_that_grants_nothing(
        self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, bound: Object
    ) -> None:
        there = snapshots.source(bound, namespace="default")
        claim = csi_kubernetes.make_claim(storage_class, "2Gi", namespace="kube-public", dataSourceRef=there)
        refused(csi_kubernetes, ceph, claim, "no ReferenceGrant in namespace default")

    def test_one_whose_source_is_being_deleted(self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str) -> None:
        leaving = csi_kubernetes.make_claim(storage_class, finalizers=["example.com/stay"])
        csi_kubernetes.wait_bound(leaving)
        csi_kubernetes.delete_claim(leaving)
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(leaving))
        refused(csi_kubernetes, ceph, claim, "is being deleted")
        csi_kubernetes.patch_claim(leaving, {"metadata": {"finalizers": None}})

    def test_one_whose_source_does_not_exist(self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str) -> None:
        nobody = PERSISTENT_VOLUME_CLAIMS.body({"namespace": "default", "name": "nobody"})
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(nobody))
        refused(csi_kubernetes, ceph, claim, "PersistentVolumeClaim/default/nobody does not exist")


class TestSnapshots:
    def test_one_that_another_driver_took(self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str) -> None:
        taken = snapshots.write(csi_kubernetes, "other.example.com", HANDLE)
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        refused(csi_kubernetes, ceph, claim, "was taken by other.example.com")

    def test_one_that_is_larger_than_the_claim(
        self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, copier: Program
    ) -> None:
        taken = snapshots.write(csi_kubernetes, copier.provisioner, HANDLE, size="5Gi")
        claim = csi_kubernetes.make_claim(storage_class, "4Gi", dataSource=snapshots.source(taken))
        refused(csi_kubernetes, ceph, claim, "spec.resources.requests.storage", "has 5368709120 bytes")

    def test_one_of_another_volume_mode_that_nobody_allowed(
        self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, copier: Program
    ) -> None:
        taken = snapshots.write(csi_kubernetes, copier.provisioner, HANDLE, mode="Block")
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        refused(csi_kubernetes, ceph, claim, "volumeMode Block", "allow-volume-mode-change")

    def test_one_whose_handle_names_nothing(
        self, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, copier: Program
    ) -> None:
        taken = snapshots.write(csi_kubernetes, copier.provisioner, "no handle of ours")
        claim = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        refused(csi_kubernetes, ceph, claim, "'no handle of ours'")
