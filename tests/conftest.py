"""Session fixtures: one real Ceph and one real Kubernetes serve all tests; each test uses names of its own."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import ceph as ceph_harness
from tests.harness import cinder as cinder_harness
from tests.harness import kubernetes as kubernetes_harness
from tests.harness.ceph import Ceph
from tests.harness.cinder import Cinder
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program

if TYPE_CHECKING:
    from tests.schedule import Schedule

# a busy machine is slow, not wrong
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "Schedule | None":
    """With `--dist loadfile`, the order of `tests/schedule.py`."""
    # imported here: xdist is for those who run several workers
    from tests.schedule import Schedule

    return Schedule(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A Ceph with one OSD, as `hack/dev-ceph` makes it."""
    with ceph_harness.running(tmp_path_factory.mktemp("ceph") / "c") as made:
        yield made


@pytest.fixture(scope="session")
def cinder(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cinder]:
    """A Cinder in a pool of its own of the Ceph, as `hack/dev-cinder` makes it."""
    directory = tmp_path_factory.mktemp("cinder") / "c"
    try:
        yield cinder_harness.start(directory, ceph)
    finally:
        cinder_harness.stop(directory)


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A Kubernetes 1.30 control plane, as `hack/dev-kubernetes` makes it, with our manifests applied.

    CEPH_PROVISIONER_TEST_KUBECONFIG names an existing one to use instead; tests that kill its daemons then fail.
    """
    existing = os.environ.get("CEPH_PROVISIONER_TEST_KUBECONFIG")
    if existing:
        yield kubernetes_harness.connect(Path(existing).parent, Path(existing))
        return
    directory = tmp_path_factory.mktemp("kubernetes") / "k"
    try:
        yield kubernetes_harness.start(directory)
    finally:
        kubernetes_harness.stop(directory)


@pytest.fixture(scope="session")
def account(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the service account that the manifests make."""
    return kubernetes.account_kubeconfig(tmp_path_factory.mktemp("account") / "kubeconfig")


@pytest.fixture
def program(ceph: Ceph, account: Path, tmp_path: Path) -> Iterator[Program]:
    """A provisioner under a name of its own, not yet started, running under the manifests' service account."""
    name = f"{uuid.uuid4().hex[:8]}.example.com/rbd"
    made = Program(tmp_path, ceph.config_file(tmp_path), account, name)
    try:
        yield made
    finally:
        made.kill()
