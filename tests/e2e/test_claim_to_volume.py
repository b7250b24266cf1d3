"""The main job: a claim becomes an image and a bound PersistentVolume, and goes as it came. About 12 s."""

import pytest
import rados
import rbd

from provisioner.kube.resources import PERSISTENT_VOLUMES
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until


def test_claim_is_bound_to_an_image_of_the_size_it_asked_for(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"clusterID": "dev", "pool": ceph.pool})
    volume = kubernetes.wait_bound(kubernetes.make_claim(storage_class, "1500Mi"))
    image = ceph.info(volume["spec"]["rbd"]["image"])
    assert image["size"] == 1500 << 20
    assert volume["spec"]["capacity"]["storage"] == "1500Mi"
    assert volume["spec"]["rbd"]["monitors"] == list(ceph.monitors)


def test_deleting_the_claim_leaves_nothing_in_ceph_or_kubernetes(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    claim = kubernetes.make_claim(storage_class)
    source = kubernetes.wait_bound(claim)["spec"]["rbd"]
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    until(lambda: source["image"] not in ceph.images() + ceph.trash(), 120, "the image is gone from the pool and its trash")
    assert f"client.{source['user']}" not in ceph.users()
    assert source["secretRef"]["name"] not in [secret["metadata"]["name"] for secret in kubernetes.secrets()]


def test_secret_opens_its_own_image_and_no_other(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    mine, other = (kubernetes.wait_bound(kubernetes.make_claim(storage_class))["spec"]["rbd"] for _ in range(2))
    data = kubernetes.secret_data(mine["secretRef"]["namespace"], mine["secretRef"]["name"])
    assert list(data) == ["key"], "a kubelet takes any entry of the Secret for the key"
    client = rados.Rados(name=f"client.{mine['user']}", conf={"mon_host": ",".join(mine["monitors"]), "key": data["key"]})
    client.connect()
    try:
        with client.open_ioctx(mine["pool"]) as pool:
            with rbd.Image(pool, mine["image"]) as image:
                image.write(b"written with the Secret's key", 0)
                assert image.read(0, 7) == b"written"
            with pytest.raises(rbd.PermissionError):
                rbd.Image(pool, other["image"])
    finally:
        client.shutdown()


def test_retained_volume_keeps_its_image_when_claim_and_volume_are_deleted(
    ceph: Ceph, kubernetes: Kubernetes, program: Program
) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool}, reclaimPolicy="Retain")
    claim = kubernetes.make_claim(storage_class)
    volume = kubernetes.wait_bound(claim)
    kubernetes.delete_claim(claim)
    kubernetes.delete_volume(volume["metadata"]["name"])
    kubernetes.wait_gone(claim)
    assert volume["spec"]["rbd"]["image"] in ceph.images()
    assert f"client.{volume['spec']['rbd']['user']}" not in ceph.users()


def test_block_volume_grows_when_its_claim_asks_for_more(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    claim = kubernetes.make_claim(storage_class, volumeMode="Block")
    volume = kubernetes.wait_bound(claim)
    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "3Gi"}}}})
    until(lambda: (kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "3Gi", 120, "the claim says 3Gi")
    assert ceph.info(volume["spec"]["rbd"]["image"])["size"] == 3 << 30
    grown = kubernetes.api.get(PERSISTENT_VOLUMES.path(name=volume["metadata"]["name"]))
    assert grown["spec"]["capacity"]["storage"] == "3Gi"
