"""StorageClasses of both predecessors, and the kinds of PersistentVolume that a class may ask for. About 25 s."""

import uuid
from collections.abc import Iterator

import pytest

from provisioner.kube.resources import SECRETS
from tests.harness.ceph import Ceph, User
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.nodes import nodes
from tests.harness.program import Program
from tests.harness.traces import traces, wait_no_traces

ELSEWHERE = "203.0.113.7:6789"


@pytest.fixture(scope="module")
def user(ceph: Ceph) -> Iterator[User]:
    """A cephx user of an administrator's, with rights on the pool and none to make users."""
    name = f"kube-{uuid.uuid4().hex[:6]}"
    yield ceph.make_user(name, mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    ceph.command("auth del", entity=f"client.{name}")


@pytest.fixture(scope="module")
def admin_secret(kubernetes: Kubernetes, user: User) -> str:
    """A Secret as a `ceph.com/rbd` class names it: only a key, in another namespace, readable by our service account."""
    name = f"admin-{uuid.uuid4().hex[:6]}"
    kubernetes.make_secret("kube-system", name, key=user.key)
    kubernetes.let_read("kube-system", name)
    return name


@pytest.fixture(scope="module")
def old_parameters(ceph: Ceph, user: User, admin_secret: str) -> dict[str, str]:
    return {
        "monitors": ",".join(ceph.monitors),
        "pool": ceph.pool,
        "adminId": user.name,
        "adminSecretName": admin_secret,
        "adminSecretNamespace": "kube-system",
        "userId": user.name,
        "userSecretName": "ceph-user-secret",
        "fsType": "ext4",
        "imageFormat": "2",
        "imageFeatures": "layering",
    }


@pytest.fixture(scope="module")
def csi_parameters(ceph: Ceph, kubernetes: Kubernetes) -> Iterator[dict[str, str]]:
    """As ceph-csi's classes name them; the user has the same rights as our own."""
    name = f"csi-{uuid.uuid4().hex[:6]}"
    user = ceph.make_user(name, **ceph.provisioner_caps())
    kubernetes.make_secret("kube-system", name, userID=name, userKey=user.key)
    kubernetes.let_read("kube-system", name)
    yield {
        "pool": ceph.pool,
        "csi.storage.k8s.io/provisioner-secret-name": name,
        "csi.storage.k8s.io/provisioner-secret-namespace": "kube-system",
    }
    ceph.command("auth del", entity=f"client.{name}")


class TestClassesOfCephComRbd:
    def test_work_with_another_provisioner_name(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, old_parameters: dict[str, str]
    ) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, old_parameters))
        source = kubernetes.wait_bound(claim)["spec"]["rbd"]
        assert source == {
            "monitors": list(ceph.monitors),
            "pool": ceph.pool,
            "image": f"pvc-{claim['metadata']['uid']}",
            "user": old_parameters["userId"],
            "secretRef": {"namespace": "default", "name": "ceph-user-secret"},
            "fsType": "ext4",
            "keyring": "/etc/ceph/keyring",
        }
        assert ceph.info(source["image"])["features"] == ["layering"]

    def test_make_no_user_and_no_secret(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, old_parameters: dict[str, str]
    ) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, old_parameters))
        name = kubernetes.wait_bound(claim)["metadata"]["name"]
        assert traces(claim, ceph, kubernetes) == [f"image {name}", f"PersistentVolume {name}"]

    def test_have_their_volumes_deleted_with_their_own_credentials(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, old_parameters: dict[str, str]
    ) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, old_parameters))
        kubernetes.wait_bound(claim)
        kubernetes.delete_claim(claim)
        wait_no_traces(claim, ceph, kubernetes)

    def test_of_another_cluster_are_refused_with_the_monitors_of_ours(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, old_parameters: dict[str, str]
    ) -> None:
        elsewhere = kubernetes.make_class(provisioner.provisioner, {**old_parameters, "monitors": ELSEWHERE})
        claim = kubernetes.make_claim(elsewhere)
        event = kubernetes.wait_event(claim, "ProvisioningFailed", f"parameters.monitors '{ELSEWHERE}'")
        assert ceph.monitors[0] in event["message"]
        assert traces(claim, ceph, kubernetes) == []


