"""A provisioner that runs for a whole file, for tests that don't kill it; a Kubernetes with our CSI driver, for a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.sidecars.build import sidecars
from tests.harness import kubernetes as kubernetes_harness
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program, running
from tests.harness.sidecars import CsiCluster


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A running provisioner under a name of its own."""
    directory = tmp_path_factory.mktemp("provisioner")
    with running(directory, ceph.config_file(directory), account) as made:
        yield made


@pytest.fixture(scope="session")
def csi_kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A Kubernetes 1.36, with the kinds of snapshots, group snapshots and grants across namespaces."""
    directory = tmp_path_factory.mktemp("kubernetes-csi") / "k"
    gates = "--feature-gates=CrossNamespaceVolumeDataSource=true"
    try:
        started = kubernetes_harness.start(directory, "1.36", f"--apiserver-arg={gates}", f"--controller-manager-arg={gates}")
        started.define(*sorted((sidecars(print) / "crds").glob("*.yaml")))
        yield started
    finally:
        kubernetes_harness.stop(directory)


@pytest.fixture(scope="session")
def csi(ceph: Ceph, csi_kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CsiCluster]:
    """Our CSI controller in that Kubernetes, behind the standard sidecars, with a pool of its own."""
    made = CsiCluster(ceph, csi_kubernetes, tmp_path_factory.mktemp("csi"))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def copier(csi: CsiCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A provisioner of claims beside the CSI driver, whose snapshots and PersistentVolumes are its own too."""
    directory = tmp_path_factory.mktemp("copier")
    account = csi.kubernetes.account_kubeconfig(directory / "kubeconfig")
    with running(directory, csi.config, account, "--csi-driver", csi.driver) as made:
        yield made
