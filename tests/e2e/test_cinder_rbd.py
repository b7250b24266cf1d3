"""A claim of a class of Cinder's becomes a volume, and a native PersistentVolume that needs Cinder no more. About 50 s."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados
import rbd

from provisioner.kube.resources import PERSISTENT_VOLUMES, Object
from tests.harness.ceph import Ceph
from tests.harness.cinder import CLOUD, Cinder
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.program import Program, running
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def provisioner(cinder: Cinder, ceph: Ceph, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A provisioner that knows the Ceph, the Cinder, and the key of Cinder's user."""
    directory = tmp_path_factory.mktemp("provisioner")
    with running(directory, cinder.config_file(directory, ceph), account, kind="cinder") as made:
        yield made


@pytest.fixture(scope="module")
def storage_class(provisioner: Program, kubernetes: Kubernetes) -> str:
    return kubernetes.make_class(provisioner.provisioner, {"cloud": CLOUD, "type": "rbd"})


def test_the_volume_s_own_fields_and_secret_open_it_until_the_claim_goes_and_leaves_nothing(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class, "1500Mi", volumeMode="Block")
    volume = kubernetes.wait_bound(claim)
    name, source = volume["metadata"]["name"], volume["spec"]["rbd"]
    assert volume["spec"]["capacity"]["storage"] == "2Gi", "what Cinder made, not what was asked for"
    assert [(made["status"], made["size"]) for made in cinder.named(name)] == [("in-use", 2)]
    assert source["secretRef"] == {"namespace": NAMESPACE, "name": f"{name}-connection"}
    write_and_read(kubernetes, source)

    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "3Gi"}}}})
    until(lambda: (kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "3Gi", 120, "the claim says 3Gi")
    assert ceph.info(source["image"], cinder.pool)["size"] == 3 << 30
    assert kubernetes.api.get(PERSISTENT_VOLUMES.path(name=name))["spec"]["capacity"]["storage"] == "3Gi"

    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    cinder.wait_nothing_left(ceph, name)
    assert f"{name}-connection" not in secrets(kubernetes)


def test_a_retained_volume_is_free_for_others_when_its_object_goes(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    kept = kubernetes.make_class(provisioner.provisioner, {"type": "rbd"}, reclaimPolicy="Retain")
    claim = kubernetes.make_claim(kept)
    name = kubernetes.wait_bound(claim)["metadata"]["name"]
    kubernetes.delete_claim(claim)
    kubernetes.delete_volume(name)
    kubernetes.wait_gone(claim)
    (left,) = cinder.named(name)
    assert (left["status"], left["attachments"]) == ("available", [])
    assert f"{name}-connection" not in secrets(kubernetes)
    cinder.remove(left["id"])


def test_a_secret_that_the_class_names_is_used_as_it_is(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    named = kubernetes.make_class(provisioner.provisioner, {"type": "rbd", "userSecretName": "our-key", "fsType": "xfs"})
    claim = kubernetes.make_claim(named)
    volume = kubernetes.wait_bound(claim)
    source = volume["spec"]["rbd"]
    assert source["secretRef"] == {"namespace": "default", "name": "our-key"}
    assert source["fsType"] == "xfs"
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    cinder.wait_nothing_left(ceph, volume["metadata"]["name"])


def test_where_nobody_knows_the_key_the_claim_is_told_and_nothing_is_left(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, account: Path, tmp_path: Path
) -> None:
    program = Program(tmp_path, cinder.config_file(tmp_path, ceph, key=False), account, f"{uuid.uuid4().hex[:8]}.example.com/c")
    storage_class = kubernetes.make_class(program.provisioner, {"cloud": CLOUD, "type": "rbd"})
    claim = kubernetes.make_claim(storage_class)
    try:
        program.start()
        kubernetes.wait_event(claim, "ProvisioningFailed", "add an entry with these monitors, user cinder")
        cinder.wait_nothing_left(ceph, f"pvc-{claim['metadata']['uid']}")
        assert kubernetes.volume_of(claim) is None
        kubernetes.delete_claim(claim)
        kubernetes.wait_gone(claim)
    finally:
        program.stop()


def test_a_volume_in_use_grows_and_its_file_system_is_left_to_the_node(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class)
    name = kubernetes.wait_bound(claim)["metadata"]["name"]
    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "1500Mi"}}}})
    status = until(lambda: pending(kubernetes, claim), 120, "the node is asked to grow it", lambda: str(kubernetes.told(claim)))
    assert status["capacity"]["storage"] == "1Gi", "what the file system has"
    assert kubernetes.api.get(PERSISTENT_VOLUMES.path(name=name))["spec"]["capacity"]["storage"] == "2Gi", "what Cinder made"
    assert [(made["status"], made["size"]) for made in cinder.named(name)] == [("in-use", 2)]
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    cinder.wait_nothing_left(ceph, name)


