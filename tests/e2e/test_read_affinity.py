"""A node that learns from its labels in Kubernetes where it is in CRUSH, with the rights of the manifests. About 5 s.

What the kernel makes of it is shown in the virtual machine (tests/vm).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.kube import kubeconfig
from provisioner.kube.errors import Forbidden
from provisioner.kube.resources import NODES
from provisioner.kube.transport import Api
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import ROOT, Kubernetes
from tests.harness.node import node_program
from tests.harness.waiting import until

LABELS = "topology.kubernetes.io/zone,kubernetes.io/hostname"
MANIFESTS = ("overlays/csi/rbac.yaml", "components/read-affinity/rbac.yaml")


@pytest.fixture
def node_account(kubernetes: Kubernetes, tmp_path: Path) -> Path:
    """What the node service is in a cluster."""
    kubernetes.apply(*(ROOT / "manifests" / each for each in MANIFESTS))
    return kubernetes.account_kubeconfig(tmp_path / "kubeconfig", "ceph-provisioner-csi-node")


@pytest.fixture
def here(kubernetes: Kubernetes) -> Iterator[str]:
    """The Kubernetes node that the service is on."""
    labels = {"topology.kubernetes.io/zone": "east", "kubernetes.io/hostname": "here.example.com"}
    kubernetes.api.create(NODES.path(), NODES.body({"name": "here", "labels": labels}))
    yield "here"
    kubernetes.api.delete(NODES.path(name="here"))


def test_a_node_reads_where_it_is_in_its_labels(ceph: Ceph, node_account: Path, here: str) -> None:
    with node_program(ceph, "--kubeconfig", str(node_account), "--crush-location-labels", LABELS) as node:
        until(lambda: "nearest to zone:east|host:here-example-com" in node.log.read_text(), 30, "the node knows where it is")


def test_without_the_api_server_it_serves_all_the_same_and_says_why_it_reads_from_afar(ceph: Ceph, node_account: Path) -> None:
    with node_program(ceph, "--kubeconfig", str(node_account), "--crush-location-labels", LABELS) as node:
        until(lambda: "where it is, by its labels" in node.log.read_text(), 30, "the node says so")
        assert node.answers()


def test_its_account_may_read_a_node_and_list_none(node_account: Path, here: str) -> None:
    api = Api(kubeconfig.load(str(node_account)), "tests")
    assert api.get(NODES.path(name=here))["metadata"]["name"] == here
    with pytest.raises(Forbidden):
        api.list_all(NODES.path())
