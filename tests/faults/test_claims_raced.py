"""Two provisioners that don't know of each other work on the same claims: each claim gets one of everything. About 20 s.

They take turns in the product; here each has a lease of its own, so both lead.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ceph import Ceph
from tests.harness.crowd import Crowd
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until


@pytest.fixture
def rivals(ceph: Ceph, account: Path, pool: str, tmp_path: Path) -> Iterator[list[Program]]:
    """Two replicas that both lead."""
    made = []
    for name in ("left", "right"):
        directory = tmp_path / name
        directory.mkdir()
        provisioner = f"{pool}.example.com/rbd"
        made.append(Program(directory, ceph.config_file(directory), account, provisioner, "--lease", f"{pool}-{name}"))
    try:
        for program in made:
            program.start()
            until(program.leads, 120, "both lead", program.text)
        yield made
    finally:
        for program in made:
            program.kill()


def test_a_hundred_claims_become_a_hundred_volumes_and_then_none(
    ceph: Ceph, kubernetes: Kubernetes, rivals: list[Program], pool: str
) -> None:
    storage_class = kubernetes.make_class(rivals[0].provisioner, {"pool": pool})
    crowd = Crowd(ceph, kubernetes, storage_class, pool)
    crowd.make(100)
    crowd.wait_settled(120)
    assert len(ceph.images(pool)) == len(crowd.volumes()) == 100
    assert all(rival.total("ceph_provisioner_operation_seconds_count", kind="create") > 0 for rival in rivals)
    crowd.delete_all()
    crowd.wait_settled(120)
    assert (crowd.claims(), crowd.volumes(), ceph.images(pool)) == ([], [], [])
    assert crowd.unaccounted_objects(living=2) == []
