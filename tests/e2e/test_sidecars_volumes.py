"""Kubernetes' own sidecars drive our CSI controller: a claim is bound, grown, and ends with its image. About 30 seconds.

Fifteen of them are the start of Kubernetes 1.36 and the sidecars, which all files named test_sidecars_* share.
"""

import pytest

from provisioner.claims.quantity import to_bytes
from provisioner.kube.resources import CSI_STORAGE_CAPACITIES, Object
from tests.harness.kubernetes import NAMESPACE
from tests.harness.nodes import attachment, attachments, pod_using
from tests.harness.sidecars import CsiCluster
from tests.harness.waiting import until

GIB = 1 << 30


def test_a_claim_is_bound_to_a_csi_volume_on_an_image_of_its_name(csi: CsiCluster) -> None:
    claim = csi.kubernetes.make_claim(csi.make_class(), "1500Mi")
    volume = csi.kubernetes.wait_bound(claim)
    source, image = volume["spec"]["csi"], f"pvc-{claim['metadata']['uid']}"
    assert (source["driver"], source["volumeHandle"]) == (csi.driver, f"dev/{csi.pool}/{image}")
    assert volume["spec"]["capacity"]["storage"] == "1500Mi"
    assert csi.ceph.info(image, csi.pool)["size"] == 1500 << 20


def test_the_image_says_whose_claim_it_is(csi: CsiCluster) -> None:
    claim = csi.kubernetes.make_claim(csi.make_class())
    volume = csi.kubernetes.wait_bound(claim)
    metadata = csi.ceph.image_metadata(volume["metadata"]["name"], csi.pool)
    assert claim["metadata"]["name"] in str(metadata)


