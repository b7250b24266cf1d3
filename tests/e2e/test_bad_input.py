"""What can't be had is said in an event that names field and value; nothing is made, nothing storms. About 45 s.

All the bad claims are made at once under one provisioner, so that 15 s of counting serve all of them.
"""

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import rbd

from provisioner.claims import objects
from provisioner.kube.errors import Invalid
from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.traces import traces, wait_no_traces
from tests.harness.waiting import until

WATCHED = 15.0
"""Seconds for which writes and operations are counted."""


@dataclass(frozen=True)
class Case:
    """A claim that can't be served, and what of it the event must name."""

    names: str
    parameters: dict[str, str] = field(default_factory=dict)
    size: str = "1Gi"
    spec: Object = field(default_factory=dict)


CASES = {
    "unknown parameter": Case("parameters.pol 'fast'", {"pol": "fast"}),
    "8 EiB": Case("spec.resources.requests.storage '", size="8Ei"),
    "more than the largest image": Case("spec.resources.requests.storage '1Pi'", size="1Pi"),
    "no such pool": Case("pool 'nowhere'", {"pool": "nowhere"}),
    "no such data pool": Case("dataPool 'nowhere'", {"dataPool": "nowhere"}),
    "no such RADOS namespace": Case("radosNamespace 'nowhere'", {"radosNamespace": "nowhere", "pvType": "csi"}),
    "a pool name that fits no id": Case("pool 'xxxx", {"pool": "x" * 100}),
    "unknown cluster": Case("parameters.clusterID 'mars'", {"clusterID": "mars"}),
    "a feature that krbd can't map": Case(
        "imageFeatures 'exclusive-lock,journaling'", {"imageFeatures": "exclusive-lock,journaling"}
    ),
    "unknown feature": Case("imageFeatures 'layring'", {"imageFeatures": "layring"}),
    "a feature without the one it needs": Case("imageFeatures 'object-map'", {"imageFeatures": "object-map"}),
    "an object size that is no power of two": Case("objectSize '3000000'", {"objectSize": "3000000"}),
    "an object size that is no number": Case("parameters.objectSize '4M'", {"objectSize": "4M"}),
    "a stripe unit without a count": Case("stripeUnit '65536'", {"stripeUnit": "65536"}),
    "a stripe unit that divides nothing": Case("stripeUnit '100000'", {"stripeUnit": "100000", "stripeCount": "2"}),
    "a stripe count beyond all bounds": Case("stripeCount '9999'", {"stripeUnit": "65536", "stripeCount": "9999"}),
    "unknown file system": Case("parameters.csi.storage.k8s.io/fstype 'zfs'", {"csi.storage.k8s.io/fstype": "zfs"}),
    "unknown kind of volume": Case("parameters.pvType 'nbd'", {"pvType": "nbd"}),
    "map options of a native volume": Case("parameters.mapOptions 'noshare'", {"mapOptions": "noshare"}),
    "a Secret that isn't there": Case("Secret 'default/none'", {"adminSecretName": "none"}),
    "many writers of a file system": Case("spec.accessModes 'ReadWriteMany'", spec={"accessModes": ["ReadWriteMany"]}),
    "a selector": Case("spec.selector", spec={"selector": {"matchLabels": {"disk": "ssd"}}}),
    "a wrong key": Case("client.wrong", {"adminId": "wrong", "adminSecretName": "wrong"}),
    "an exceeded quota": Case("quota", {"pool": "crowded"}),
}


@dataclass(frozen=True)
class Watched:
    """The claims by case, and what they cost while nobody changed anything."""

    claims: dict[str, Object]
    writes: float
    operations: float


@pytest.fixture(scope="module")
def surroundings(ceph: Ceph, kubernetes: Kubernetes) -> Iterator[None]:
    """A pool over its quota, and a Secret with the key of somebody else."""
    ceph.make_pool("crowded")
    ceph.let_provision("crowded")
    ceph.command("osd pool set-quota", pool="crowded", field="max_objects", val="1")
    with ceph.admin_pool("crowded") as pool:
        for name in ("one", "two"):
            pool.write_full(name, b"data")
    ceph.make_user("wrong", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    other = ceph.make_user("other", mon="allow r")
    kubernetes.make_secret("default", "wrong", key=other.key)
    for secret in ("wrong", "none"):
        kubernetes.let_read("default", secret)
    until(lambda: "full_quota" in ceph.pool_flags("crowded"), 120, "the pool is over its quota")
    yield
    ceph.drop_pool("crowded")


@pytest.fixture(scope="module")
def watched(ceph: Ceph, kubernetes: Kubernetes, surroundings: None, provisioner: Program) -> Watched:
    """All the claims, once each has had its event."""
    claims = {}
    for name, case in CASES.items():
        storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool} | case.parameters)
        claims[name] = kubernetes.make_claim(storage_class, case.size, **case.spec)
    for claim in claims.values():
        kubernetes.wait_event(claim, "ProvisioningFailed")
    writes, operations = provisioner.kube_writes(), provisioner.total("ceph_provisioner_operation_seconds_count")
    threading.Event().wait(WATCHED)
    return Watched(
        claims,
        provisioner.kube_writes() - writes,
        provisioner.total("ceph_provisioner_operation_seconds_count") - operations,
    )


