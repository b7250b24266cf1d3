"""PersistentVolumes as they are saved, word for word."""

from collections.abc import Iterator
from typing import Any

import pytest

from provisioner.claims import objects
from provisioner.claims.classes import Class
from provisioner.claims.handout import Minted
from provisioner.claims.sources import Handout, driver_name
from provisioner.claims.volume import Maker
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Volume
from provisioner.core.parameters import SecretRef, read_parameters
from provisioner.kube.kubeconfig import Access
from provisioner.kube.resources import Object
from provisioner.kube.transport import Api
from tests.unit.claims.objects_of import PROVISIONER, UID, claim

IMAGE = Volume(VolumeId(Place("dev", "rbd"), f"pvc-{UID}"), "10ab", f"pvc-{UID}", 1 << 30, {}, {}, "")
HANDOUT = Handout(("127.0.0.1:6789", "127.0.0.2:6789"), "cp-1", SecretRef("ceph-provisioner", f"pvc-{UID}-cephx"))
MINTED = Minted("cp-1", f"ceph-provisioner/pvc-{UID}-cephx")


@pytest.fixture
def maker() -> Iterator[Maker]:
    """A maker of bodies, which needs no server."""
    api = Api(Access(server="https://127.0.0.1:1"), "tests")
    yield Maker(api, PROVISIONER, "csi.example.com")
    api.close()


def of_class(parameters: dict[str, str] | None = None, **fields: Any) -> Class:
    said = {"reclaim_policy": "Delete", "mount_options": (), **fields}
    return Class("fast", read_parameters(parameters or {}), Place("dev", "rbd"), **said)


def body(maker: Maker, asked: Object, storage_class: Class, *, native: bool = True, minted: Minted = MINTED) -> Object:
    return maker.body(asked, IMAGE, storage_class, HANDOUT, minted, native=native)


def test_a_native_file_system(maker: Maker) -> None:
    assert body(maker, claim(), of_class({"fsType": "xfs"}, mount_options=("noatime",))) == {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{UID}",
            "annotations": {
                "pv.kubernetes.io/provisioned-by": PROVISIONER,
                "ceph-provisioner.io/volume": f"dev/rbd/pvc-{UID}",
                "ceph-provisioner.io/image-id": "10ab",
                "ceph-provisioner.io/user": "cp-1",
                "ceph-provisioner.io/secret": f"ceph-provisioner/pvc-{UID}-cephx",
            },
            "finalizers": ["ceph-provisioner.io/reclaim"],
        },
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "fast",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": "team",
                "name": "data",
                "uid": UID,
                "resourceVersion": "7",
            },
            "mountOptions": ["noatime"],
            "rbd": {
                "monitors": ["127.0.0.1:6789", "127.0.0.2:6789"],
                "pool": "rbd",
                "image": f"pvc-{UID}",
                "user": "cp-1",
                "secretRef": {"namespace": "ceph-provisioner", "name": f"pvc-{UID}-cephx"},
                "readOnly": False,
                "fsType": "xfs",
            },
        },
    }


def test_a_native_block_volume_has_neither_file_system_nor_mount_options(maker: Maker) -> None:
    spec = body(maker, claim(volumeMode="Block"), of_class(mount_options=("noatime",)))["spec"]
    assert spec["volumeMode"] == "Block"
    assert "fsType" not in spec["rbd"]
    assert "mountOptions" not in spec


@pytest.mark.parametrize(
    ("modes", "read_only"),
    [
        (["ReadOnlyMany"], True),
        (["ReadWriteOnce"], False),
        (["ReadWriteOnce", "ReadOnlyMany"], False),
        (["ReadWriteOncePod"], False),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_a_volume_is_read_only_where_nobody_may_write(maker: Maker, modes: list[str], read_only: bool, native: bool) -> None:
    spec = body(maker, claim(accessModes=modes), of_class(), native=native)["spec"]
    assert spec["accessModes"] == modes
    assert spec["rbd" if native else "csi"]["readOnly"] is read_only


def test_a_csi_file_system(maker: Maker) -> None:
    parameters = {"pvType": "csi", "mapOptions": "krbd:rxbounce", "mkfsOptions": "-m0"}
    spec = body(maker, claim(), of_class(parameters), native=False)["spec"]
    assert "rbd" not in spec
    assert spec["csi"] == {
        "driver": "csi.example.com",
        "volumeHandle": f"dev/rbd/pvc-{UID}",
        "volumeAttributes": {
            "clusterID": "dev",
            "pool": "rbd",
            "imageName": f"pvc-{UID}",
            "mkfsOptions": "-m0",
            "mapOptions": "krbd:rxbounce",
        },
        "nodeStageSecretRef": {"namespace": "ceph-provisioner", "name": f"pvc-{UID}-cephx"},
        "fsType": "ext4",
        "readOnly": False,
    }


def test_a_csi_volume_names_the_secrets_that_its_class_names(maker: Maker) -> None:
    uses = ("node-stage", "node-publish", "node-expand", "controller-expand", "controller-publish", "provisioner")
    parameters = {"pvType": "csi"}
    for use in uses:
        parameters |= {
            f"csi.storage.k8s.io/{use}-secret-name": use,
            f"csi.storage.k8s.io/{use}-secret-namespace": "ceph",
        }
    source = body(maker, claim(), of_class(parameters), native=False)["spec"]["csi"]
    refs = {field: ref["name"] for field, ref in source.items() if field.endswith("SecretRef")}
    assert refs == {
        "nodeStageSecretRef": "node-stage",
        "nodePublishSecretRef": "node-publish",
        "nodeExpandSecretRef": "node-expand",
        "controllerExpandSecretRef": "controller-expand",
        "controllerPublishSecretRef": "controller-publish",
    }


def test_a_class_that_brings_its_user_leaves_no_note_of_one_to_take_back(maker: Maker) -> None:
    annotations = body(maker, claim(), of_class(), minted=Minted())["metadata"]["annotations"]
    assert {objects.USER, objects.SECRET} & annotations.keys() == set()


def test_a_class_that_brings_credentials_is_remembered_by_where_they_lie(maker: Maker) -> None:
    storage_class = of_class({"adminId": "kube", "adminSecretName": "admin", "adminSecretNamespace": "ceph"})
    annotations = body(maker, claim(), storage_class)["metadata"]["annotations"]
    assert annotations[objects.ADMIN_SECRET] == "kube@ceph/admin"


class TestDriverName:
    @pytest.mark.parametrize(
        ("said", "name"),
        [
            ("ceph-provisioner.io/rbd", "rbd.ceph-provisioner.io"),
            ("Example.com/RBD", "rbd.example.com"),
            ("rbd.csi.ceph.com", "rbd.csi.ceph.com"),
        ],
    )
    def test_is_what_kubernetes_accepts(self, said: str, name: str) -> None:
        assert driver_name(said) == name

    @pytest.mark.parametrize("said", ["", "RBD", "a/b/c", "rbd_x", "-rbd", "x" * 64])
    def test_is_refused_before_it_stands_in_a_volume(self, said: str) -> None:
        with pytest.raises(InvalidRequest, match="--csi-driver"):
            driver_name(said)
