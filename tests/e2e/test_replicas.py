"""Two replicas, one at work: how the lead passes from one to the other. About 35 s, most of them a dead leader's lease."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until


@pytest.fixture
def standby(ceph: Ceph, account: Path, program: Program, tmp_path: Path) -> Iterator[Program]:
    """A second replica of `program`."""
    directory = tmp_path / "standby"
    directory.mkdir()
    made = Program(directory, ceph.config_file(directory), account, program.provisioner)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def storage_class(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> str:
    return kubernetes.make_class(program.provisioner, {"pool": ceph.pool})


@pytest.fixture
def leader(program: Program) -> Program:
    program.start()
    until(program.leads, 120, "the first replica leads", program.text)
    return program


def test_only_one_of_two_works(kubernetes: Kubernetes, leader: Program, standby: Program, storage_class: str) -> None:
    standby.start()
    kubernetes.wait_bound(kubernetes.make_claim(storage_class))
    assert (leader.leads(), standby.leads()) == (True, False)
    assert standby.total("ceph_provisioner_operation_seconds_count") == 0
    assert standby.kube_writes() == 0


def test_a_standby_is_ready(leader: Program, standby: Program) -> None:
    standby.start()
    assert standby.page("/readyz") == (200, "ok\n")


def test_a_leader_that_is_asked_to_end_hands_over_at_once(
    kubernetes: Kubernetes, leader: Program, standby: Program, storage_class: str
) -> None:
    standby.start()
    asked = time.monotonic()
    assert leader.stop() == 0
    claim = kubernetes.make_claim(storage_class)
    until(standby.leads, 60, "the second replica leads", standby.text)
    assert time.monotonic() - asked < 6
    kubernetes.wait_bound(claim)


def test_a_leader_that_is_killed_is_followed_in_under_20_seconds(
    kubernetes: Kubernetes, leader: Program, standby: Program, storage_class: str
) -> None:
    standby.start()
    killed = time.monotonic()
    leader.kill()
    claim = kubernetes.make_claim(storage_class)
    until(standby.leads, 60, "the second replica leads", standby.text)
    assert time.monotonic() - killed < 20
    kubernetes.wait_bound(claim)


def test_a_claim_half_made_by_the_leader_is_finished_by_the_standby(
    ceph: Ceph, kubernetes: Kubernetes, leader: Program, standby: Program, storage_class: str
) -> None:
    standby.start()
    with ceph.no_new_users():
        claim = kubernetes.make_claim(storage_class)
        kubernetes.wait_event(claim, "ProvisioningFailed", "Ceph denies")
        leader.stop()
    volume = kubernetes.wait_bound(claim)
    assert volume["spec"]["rbd"]["image"] == f"pvc-{claim['metadata']['uid']}"