@pytest.mark.parametrize(
    ("parameters", "size", "told"),
    [
        ({"type": "gold"}, "1Gi", "parameters.type 'gold': "),
        ({"type": "rbd", "availability": "mars"}, "1Gi", "parameters.availability 'mars': "),
        ({"type": "rbd"}, "5000Gi", "exceeds allowed gigabytes quota"),
        ({"type": "rbd", "smartclone": "yes"}, "1Gi", "parameters.smartclone 'yes': "),
        ({"type": "rbd", "availabilty": "nova"}, "1Gi", "parameters.availabilty 'nova': unknown parameter"),
    ],
)
def test_what_a_class_or_claim_asks_for_in_vain_is_told_by_name_and_value_and_leaves_nothing(
    cinder: Cinder, kubernetes: Kubernetes, provisioner: Program, parameters: dict[str, str], size: str, told: str
) -> None:
    claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, parameters), size)
    kubernetes.wait_event(claim, "ProvisioningFailed", told)
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    assert cinder.named(f"pvc-{claim['metadata']['uid']}") == []


@pytest.mark.parametrize("asked_by", ["dataSource", "annotation"])
def test_a_clone_has_the_content_of_its_source_and_both_go_without_a_trace(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, storage_class: str, asked_by: str
) -> None:
    original = kubernetes.make_claim(storage_class, volumeMode="Block")
    source = kubernetes.wait_bound(original)
    write_and_read(kubernetes, source["spec"]["rbd"])
    name = original["metadata"]["name"]
    wish = {"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": name}}, "annotations": {}}
    if asked_by == "annotation":
        wish = {"spec": {}, "annotations": {"k8s.io/CloneRequest": name}}
    copy = kubernetes.make_claim(storage_class, volumeMode="Block", annotations=wish["annotations"], **wish["spec"])
    clone = kubernetes.wait_bound(copy)
    with ceph.open_image(clone["spec"]["rbd"]["image"], cinder.pool) as image:
        assert image.read(0, 7) == b"written"
    for claim in (copy, original):
        kubernetes.delete_claim(claim)
        kubernetes.wait_gone(claim)
    cinder.wait_nothing_left(ceph, source["metadata"]["name"], clone["metadata"]["name"])


def test_a_clone_across_namespaces_needs_a_grant_and_leaves_nothing_without(
    cinder: Cinder, kubernetes: Kubernetes, storage_class: str
) -> None:
    copy = kubernetes.make_claim(storage_class, annotations={"k8s.io/CloneRequest": "kube-system/secret-data"})
    kubernetes.wait_event(copy, "ProvisioningFailed", "no ReferenceGrant in namespace kube-system allows it")
    assert cinder.named(f"pvc-{copy['metadata']['uid']}") == []
    kubernetes.delete_claim(copy)


def write_and_read(kubernetes: Kubernetes, source: dict[str, object]) -> None:
    """Use the image with nothing but what stands in the PersistentVolume, as a node would."""
    secret: dict[str, str] = source["secretRef"]  # type: ignore[assignment]
    key = kubernetes.secret_data(secret["namespace"], secret["name"])["key"]
    monitors = ",".join(source["monitors"])  # type: ignore[call-overload]
    client = rados.Rados(name=f"client.{source['user']}", conf={"mon_host": monitors, "key": key})
    client.connect()
    try:
        with client.open_ioctx(source["pool"]) as pool, rbd.Image(pool, source["image"]) as image:
            image.write(b"written with the Secret's key", 0)
            assert image.read(0, 7) == b"written"
    finally:
        client.shutdown()


def pending(kubernetes: Kubernetes, claim: Object) -> Object | None:
    """The claim's status, once it waits for its node."""
    status: Object = (kubernetes.claim(claim) or {})["status"]
    return status if "FileSystemResizePending" in [each["type"] for each in status.get("conditions") or []] else None


def secrets(kubernetes: Kubernetes) -> list[str]:
    return [secret["metadata"]["name"] for secret in kubernetes.secrets()]
