"""Claims made from other claims and from snapshots, by the claims front end: content, protection of the source, refusals.

About 40 seconds, half of it the start of Kubernetes 1.36 and the sidecars.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioner.claims import objects
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS, Object
from tests.harness import snapshots
from tests.harness.program import Program
from tests.harness.sidecars import CsiCluster
from tests.harness.waiting import until

MIB, GIB = 1 << 20, 1 << 30
HANDLE = "dev/rbd/pvc-gone@snapshot-gone.abcdef"


@pytest.fixture(scope="module")
def storage_class(csi: CsiCluster, copier: Program) -> str:
    return csi.kubernetes.make_class(copier.provisioner, {"pool": csi.pool, "pvType": "csi"})


@pytest.fixture(scope="module")
def bound(csi: CsiCluster, storage_class: str) -> Object:
    """A claim of 2 GiB to copy from, with data in it."""
    return filled(csi, csi.kubernetes.make_claim(storage_class, "2Gi"))


def image_of(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def filled(csi: CsiCluster, claim: Object, data: bytes = b"first") -> Object:
    """The claim, bound, with data at its begin and behind 5 MiB."""
    csi.kubernetes.wait_bound(claim)
    with csi.ceph.open_image(image_of(claim), csi.pool) as image:
        image.write(data, 0)
        image.write(data, 5 * MIB)
    return csi.kubernetes.claim(claim) or claim


def content(csi: CsiCluster, claim: Object, length: int = 5) -> tuple[bytes, bytes]:
    """What lies where `filled` wrote."""
    with csi.ceph.open_image(image_of(claim), csi.pool) as image:
        return image.read(0, length), image.read(5 * MIB, length)


def held(csi: CsiCluster, source: Object) -> list[str]:
    """Finalizers on the source for the sake of copies."""
    now = (
        csi.kubernetes.claim(source)
        if source["kind"] == "PersistentVolumeClaim"
        else snapshots.snapshot_now(csi.kubernetes, source)
    )
    return [name for name in objects.finalizers(now or {"metadata": {}}) if name in (objects.CLONING, objects.SNAPSHOT_SOURCE)]


@pytest.fixture(scope="module")
def snapshot(csi: CsiCluster, bound: Object) -> Object:
    """A snapshot that the CSI driver took of a claim which the claims front end made."""
    taken = snapshots.take(csi.kubernetes, snapshots.make_snapshot_class(csi.kubernetes, csi.driver), bound)
    return snapshots.wait_ready(csi.kubernetes, taken)


class TestCopies:
    def test_a_copy_has_the_content_of_its_original_and_goes_its_own_way(
        self, csi: CsiCluster, storage_class: str, bound: Object
    ) -> None:
        copy = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(bound))
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (b"first", b"first")
        with csi.ceph.open_image(image_of(copy), csi.pool) as image:
            image.write(b"other", 0)
        assert content(csi, bound) == (b"first", b"first")
        assert held(csi, bound) == []

    def test_a_larger_copy_says_that_its_file_system_has_still_to_grow(
        self, csi: CsiCluster, storage_class: str, bound: Object
    ) -> None:
        copy = csi.kubernetes.make_claim(storage_class, "3Gi", dataSource=snapshots.source(bound))
        volume = csi.kubernetes.wait_bound(copy)
        assert volume["spec"]["capacity"]["storage"] == "3Gi"
        status = until(lambda: _pending(csi, copy), 120, "the node is asked to grow it", lambda: str(csi.kubernetes.claim(copy)))
        assert status["capacity"]["storage"] == "2Gi"
        assert csi.ceph.info(image_of(copy), csi.pool)["size"] == 3 * GIB

    def test_a_larger_block_copy_has_its_size_at_once(self, csi: CsiCluster, storage_class: str) -> None:
        original = csi.kubernetes.make_claim(storage_class, volumeMode="Block")
        csi.kubernetes.wait_bound(original)
        copy = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(original), volumeMode="Block")
        csi.kubernetes.wait_bound(copy)
        assert (csi.kubernetes.claim(copy) or {})["status"]["capacity"]["storage"] == "2Gi"

    def test_a_copy_asked_for_before_its_original_is_there_is_made_when_it_is(self, csi: CsiCluster, storage_class: str) -> None:
        name = f"late-{uuid.uuid4().hex[:8]}"
        source = {"kind": "PersistentVolumeClaim", "name": name}
        copy = csi.kubernetes.make_claim(storage_class, dataSource=source)
        csi.kubernetes.make_claim(storage_class, name=name)
        csi.kubernetes.wait_bound(copy)

    def test_a_copy_across_namespaces_is_made_where_a_grant_allows_it(
        self, csi: CsiCluster, storage_class: str, bound: Object
    ) -> None:
        snapshots.grant(csi.kubernetes, bound, "kube-node-lease")
        there = snapshots.source(bound, namespace="default")
        copy = csi.kubernetes.make_claim(storage_class, "2Gi", namespace="kube-node-lease", dataSourceRef=there)
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (b"first", b"first")
        assert held(csi, bound) == []

    def test_a_claim_of_the_sidecars_can_be_copied_too(self, csi: CsiCluster, storage_class: str) -> None:
        original = filled(csi, csi.kubernetes.make_claim(csi.make_class()))
        copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(original))
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (b"first", b"first")

    def test_what_the_claims_front_end_made_grows_by_the_sidecars(self, csi: CsiCluster, storage_class: str) -> None:
        claim = csi.kubernetes.make_claim(storage_class, volumeMode="Block")
        csi.kubernetes.wait_bound(claim)
        csi.kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
        until(
            lambda: (csi.kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "2Gi",
            120,
            "the claim has 2Gi",
            lambda: str(csi.kubernetes.told(claim)),
        )
        assert csi.ceph.info(image_of(claim), csi.pool)["size"] == 2 * GIB

    def test_a_snapshot_is_restored_as_it_was_taken(self, csi: CsiCluster, storage_class: str) -> None:
        original = filled(csi, csi.kubernetes.make_claim(storage_class))
        taken = snapshots.take(csi.kubernetes, snapshots.make_snapshot_class(csi.kubernetes, csi.driver), original)
        snapshots.wait_ready(csi.kubernetes, taken)
        filled(csi, original, b"later")
        copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (b"first", b"first")
        assert held(csi, taken) == []

    def test_a_snapshot_is_restored_with_another_volume_mode_where_an_administrator_allows_it(
        self, csi: CsiCluster, storage_class: str, bound: Object
    ) -> None:
        taken = snapshots.take(csi.kubernetes, snapshots.make_snapshot_class(csi.kubernetes, csi.driver), bound)
        snapshots.wait_ready(csi.kubernetes, taken)
        snapshots.allow_other_mode(csi.kubernetes, taken)
        copy = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(taken), volumeMode="Block")
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (b"first", b"first")


def _pending(csi: CsiCluster, claim: Object) -> Object | None:
    status: Object = (csi.kubernetes.claim(claim) or {})["status"]
    return status if "FileSystemResizePending" in [each["type"] for each in status.get("conditions") or []] else None


@contextmanager
def copying(csi: CsiCluster, storage_class: str, original: Object) -> Iterator[Object]:
    """A copy under way that can't be finished before the block's end, since Ceph does not answer."""
    with csi.ceph.frozen_osd():
        copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(original))
        until(lambda: held(csi, original), 120, "the original is held", lambda: str(csi.kubernetes.told(copy)))
        yield copy


class TestProtection:
    @pytest.fixture
    def original(self, csi: CsiCluster, storage_class: str) -> Object:
        return filled(csi, csi.kubernetes.make_claim(storage_class))

    def test_an_original_that_is_deleted_meanwhile_stays_until_the_copy_is_made(
        self, csi: CsiCluster, storage_class: str, original: Object
    ) -> None:
        with copying(csi, storage_class, original) as copy:
            csi.kubernetes.delete_claim(original)
            assert csi.kubernetes.claim(original) is not None
        csi.kubernetes.wait_bound(copy)
        csi.kubernetes.wait_gone(original)
        assert content(csi, copy) == (b"first", b"first")

    def test_a_snapshot_that_is_deleted_meanwhile_stays_until_the_copy_is_made(
        self, csi: CsiCluster, storage_class: str, original: Object
    ) -> None:
        taken = snapshots.take(csi.kubernetes, snapshots.make_snapshot_class(csi.kubernetes, csi.driver), original)
        ready = snapshots.wait_ready(csi.kubernetes, taken)
        with copying(csi, storage_class, ready) as copy:
            csi.kubernetes.api.delete(VOLUME_SNAPSHOTS.path("default", ready["metadata"]["name"]))
            assert not snapshots.is_gone(csi.kubernetes, ready)
        csi.kubernetes.wait_bound(copy)
        until(lambda: snapshots.is_gone(csi.kubernetes, ready), 120, "the snapshot is gone")
        assert content(csi, copy) == (b"first", b"first")

    def test_a_snapshot_that_is_held_for_a_claim_that_is_gone_goes_free_when_a_provisioner_takes_over(
        self, csi: CsiCluster, copier: Program, snapshot: Object
    ) -> None:
        name = snapshot["metadata"]["name"]
        hold = {"metadata": {"finalizers": [*objects.finalizers(snapshot), objects.SNAPSHOT_SOURCE]}}
        with csi.sidecars.paused("csi-provisioner"):  # it would do the same
            csi.kubernetes.api.patch(VOLUME_SNAPSHOTS.path("default", name), hold)
            copier.stop()
            copier.start()
            until(lambda: not held(csi, snapshot), 120, "the snapshot is free")

    def test_an_original_goes_free_when_its_only_copy_is_given_up(
        self, csi: CsiCluster, storage_class: str, original: Object
    ) -> None:
        with copying(csi, storage_class, original) as copy:
            csi.kubernetes.delete_claim(copy)
        csi.kubernetes.wait_gone(copy)
        until(lambda: not held(csi, original), 120, "the original is free")

    def test_a_killed_provisioner_finishes_the_copy_and_lets_the_original_go(
        self, csi: CsiCluster, storage_class: str, original: Object, copier: Program
    ) -> None:
        with copying(csi, storage_class, original) as copy:
            copier.kill()
        copier.with_options("--lease", f"after-{uuid.uuid4().hex[:8]}").start(ready=False)  # its own would last 20 s more
        csi.kubernetes.wait_bound(copy)
        until(lambda: not held(csi, original), 120, "the original is free")
        assert content(csi, copy) == (b"first", b"first")


def refused(csi: CsiCluster, claim: Object, *words: str) -> None:
    """The claim hears of it in these words, and has left nothing in Ceph."""
    event = csi.kubernetes.wait_event(claim, "ProvisioningFailed", words[0])
    assert [word for word in words if word not in event["message"]] == []
    assert image_of(claim) not in csi.images()
    csi.kubernetes.delete_claim(claim)
    until(lambda: csi.kubernetes.claim(claim) is None, 120, "the claim is gone")


class TestClaimsRefused:
    def test_one_that_asks_for_less_than_its_source_has(self, csi: CsiCluster, storage_class: str, bound: Object) -> None:
        claim = csi.kubernetes.make_claim(storage_class, "1Gi", dataSource=snapshots.source(bound))
        refused(csi, claim, "spec.resources.requests.storage", "has 2147483648 bytes")

    def test_one_of_another_volume_mode(self, csi: CsiCluster, storage_class: str, bound: Object) -> None:
        claim = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(bound), volumeMode="Block")
        refused(csi, claim, "spec.dataSource", "volumeMode Filesystem")

    def test_one_whose_source_is_another_drivers(self, csi: CsiCluster, storage_class: str) -> None:
        foreign = csi.kubernetes.make_claim("by-hand")
        by_hand = csi.kubernetes.make_volume_by_hand(f"by-hand-{uuid.uuid4().hex[:8]}", "by-hand", foreign)
        claim = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(foreign))
        refused(csi, claim, "this provisioner did not make")
        csi.kubernetes.delete_claim(foreign)
        csi.kubernetes.delete_volume(by_hand)

    def test_one_whose_source_is_in_a_namespace_that_grants_nothing(
        self, csi: CsiCluster, storage_class: str, bound: Object
    ) -> None:
        there = snapshots.source(bound, namespace="default")
        claim = csi.kubernetes.make_claim(storage_class, "2Gi", namespace="kube-public", dataSourceRef=there)
        refused(csi, claim, "no ReferenceGrant in namespace default")

    def test_one_whose_source_is_being_deleted(self, csi: CsiCluster, storage_class: str) -> None:
        leaving = csi.kubernetes.make_claim(storage_class, finalizers=["example.com/stay"])
        csi.kubernetes.wait_bound(leaving)
        csi.kubernetes.delete_claim(leaving)
        claim = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(leaving))
        refused(csi, claim, "is being deleted")
        csi.kubernetes.patch_claim(leaving, {"metadata": {"finalizers": None}})

    def test_one_whose_source_does_not_exist(self, csi: CsiCluster, storage_class: str) -> None:
        nobody = PERSISTENT_VOLUME_CLAIMS.body({"namespace": "default", "name": "nobody"})
        claim = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(nobody))
        refused(csi, claim, "PersistentVolumeClaim/default/nobody does not exist")


class TestSnapshotsRefused:
    def test_one_that_another_driver_took(self, csi: CsiCluster, storage_class: str) -> None:
        taken = snapshots.write(csi.kubernetes, "other.example.com", HANDLE)
        claim = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        refused(csi, claim, "was taken by other.example.com")

    def test_one_that_is_larger_than_the_claim(self, csi: CsiCluster, storage_class: str, snapshot: Object) -> None:
        claim = csi.kubernetes.make_claim(storage_class, "1Gi", dataSource=snapshots.source(snapshot))
        refused(csi, claim, "spec.resources.requests.storage", "has 2147483648 bytes")

    def test_one_of_another_volume_mode_that_nobody_allowed(self, csi: CsiCluster, storage_class: str, snapshot: Object) -> None:
        claim = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(snapshot), volumeMode="Block")
        refused(csi, claim, "volumeMode Filesystem", "allow-volume-mode-change")


def test_nothing_is_left_once_everything_is_deleted(csi: CsiCluster, copier: Program) -> None:
    assert copier.running()
    snapshots.delete_everything(csi.kubernetes)
    until(lambda: not csi.left_over(), 120, "the pool is empty", lambda: str(csi.left_over()))
