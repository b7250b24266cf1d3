"""Kubernetes' own sidecars have our CSI controller take snapshots, alone and in groups, and make volumes from them. About 50 s.

Fifteen of them are the start of Kubernetes 1.36 and the sidecars. Whatever the order in which things are deleted, in the end the
pool is empty.
"""

import itertools

import pytest

from provisioner.kube.resources import Object
from tests.harness import snapshots
from tests.harness.sidecars import CsiCluster
from tests.harness.waiting import until

MIB, GIB = 1 << 20, 1 << 30
DATA = b"what was written first"


@pytest.fixture(scope="module")
def storage_class(csi: CsiCluster) -> str:
    return csi.make_class()


@pytest.fixture(scope="module")
def snapshot_class(csi: CsiCluster) -> str:
    return snapshots.make_snapshot_class(csi.kubernetes, csi.driver)


def image_of(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def filled(csi: CsiCluster, storage_class: str, **spec: object) -> Object:
    """A bound claim with data at its begin and behind 5 MiB."""
    claim = csi.kubernetes.make_claim(storage_class, **spec)
    csi.kubernetes.wait_bound(claim)
    write(csi, claim, DATA)
    return claim


def write(csi: CsiCluster, claim: Object, data: bytes) -> None:
    with csi.ceph.open_image(image_of(claim), csi.pool) as image:
        image.write(data, 0)
        image.write(data, 5 * MIB)


def content(csi: CsiCluster, claim: Object) -> tuple[bytes, bytes]:
    with csi.ceph.open_image(image_of(claim), csi.pool) as image:
        return image.read(0, len(DATA)), image.read(5 * MIB, len(DATA))


def test_a_claim_from_a_claim_has_its_content(csi: CsiCluster, storage_class: str) -> None:
    original = filled(csi, storage_class)
    copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(original))
    csi.kubernetes.wait_bound(copy)
    assert content(csi, copy) == (DATA, DATA)


def test_a_claim_from_a_snapshot_has_the_content_of_that_moment(csi: CsiCluster, storage_class: str, snapshot_class: str) -> None:
    original = filled(csi, storage_class)
    taken = snapshots.wait_ready(csi.kubernetes, snapshots.take(csi.kubernetes, snapshot_class, original))
    assert taken["status"]["restoreSize"] == "1Gi"
    write(csi, original, b"what was written later")
    copy = csi.kubernetes.make_claim(storage_class, "2Gi", dataSource=snapshots.source(taken))
    csi.kubernetes.wait_bound(copy)
    assert content(csi, copy) == (DATA, DATA)
    assert csi.ceph.info(image_of(copy), csi.pool)["size"] == 2 * GIB


def test_a_copy_grows_and_its_original_does_not(csi: CsiCluster, storage_class: str) -> None:
    original = filled(csi, storage_class, volumeMode="Block")
    copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(original), volumeMode="Block")
    csi.kubernetes.wait_bound(copy)
    csi.kubernetes.patch_claim(copy, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    until(
        lambda: (csi.kubernetes.claim(copy) or {})["status"]["capacity"]["storage"] == "2Gi",
        120,
        "the copy has 2Gi",
        lambda: str(csi.kubernetes.told(copy)),
    )
    assert [csi.ceph.info(image_of(claim), csi.pool)["size"] for claim in (original, copy)] == [GIB, 2 * GIB]


def test_a_snapshot_that_came_from_elsewhere_is_taken_over_by_its_handle(
    csi: CsiCluster, storage_class: str, snapshot_class: str
) -> None:
    taken = snapshots.wait_ready(csi.kubernetes, snapshots.take(csi.kubernetes, snapshot_class, filled(csi, storage_class)))
    handle = snapshots.content_of(csi.kubernetes, taken)["status"]["snapshotHandle"]
    again = snapshots.write(csi.kubernetes, csi.driver, handle)
    copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(again))
    csi.kubernetes.wait_bound(copy)
    assert content(csi, copy) == (DATA, DATA)


