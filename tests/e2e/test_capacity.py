"""What a class can still give is told in a CSIStorageCapacity object, which belongs to the class. About 12 seconds."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.claims.capacity import DRIVER, MANAGED_BY
from provisioner.claims.quantity import to_bytes
from provisioner.kube.resources import CSI_STORAGE_CAPACITIES, STORAGE_CLASSES, Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.nodes import node_of, nodes, pod_using
from tests.harness.program import Program, running
from tests.harness.waiting import until

GIB = 1 << 30
ZONE = "topology.kubernetes.io/zone"


def capacities(kubernetes: Kubernetes, storage_class: str) -> list[Object]:
    listed = kubernetes.api.list_all(CSI_STORAGE_CAPACITIES.path(NAMESPACE)).items
    return [item for item in listed if item["storageClassName"] == storage_class]


def wait_for_one(kubernetes: Kubernetes, storage_class: str) -> Object:
    return until(lambda: capacities(kubernetes, storage_class), 120, f"{storage_class} has a capacity")[0]


@pytest.fixture(scope="module")
def quota_pool(ceph: Ceph) -> Iterator[str]:
    name = f"quota-{uuid.uuid4().hex[:8]}"
    ceph.make_pool(name)
    ceph.let_provision(name)
    yield name
    ceph.drop_pool(name)


@pytest.fixture(scope="module")
def polling(ceph: Ceph, account: Path, quota_pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A provisioner that looks at its classes' capacity each second; the file's last test kills it."""
    directory = tmp_path_factory.mktemp("capacity")
    with running(directory, ceph.config_file(directory), account, "--capacity-interval", "1") as made:
        yield made


def set_quota(ceph: Ceph, pool: str, size: int) -> None:
    ceph.command("osd pool set-quota", pool=pool, field="max_bytes", val=str(size))


def test_a_class_has_one_object_with_the_drivers_labels_for_all_nodes(
    ceph: Ceph, kubernetes: Kubernetes, polling: Program
) -> None:
    storage_class = kubernetes.make_class(polling.provisioner, {"pool": ceph.pool})
    told = wait_for_one(kubernetes, storage_class)
    prefix, _, kind = polling.provisioner.partition("/")
    assert told["metadata"]["labels"][DRIVER] == f"{kind}.{prefix}"
    assert told["metadata"]["labels"][MANAGED_BY].startswith("ceph-provisioner-")
    assert told["nodeTopology"] == {}
    assert to_bytes("capacity", told["capacity"]) > GIB
    assert len(capacities(kubernetes, storage_class)) == 1
    metric = "ceph_provisioner_class_available_bytes"
    until(lambda: polling.total(metric, storage_class=storage_class) > GIB, 120, "the metric says so too")


def test_the_capacity_follows_the_pools_quota(ceph: Ceph, kubernetes: Kubernetes, quota_pool: str, polling: Program) -> None:
    set_quota(ceph, quota_pool, 3 * GIB)
    storage_class = kubernetes.make_class(polling.provisioner, {"pool": quota_pool})
    first = wait_for_one(kubernetes, storage_class)
    assert to_bytes("capacity", first["capacity"]) <= 3 * GIB
    set_quota(ceph, quota_pool, 2 * GIB)
    until(
        lambda: to_bytes("capacity", wait_for_one(kubernetes, storage_class)["capacity"]) <= 2 * GIB,
        120,
        "the capacity follows the quota",
        lambda: str(capacities(kubernetes, storage_class)),
    )
    assert [item["metadata"]["uid"] for item in capacities(kubernetes, storage_class)] == [first["metadata"]["uid"]]


def test_the_object_goes_with_its_class(ceph: Ceph, kubernetes: Kubernetes, polling: Program) -> None:
    storage_class = kubernetes.make_class(polling.provisioner, {"pool": ceph.pool})
    wait_for_one(kubernetes, storage_class)
    kubernetes.api.delete(STORAGE_CLASSES.path(name=storage_class))
    until(lambda: not capacities(kubernetes, storage_class), 120, "the object is gone")


def test_a_class_that_cannot_be_honoured_and_one_of_others_have_none(
    ceph: Ceph, kubernetes: Kubernetes, polling: Program
) -> None:
    wrong = kubernetes.make_class(polling.provisioner, {"pool": ceph.pool, "imageFeatures": "journaling"})
    foreign = kubernetes.make_class("other.example.com/disk", {"pool": ceph.pool})
    right = kubernetes.make_class(polling.provisioner, {"pool": ceph.pool})
    wait_for_one(kubernetes, right)
    assert capacities(kubernetes, wrong) + capacities(kubernetes, foreign) == []


@pytest.fixture(scope="module")
def eastern(ceph: Ceph, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A provisioner whose cluster is reached from zone east only."""
    directory = tmp_path_factory.mktemp("eastern")
    config = ceph.config_file(directory, segments={"zone": "east"})
    with running(directory, config, account, "--capacity-interval", "1") as made:
        yield made


@pytest.fixture(scope="module")
def zones(kubernetes: Kubernetes) -> Iterator[list[str]]:
    """A node in each of two zones; the first is in the east."""
    with nodes(kubernetes, "v1.30.14", "v1.30.14", labels=[{ZONE: "east"}, {ZONE: "west"}]) as names:
        yield names


class TestSegments:
    def test_the_capacity_is_that_of_the_nodes_that_reach_the_cluster(
        self, ceph: Ceph, kubernetes: Kubernetes, zones: list[str], eastern: Program
    ) -> None:
        storage_class = kubernetes.make_class(eastern.provisioner, {"pool": ceph.pool})
        assert wait_for_one(kubernetes, storage_class)["nodeTopology"] == {"matchLabels": {ZONE: "east"}}

    def test_a_pod_runs_where_its_volume_can_be_reached(
        self, ceph: Ceph, kubernetes: Kubernetes, zones: list[str], eastern: Program
    ) -> None:
        claim = kubernetes.make_claim(kubernetes.make_class(eastern.provisioner, {"pool": ceph.pool}))
        kubernetes.wait_bound(claim)
        with pod_using(kubernetes, claim) as pod:
            chosen = until(lambda: node_of(kubernetes, pod), 120, "the pod has a node", lambda: str(kubernetes.told(pod)))
            assert chosen == zones[0]


def test_the_object_goes_with_its_class_also_while_nobody_runs(ceph: Ceph, kubernetes: Kubernetes, polling: Program) -> None:
    storage_class = kubernetes.make_class(polling.provisioner, {"pool": ceph.pool})
    wait_for_one(kubernetes, storage_class)
    polling.kill()
    kubernetes.api.delete(STORAGE_CLASSES.path(name=storage_class))
    until(lambda: not capacities(kubernetes, storage_class), 120, "the garbage collector took it")
