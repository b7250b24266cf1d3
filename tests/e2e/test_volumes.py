"""Every kind of volume that a claim may ask for, and when it is made. About 15 s."""

import pytest

from provisioner.claims import objects
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.nodes import nodes, pod_using
from tests.harness.program import Program
from tests.harness.traces import traces

FOREIGN_SOURCE = {"apiGroup": "images.example.com", "kind": "Image", "name": "debian"}


@pytest.fixture(scope="module")
def storage_class(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> str:
    return kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool}, mountOptions=["noatime", "discard"])


class TestAccessModes:
    @pytest.mark.parametrize("volume_mode", ["Filesystem", "Block"])
    @pytest.mark.parametrize(
        "modes", [["ReadWriteOnce"], ["ReadWriteOncePod"], ["ReadOnlyMany"], ["ReadWriteOnce", "ReadOnlyMany"]]
    )
    def test_one_writer_is_bound_with_the_modes_it_asked_for(
        self, kubernetes: Kubernetes, storage_class: str, volume_mode: str, modes: list[str]
    ) -> None:
        claim = kubernetes.make_claim(storage_class, accessModes=modes, volumeMode=volume_mode)
        spec = kubernetes.wait_bound(claim)["spec"]
        assert (spec["accessModes"], spec["volumeMode"]) == (modes, volume_mode)
        assert spec["rbd"].get("readOnly", False) is (modes == ["ReadOnlyMany"])

    def test_many_writers_are_bound_to_a_block_device(self, kubernetes: Kubernetes, storage_class: str) -> None:
        claim = kubernetes.make_claim(storage_class, accessModes=["ReadWriteMany"], volumeMode="Block")
        assert kubernetes.wait_bound(claim)["spec"]["accessModes"] == ["ReadWriteMany"]

    def test_many_writers_of_a_file_system_are_refused(self, ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
        claim = kubernetes.make_claim(storage_class, accessModes=["ReadWriteMany"])
        kubernetes.wait_event(claim, "ProvisioningFailed", "spec.accessModes 'ReadWriteMany'")
        assert traces(claim, ceph, kubernetes) == []


class TestMountOptions:
    def test_of_the_class_are_the_volumes(self, kubernetes: Kubernetes, storage_class: str) -> None:
        volume = kubernetes.wait_bound(kubernetes.make_claim(storage_class))
        assert volume["spec"]["mountOptions"] == ["noatime", "discard"]

    def test_mean_nothing_to_a_block_device(self, kubernetes: Kubernetes, storage_class: str) -> None:
        volume = kubernetes.wait_bound(kubernetes.make_claim(storage_class, volumeMode="Block"))
        assert "mountOptions" not in volume["spec"]


class TestWaitForFirstConsumer:
    def test_nothing_is_made_before_a_pod_is_scheduled_and_all_is_made_then(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, storage_class: str
    ) -> None:
        waiting = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool}, volumeBindingMode="WaitForFirstConsumer")
        claim = kubernetes.make_claim(waiting)
        kubernetes.wait_event(claim, "WaitForFirstConsumer")
        kubernetes.wait_bound(kubernetes.make_claim(storage_class))  # by now the provisioner has looked at both
        seen = kubernetes.claim(claim)
        assert seen is not None
        assert objects.CLAIM_FINALIZER not in objects.finalizers(seen)
        assert traces(claim, ceph, kubernetes) == []
        with nodes(kubernetes, "v1.30.14"), pod_using(kubernetes, claim):
            kubernetes.wait_bound(claim)


class TestWhatCannotBeMade:
    def test_a_selector_is_refused(self, ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
        claim = kubernetes.make_claim(storage_class, selector={"matchLabels": {"disk": "ssd"}})
        kubernetes.wait_event(claim, "ProvisioningFailed", "spec.selector")
        assert traces(claim, ceph, kubernetes) == []

    def test_a_claim_that_a_populator_fills_is_left_to_it(self, ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
        claim = kubernetes.make_claim(storage_class, dataSourceRef=FOREIGN_SOURCE)
        kubernetes.wait_bound(kubernetes.make_claim(storage_class))
        assert traces(claim, ceph, kubernetes) == []
        assert "ProvisioningFailed" not in [reason for reason, _ in kubernetes.told(claim)]

    def test_claims_of_one_name_in_two_namespaces_get_two_volumes(self, kubernetes: Kubernetes, storage_class: str) -> None:
        here, there = (kubernetes.make_claim(storage_class, name="same", namespace=where) for where in ("default", "kube-public"))
        images = {kubernetes.wait_bound(claim)["spec"]["rbd"]["image"] for claim in (here, there)}
        assert len(images) == 2
