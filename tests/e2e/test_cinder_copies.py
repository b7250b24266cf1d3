"""Claims on a Cinder class whose content comes from a snapshot, or from a claim in another namespace. About 40 s.

Over iSCSI, on the Kubernetes that knows snapshots and grants: no kubelet there mounts `rbd`.
"""

import uuid
from collections.abc import Iterator

import pytest

from provisioner.claims.sources import driver_name
from provisioner.kube.resources import Object
from tests.harness import snapshots
from tests.harness.ceph import Ceph
from tests.harness.cinder import CLOUD, Cinder
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until

GRANTED, OTHER = "kube-node-lease", "kube-public"


@pytest.fixture(scope="module")
def provisioner(
    cinder: Cinder, ceph: Ceph, csi_kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """A provisioner with the rights that the overlay `cinder` gives."""
    directory = tmp_path_factory.mktemp("provisioner")
    account = csi_kubernetes.account_kubeconfig(directory / "kubeconfig")
    made = Program(directory, cinder.config_file(directory, ceph), account, f"{uuid.uuid4().hex[:8]}.example.com/cinder")
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def storage_class(provisioner: Program, csi_kubernetes: Kubernetes) -> str:
    return csi_kubernetes.make_class(provisioner.provisioner, {"cloud": CLOUD, "type": "iscsi", "smartclone": "true"})


@pytest.fixture(scope="module")
def original(cinder: Cinder, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str) -> Iterator[Object]:
    """A bound claim with content."""
    claim = csi_kubernetes.make_claim(storage_class)
    csi_kubernetes.wait_bound(claim, 180)
    write(cinder, ceph, claim, b"first")
    yield csi_kubernetes.claim(claim) or claim
    snapshots.delete(csi_kubernetes, claim)
    cinder.wait_nothing_left(ceph, name_of(claim))


def name_of(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def write(cinder: Cinder, ceph: Ceph, claim: Object, content: bytes) -> None:
    with ceph.open_image(image_of(cinder, claim), cinder.pool) as image:
        image.write(content, 0)


def read(cinder: Cinder, ceph: Ceph, claim: Object) -> bytes:
    with ceph.open_image(image_of(cinder, claim), cinder.pool) as image:
        return bytes(image.read(0, 5))


def image_of(cinder: Cinder, claim: Object) -> str:
    (volume,) = cinder.named(name_of(claim))
    return f"volume-{volume['id']}"


def test_a_volumesnapshot_of_a_cinder_volume_is_restored_as_it_was_taken(
    cinder: Cinder, ceph: Ceph, csi_kubernetes: Kubernetes, provisioner: Program, storage_class: str, original: Object
) -> None:
    (volume,) = cinder.named(name_of(original))
    taken = cinder.take_snapshot(volume["id"], "nightly")
    write(cinder, ceph, original, b"later")
    handle = f"{CLOUD}/cinder/{name_of(original)}@nightly.{volume['id']}"
    snapshot = snapshots.write(csi_kubernetes, driver_name(provisioner.provisioner), handle)
    copy = csi_kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(snapshot))
    bound = csi_kubernetes.wait_bound(copy, 180)
    assert read(cinder, ceph, copy) == b"first"
    assert bound["spec"]["capacity"]["storage"] == "2Gi"
    assert cinder.named(name_of(copy))[0]["size"] == 2
    write(cinder, ceph, original, b"first")
    for gone in (copy, snapshot):
        snapshots.delete(csi_kubernetes, gone)
    cinder.remove_snapshot(taken)


def test_a_volumesnapshot_that_cinder_does_not_know_is_told_and_nothing_made(
    cinder: Cinder, csi_kubernetes: Kubernetes, provisioner: Program, storage_class: str, original: Object
) -> None:
    (volume,) = cinder.named(name_of(original))
    handle = f"{CLOUD}/cinder/{name_of(original)}@never.{volume['id']}"
    snapshot = snapshots.write(csi_kubernetes, driver_name(provisioner.provisioner), handle)
    copy = csi_kubernetes.make_claim(storage_class, dataSource=snapshots.source(snapshot))
    told = csi_kubernetes.wait_event(copy, "ProvisioningFailed", "does not exist")
    assert "@never" in told["message"]
    assert cinder.named(name_of(copy)) == []
    for gone in (copy, snapshot):
        snapshots.delete(csi_kubernetes, gone)


@pytest.mark.parametrize("asked_by", ["dataSourceRef", "annotation"])
def test_a_clone_across_namespaces_is_made_where_a_grant_allows_it_and_only_there(
    cinder: Cinder, ceph: Ceph, csi_kubernetes: Kubernetes, storage_class: str, original: Object, asked_by: str
) -> None:
    snapshots.grant(csi_kubernetes, original, GRANTED)
    refused, copy = (asking(csi_kubernetes, storage_class, original, where, asked_by) for where in (OTHER, GRANTED))
    csi_kubernetes.wait_event(refused, "ProvisioningFailed", "no ReferenceGrant in namespace default allows it")
    csi_kubernetes.wait_bound(copy, 180)
    assert read(cinder, ceph, copy) == b"first"
    assert cinder.named(name_of(refused)) == []
    for claim in (refused, copy):
        csi_kubernetes.delete_claim(claim)
    for claim in (refused, copy):
        csi_kubernetes.wait_gone(claim, 180)
    cinder.wait_nothing_left(ceph, name_of(copy))


def asking(kubernetes: Kubernetes, storage_class: str, original: Object, namespace: str, asked_by: str) -> Object:
    """A claim in that namespace that asks for a clone, in today's words or in the predecessor's."""
    if asked_by == "annotation":
        said = {"k8s.io/CloneRequest": f"default/{original['metadata']['name']}"}
        return kubernetes.make_claim(storage_class, namespace=namespace, annotations=said)
    there = snapshots.source(original, namespace="default")
    return kubernetes.make_claim(storage_class, namespace=namespace, dataSourceRef=there)


def test_a_file_system_over_iscsi_has_its_size_at_once_and_its_owner_is_told_to_grow_it(
    cinder: Cinder, csi_kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = csi_kubernetes.make_claim(storage_class)
    csi_kubernetes.wait_bound(claim, 180)
    csi_kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "1500Mi"}}}})
    until(lambda: (csi_kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "2Gi", 120, "the claim says 2Gi")
    csi_kubernetes.wait_event(claim, "FileSystemResizeRequired", "no kubelet grows a file system over iscsi")
    (volume,) = cinder.named(name_of(claim))
    assert (volume["status"], volume["size"]) == ("in-use", 2)
    snapshots.delete(csi_kubernetes, claim)