@pytest.fixture(scope="module")
def members(csi: CsiCluster, storage_class: str) -> list[Object]:
    """Two claims of one application."""
    claims = [filled(csi, storage_class) for _ in range(2)]
    for claim in claims:
        csi.kubernetes.patch_claim(claim, {"metadata": {"labels": {"app": claims[0]["metadata"]["name"]}}})
    return claims


@pytest.fixture(scope="module")
def group(csi: CsiCluster, members: list[Object]) -> Object:
    """A group snapshot of both, after which both were written to."""
    group_class = snapshots.make_group_class(csi.kubernetes, csi.driver)
    taken = snapshots.take_group(csi.kubernetes, group_class, {"app": members[0]["metadata"]["name"]})
    ready = snapshots.wait_group_ready(csi.kubernetes, taken)
    for claim in members:
        write(csi, claim, b"what was written later")
    return ready


class TestGroups:
    def test_a_group_has_a_snapshot_of_each_member_at_that_moment(
        self, csi: CsiCluster, storage_class: str, members: list[Object], group: Object
    ) -> None:
        taken = snapshots.members_of(csi.kubernetes, group)
        of = [each["spec"]["source"].get("persistentVolumeClaimName") for each in taken]
        assert len(taken) == len(members), of
        for snapshot in taken:
            ready = snapshots.wait_ready(csi.kubernetes, snapshot)
            copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(ready))
            csi.kubernetes.wait_bound(copy)
            assert content(csi, copy) == (DATA, DATA)

    def test_a_group_outlives_the_claims_that_it_was_taken_of(
        self, csi: CsiCluster, storage_class: str, members: list[Object], group: Object
    ) -> None:
        for claim in members:
            snapshots.delete(csi.kubernetes, claim)
        taken = snapshots.members_of(csi.kubernetes, group)[0]
        copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        csi.kubernetes.wait_bound(copy)
        assert content(csi, copy) == (DATA, DATA)

    def test_a_group_that_is_deleted_takes_its_snapshots_along(self, csi: CsiCluster, group: Object) -> None:
        taken = snapshots.members_of(csi.kubernetes, group)
        snapshots.delete(csi.kubernetes, group)
        for snapshot in taken:
            until(lambda s=snapshot: snapshots.is_gone(csi.kubernetes, s), 120, "the snapshot is gone")  # type: ignore[misc]


class TestTheEnd:
    @pytest.fixture
    def story(self, csi: CsiCluster, storage_class: str, snapshot_class: str) -> dict[str, Object]:
        """A claim, a snapshot of it, a claim from that, and a claim from the first claim."""
        original = filled(csi, storage_class)
        taken = snapshots.wait_ready(csi.kubernetes, snapshots.take(csi.kubernetes, snapshot_class, original))
        restored = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(taken))
        copy = csi.kubernetes.make_claim(storage_class, dataSource=snapshots.source(original))
        for claim in (restored, copy):
            csi.kubernetes.wait_bound(claim)
        return {"original": original, "snapshot": taken, "restored": restored, "copy": copy}

    @pytest.mark.parametrize("order", [*itertools.permutations(("original", "snapshot", "restored"))], ids="-".join)
    def test_what_was_made_from_each_other_may_go_in_any_order(
        self, csi: CsiCluster, story: dict[str, Object], order: tuple[str, ...]
    ) -> None:
        snapshots.delete(csi.kubernetes, story["copy"])
        for step, name in enumerate(order):
            snapshots.delete(csi.kubernetes, story[name])
            if "restored" in order[step + 1 :]:
                assert content(csi, story["restored"]) == (DATA, DATA)


def test_nothing_is_left_once_everything_is_deleted(csi: CsiCluster) -> None:
    snapshots.delete_everything(csi.kubernetes)
    until(lambda: not csi.left_over(), 120, "the pool is empty", lambda: str(csi.left_over()))


def test_no_sidecar_gave_up_or_had_too_few_rights(csi: CsiCluster) -> None:
    assert csi.sidecars.ended() + csi.sidecars.refused() == []