def test_a_block_claim_that_asks_for_more_has_it_when_the_image_has(csi: CsiCluster) -> None:
    claim = csi.kubernetes.make_claim(csi.make_class(), volumeMode="Block")
    image = csi.kubernetes.wait_bound(claim)["metadata"]["name"]
    csi.kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "3Gi"}}}})
    until(
        lambda: (csi.kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "3Gi",
        120,
        "the claim has 3Gi",
        lambda: str(csi.kubernetes.told(claim)),
    )
    assert csi.ceph.info(image, csi.pool)["size"] == 3 * GIB


def test_a_deleted_claim_takes_its_image_along(csi: CsiCluster) -> None:
    claim = csi.kubernetes.make_claim(csi.make_class())
    image = csi.kubernetes.wait_bound(claim)["metadata"]["name"]
    csi.kubernetes.delete_claim(claim)
    csi.kubernetes.wait_gone(claim)
    until(lambda: image not in [*csi.images(), *csi.ceph.trash(csi.pool)], 120, "the image is purged")


def test_a_class_that_cannot_be_honoured_is_told_on_the_claim_by_name(csi: CsiCluster) -> None:
    wrong = csi.kubernetes.make_class(csi.driver, {"clusterID": "dev", "pool": csi.pool, "imageFaetures": "layering"})
    claim = csi.kubernetes.make_claim(wrong)
    csi.kubernetes.wait_event(claim, "ProvisioningFailed", "imageFaetures")
    csi.kubernetes.delete_claim(claim)


def test_a_claim_that_waits_for_its_consumer_is_bound_when_a_pod_comes(csi: CsiCluster) -> None:
    claim = csi.kubernetes.make_claim(csi.make_class(volumeBindingMode="WaitForFirstConsumer"))
    with pod_using(csi.kubernetes, claim):
        csi.kubernetes.wait_bound(claim)


class TestVolumeAttributesClass:
    @pytest.fixture
    def slow(self, csi: CsiCluster) -> str:
        return csi.make_attributes_class(maxIops="100")

    def test_a_claim_is_made_with_the_limits_of_its_class(self, csi: CsiCluster, slow: str) -> None:
        claim = csi.kubernetes.make_claim(csi.make_class(), volumeAttributesClassName=slow)
        image = csi.kubernetes.wait_bound(claim)["metadata"]["name"]
        assert csi.ceph.image_metadata(image, csi.pool)["conf_rbd_qos_iops_limit"] == "100"

    def test_a_claim_that_changes_its_class_changes_its_limits(self, csi: CsiCluster, slow: str) -> None:
        claim = csi.kubernetes.make_claim(csi.make_class(), volumeAttributesClassName=slow)
        image = csi.kubernetes.wait_bound(claim)["metadata"]["name"]
        quick = csi.make_attributes_class(maxIops="5000")
        csi.change_attributes_class(claim, quick)
        until(
            lambda: (csi.kubernetes.claim(claim) or {})["status"].get("currentVolumeAttributesClassName") == quick,
            120,
            "the claim has its new class",
            lambda: str(csi.kubernetes.told(claim)),
        )
        assert csi.ceph.image_metadata(image, csi.pool)["conf_rbd_qos_iops_limit"] == "5000"

    def test_limits_that_cannot_be_had_are_told_on_the_claim_by_name(self, csi: CsiCluster, slow: str) -> None:
        claim = csi.kubernetes.make_claim(csi.make_class(), volumeAttributesClassName=slow)
        image = csi.kubernetes.wait_bound(claim)["metadata"]["name"]
        wrong = csi.make_attributes_class(maxIpos="5000")
        csi.change_attributes_class(claim, wrong)
        csi.kubernetes.wait_event(claim, "VolumeModifyFailed", "maxIpos")
        assert csi.ceph.image_metadata(image, csi.pool)["conf_rbd_qos_iops_limit"] == "100"


class TestAttachments:
    @pytest.fixture
    def volume(self, csi: CsiCluster) -> Object:
        """A bound PersistentVolume that one node may write."""
        return csi.kubernetes.wait_bound(csi.kubernetes.make_claim(csi.make_class()))

    def test_a_volume_is_published_to_the_node_of_its_pod_and_unpublished_after_it(self, csi: CsiCluster) -> None:
        claim = csi.kubernetes.make_claim(csi.make_class())
        volume = csi.kubernetes.wait_bound(claim)
        with pod_using(csi.kubernetes, claim, csi.nodes[0]):
            attached = until(
                lambda: attached_to(csi, volume), 120, "it is attached", lambda: str(attachments(csi.kubernetes, volume))
            )
            assert attached == [csi.nodes[0]]
            assert published_to(csi, volume) == [csi.nodes[0]]
        until(lambda: not attachments(csi.kubernetes, volume), 120, "it is detached")
        assert published_to(csi, volume) == []

    def test_a_second_node_is_refused_a_volume_of_one_writer_and_told_who_has_it(self, csi: CsiCluster, volume: Object) -> None:
        first, second = csi.nodes
        with attachment(csi.kubernetes, csi.driver, volume, first):
            until(lambda: attached_to(csi, volume) == [first], 120, "the first node has it")
            with attachment(csi.kubernetes, csi.driver, volume, second) as path:
                told = until(
                    lambda: (csi.kubernetes.api.get(path).get("status") or {}).get("attachError"), 120, "the second is refused"
                )
                assert first in told["message"]
                assert published_to(csi, volume) == [first]


def attached_to(csi: CsiCluster, volume: Object) -> list[str]:
    """Nodes that Kubernetes says have the volume."""
    listed = attachments(csi.kubernetes, volume)
    return [each["spec"]["nodeName"] for each in listed if (each.get("status") or {}).get("attached")]


def published_to(csi: CsiCluster, volume: Object) -> list[str]:
    """Nodes that our controller says have it."""
    entries = {entry.volume.volume_id: entry.status for entry in csi.list_volumes()}
    return list(entries[volume["spec"]["csi"]["volumeHandle"]].published_node_ids)


def test_the_controller_lists_the_volumes_of_its_pool(csi: CsiCluster) -> None:
    bound = csi.kubernetes.wait_bound(csi.kubernetes.make_claim(csi.make_class()))
    handles = [entry.volume.volume_id for entry in csi.list_volumes()]
    assert bound["spec"]["csi"]["volumeHandle"] in handles


def test_what_a_class_can_still_give_is_told(csi: CsiCluster) -> None:
    storage_class = csi.make_class(volumeBindingMode="WaitForFirstConsumer")

    def told() -> list[Object]:
        listed = csi.kubernetes.api.list_all(CSI_STORAGE_CAPACITIES.path(NAMESPACE)).items
        return [item for item in listed if item["storageClassName"] == storage_class]

    (capacity,) = until(told, 120, "the class has a capacity")
    assert to_bytes("capacity", capacity["capacity"]) > GIB


def test_no_sidecar_gave_up_or_had_too_few_rights(csi: CsiCluster) -> None:
    assert csi.sidecars.ended() + csi.sidecars.refused() == []