class TestCredentialsOfTheClass:
    def test_make_the_volume_and_its_user_and_remove_both(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, csi_parameters: dict[str, str]
    ) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, csi_parameters))
        kubernetes.wait_bound(claim)
        kubernetes.delete_claim(claim)
        wait_no_traces(claim, ceph, kubernetes)

    def test_that_are_missing_are_named(
        self, kubernetes: Kubernetes, provisioner: Program, csi_parameters: dict[str, str]
    ) -> None:
        missing = {**csi_parameters, "csi.storage.k8s.io/provisioner-secret-name": "nowhere"}
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, missing))
        kubernetes.wait_event(claim, "ProvisioningFailed", "Secret 'kube-system/nowhere'")


class TestCsi:
    def test_volumes_name_driver_handle_and_a_secret_that_nodes_understand(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
    ) -> None:
        storage_class = kubernetes.make_class(
            provisioner.provisioner, {"pool": ceph.pool, "pvType": "csi", "mapOptions": "noshare"}
        )
        claim = kubernetes.make_claim(storage_class)
        name = f"pvc-{claim['metadata']['uid']}"
        assert kubernetes.wait_bound(claim)["spec"]["csi"] == {
            "driver": f"rbd.{provisioner.provisioner.removesuffix('/rbd')}",
            "volumeHandle": f"dev/{ceph.pool}/{name}",
            "volumeAttributes": {"clusterID": "dev", "pool": ceph.pool, "imageName": name, "mapOptions": "noshare"},
            "nodeStageSecretRef": {"namespace": NAMESPACE, "name": f"{name}-cephx"},
            "fsType": "ext4",
        }
        assert kubernetes.secret_data(NAMESPACE, f"{name}-cephx").keys() == {"userID", "userKey"}

    def test_volumes_are_reclaimed_like_native_ones(self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool, "pvType": "csi"}))
        kubernetes.wait_bound(claim)
        kubernetes.delete_claim(claim)
        wait_no_traces(claim, ceph, kubernetes)

    def test_volumes_may_live_in_a_rados_namespace(self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> None:
        ceph.make_namespace("tenant")
        parameters = {"pool": ceph.pool, "pvType": "csi", "radosNamespace": "tenant"}
        claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, parameters))
        source = kubernetes.wait_bound(claim)["spec"]["csi"]
        assert source["volumeAttributes"]["radosNamespace"] == "tenant"
        assert source["volumeHandle"] == f"dev/{ceph.pool}/tenant/pvc-{claim['metadata']['uid']}"
        assert ceph.images(namespace="tenant") == [f"pvc-{claim['metadata']['uid']}"]


class TestKindsByNodes:
    """Each under a provisioner of its own, which has looked at no nodes before."""

    @pytest.mark.parametrize(
        ("kubelets", "kind"), [((), "csi"), (("v1.30.14",), "rbd"), (("v1.30.14", "v1.31.0"), "csi"), (("v1.31.0",), "csi")]
    )
    def test_auto_makes_what_every_node_can_mount(
        self, ceph: Ceph, kubernetes: Kubernetes, program: Program, kubelets: tuple[str, ...], kind: str
    ) -> None:
        with nodes(kubernetes, *kubelets):
            program.start()
            storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool, "pvType": "auto"})
            assert kind in kubernetes.wait_bound(kubernetes.make_claim(storage_class))["spec"]

    def test_native_is_refused_where_no_node_can_mount_it(self, ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
        with nodes(kubernetes, "v1.31.0"):
            program.start()
            claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": ceph.pool}))
            kubernetes.wait_event(claim, "ProvisioningFailed", "set pvType: csi")
            assert traces(claim, ceph, kubernetes) == []

    def test_native_is_made_with_a_warning_where_some_nodes_can(
        self, ceph: Ceph, kubernetes: Kubernetes, program: Program
    ) -> None:
        with nodes(kubernetes, "v1.30.14", "v1.31.0"):
            program.start()
            claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": ceph.pool}))
            assert "rbd" in kubernetes.wait_bound(claim)["spec"]
            kubernetes.wait_event(claim, "NotEveryNodeCanMount", "1 of 2 nodes")


def test_the_secret_of_a_volume_cannot_be_read_by_the_claims_owner(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool}))
    reference = kubernetes.wait_bound(claim)["spec"]["rbd"]["secretRef"]
    assert reference["namespace"] != claim["metadata"]["namespace"]
    theirs = kubernetes.api.list_all(SECRETS.path(claim["metadata"]["namespace"])).items
    assert not [secret for secret in theirs if secret["type"] == "kubernetes.io/rbd"]