@pytest.mark.parametrize("name", CASES)
class TestEachCase:
    def test_is_told_with_field_and_value(self, kubernetes: Kubernetes, watched: Watched, name: str) -> None:
        kubernetes.wait_event(watched.claims[name], "ProvisioningFailed", CASES[name].names, seconds=0)

    def test_makes_nothing_and_holds_nothing(self, ceph: Ceph, kubernetes: Kubernetes, watched: Watched, name: str) -> None:
        claim = kubernetes.claim(watched.claims[name])
        assert claim is not None
        assert objects.CLAIM_FINALIZER not in objects.finalizers(claim)
        assert traces(claim, ceph, kubernetes) == []

    def test_can_be_deleted(self, kubernetes: Kubernetes, watched: Watched, name: str) -> None:
        kubernetes.delete_claim(watched.claims[name])
        until(lambda: kubernetes.claim(watched.claims[name]) is None, 120, "the claim is gone")


class TestAllCasesTogether:
    def test_the_api_server_is_written_to_less_than_once_a_claim_in_15_seconds(self, watched: Watched) -> None:
        assert watched.writes <= len(CASES)

    def test_ceph_is_asked_less_than_once_a_claim_in_15_seconds(self, watched: Watched) -> None:
        assert watched.operations <= len(CASES) / 2

    def test_no_object_is_left_in_the_pool_over_its_quota(self, ceph: Ceph, watched: Watched) -> None:
        with ceph.admin_pool("crowded") as pool:
            names = {item.key for item in pool.list_objects()}
        assert not [name for name in names if name.startswith(("rbd_id", "rbd_header", "rbd_object_map"))]


@pytest.mark.parametrize("size", ["0", "-1Gi"])
def test_kubernetes_itself_refuses_no_size_at_all(kubernetes: Kubernetes, provisioner: Program, size: str) -> None:
    with pytest.raises(Invalid):
        kubernetes.make_claim("any", size)


def test_an_image_made_by_hand_under_a_claims_name_is_never_touched(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    late = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool}, volumeBindingMode="WaitForFirstConsumer")
    claim = kubernetes.make_claim(late)
    name = f"pvc-{claim['metadata']['uid']}"
    with ceph.admin_pool() as pool:
        rbd.RBD().create(pool, name, 1 << 30)
        with rbd.Image(pool, name) as image:
            image.write(b"precious", 0)
    kubernetes.patch_claim(claim, {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "any"}}})
    kubernetes.wait_event(claim, "ProvisioningFailed", f"image dev/{ceph.pool}/{name} exists already")
    assert traces(claim, ceph, kubernetes) == [f"image {name}"]
    kubernetes.delete_claim(claim)
    until(lambda: kubernetes.claim(claim) is None, 120, "the claim is gone")
    with ceph.open_image(name) as image:
        assert image.read(0, 8) == b"precious"
        assert list(image.metadata_list()) == []


def test_an_image_made_by_hand_while_a_claim_is_held_does_not_keep_the_claim(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    """Its outcome was unknown at first, so it stays held: the deletion finds that nothing there is ours."""
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    with ceph.no_new_users():
        claim = kubernetes.make_claim(storage_class)
        name = f"pvc-{claim['metadata']['uid']}"
        until(lambda: name in ceph.images(), 120, "the image is made")
        with ceph.admin_pool() as pool:
            rbd.RBD().remove(pool, name)
            rbd.RBD().create(pool, name, 1 << 30)
            with rbd.Image(pool, name) as image:
                image.write(b"precious", 0)
        kubernetes.delete_claim(claim)
        until(lambda: kubernetes.claim(claim) is None, 120, "the claim is gone", lambda: str(kubernetes.told(claim)))
    with ceph.open_image(name) as image:
        assert image.read(0, 8) == b"precious"


def test_a_pool_removed_while_a_claim_is_held_does_not_keep_the_claim(
    ceph: Ceph, kubernetes: Kubernetes, program: Program
) -> None:
    pool = f"short-lived-{uuid.uuid4().hex[:6]}"
    ceph.make_pool(pool)
    ceph.let_provision(pool)
    program.start()
    with ceph.no_new_users():
        claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": pool}))
        until(lambda: ceph.images(pool), 120, "the image is made", lambda: str(kubernetes.told(claim)))
        ceph.drop_pool(pool)
        kubernetes.delete_claim(claim)
        until(lambda: kubernetes.claim(claim) is None, 120, "the claim is gone", lambda: str(kubernetes.told(claim)))


def test_a_full_cluster_refuses_new_volumes_and_still_deletes_old_ones(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    old = kubernetes.make_claim(storage_class)
    kubernetes.wait_bound(old)
    with ceph.full():
        new = kubernetes.make_claim(storage_class)
        kubernetes.wait_event(new, "ProvisioningFailed", "pool full")
        assert traces(new, ceph, kubernetes) == []
        kubernetes.delete_claim(old)
        wait_no_traces(old, ceph, kubernetes)
    kubernetes.wait_bound(new)
