"""What the provisioner's service account may do: what its work needs, and nothing of anybody else's. About 3 s.

That it may do enough is what every other test here shows: all of them run the program under this account.
"""

from pathlib import Path

import pytest

from provisioner.kube import kubeconfig
from provisioner.kube.errors import Forbidden
from provisioner.kube.resources import SECRETS, Resource
from provisioner.kube.transport import Api
from tests.harness.kubernetes import NAMESPACE, Kubernetes

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)


@pytest.fixture(scope="module")
def api(account: Path) -> Api:
    return Api(kubeconfig.load(str(account)), "tests")


def may(api: Api, verb: str, resource: str, namespace: str = "", name: str = "", group: str = "") -> bool:
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name}
    status = api.create(_REVIEWS.path(), _REVIEWS.body({}, spec={"resourceAttributes": asked}))["status"]
    return bool(status["allowed"])


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"])
@pytest.mark.parametrize("namespace", ["", "default", "kube-system"])
def test_secrets_of_others_are_out_of_reach(api: Api, verb: str, namespace: str) -> None:
    assert not may(api, verb, "secrets", namespace)


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_even_its_own_secrets_cannot_be_read_back(api: Api, verb: str) -> None:
    assert not may(api, verb, "secrets", NAMESPACE)


@pytest.mark.parametrize(
    ("verb", "resource", "group"),
    [
        ("create", "persistentvolumeclaims", ""),
        ("update", "persistentvolumeclaims", ""),
        ("delete", "persistentvolumeclaims", ""),
        ("update", "persistentvolumes", ""),
        ("deletecollection", "persistentvolumes", ""),
        ("get", "nodes", ""),
        ("patch", "nodes", ""),
        ("list", "namespaces", ""),
        ("get", "pods", ""),
        ("create", "pods", ""),
        ("list", "events", ""),
        ("create", "storageclasses", "storage.k8s.io"),
        ("create", "serviceaccounts/token", ""),
        ("impersonate", "users", ""),
        ("escalate", "clusterroles", "rbac.authorization.k8s.io"),
        ("bind", "clusterroles", "rbac.authorization.k8s.io"),
    ],
)
def test_what_the_work_does_not_need_is_not_granted(api: Api, verb: str, resource: str, group: str) -> None:
    assert not may(api, verb, resource, "default", group=group)


def test_the_only_namespace_it_can_read_is_the_one_that_names_the_cluster(api: Api) -> None:
    assert may(api, "get", "namespaces", name="kube-system")
    assert not may(api, "get", "namespaces", name="default")


def test_leases_of_other_namespaces_are_out_of_reach(api: Api) -> None:
    assert may(api, "update", "leases", NAMESPACE, group="coordination.k8s.io")
    assert not may(api, "update", "leases", "kube-system", group="coordination.k8s.io")


def test_a_class_credential_let_read_is_the_only_one(api: Api, kubernetes: Kubernetes) -> None:
    for name in ("lent", "kept"):
        kubernetes.make_secret("default", name, key="value")
    kubernetes.let_read("default", "lent")
    assert api.get(SECRETS.path("default", "lent"))["data"]
    with pytest.raises(Forbidden):
        api.get(SECRETS.path("default", "kept"))
