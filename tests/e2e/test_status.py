"""What an operator sees: /metrics, /healthz, /readyz, the log, the exit code. About 5 s."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import PROGRAM, Program
from tests.harness.traces import wait_no_traces
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def used(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> Program:
    """A provisioner that made a volume, deleted it, purged its image and refused another."""
    claim = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool}))
    kubernetes.wait_bound(claim)
    kubernetes.delete_claim(claim)
    wait_no_traces(claim, ceph, kubernetes)
    # the provisioners of other tests leave images in the pool's trash, and one killed may hold the purge's lock for a while
    until(lambda: provisioner.total("ceph_provisioner_purged_images_total") >= 1, 120, "an image is purged")
    refused = kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, {"pol": "x"}))
    kubernetes.wait_event(refused, "ProvisioningFailed")
    return provisioner


@pytest.mark.parametrize("page", ["/healthz", "/readyz"])
def test_a_working_replica_is_well(used: Program, page: str) -> None:
    assert used.page(page) == (200, "ok\n")


def test_an_unknown_page_is_named(used: Program) -> None:
    assert used.page("/nowhere") == (404, "no such page: /nowhere\n")


@pytest.mark.parametrize(
    ("metric", "labels", "value"),
    [
        ("ceph_provisioner_build_info", {}, 1),
        ("ceph_provisioner_leading", {}, 1),
        ("ceph_provisioner_claim_saved_seconds_count", {}, 1),
        ("ceph_provisioner_operation_seconds_count", {"kind": "create", "outcome": "ok"}, 1),
        ("ceph_provisioner_operation_seconds_count", {"kind": "delete", "outcome": "ok"}, 1),
        ("ceph_provisioner_kube_call_seconds_count", {"verb": "create", "resource": "persistentvolumes", "status": "201"}, 1),
        ("ceph_provisioner_kube_call_seconds_count", {"verb": "delete", "resource": "persistentvolumes", "status": "200"}, 1),
        ("ceph_provisioner_kube_call_seconds_count", {"verb": "create", "resource": "secrets", "status": "201"}, 1),
        ("ceph_provisioner_reconcile_failures_total", {"object": "PersistentVolumeClaim", "error": "InvalidRequest"}, 1),
        ("ceph_provisioner_claims_waiting", {}, 0),
        ("ceph_provisioner_claims_delayed", {}, 1),
        ("ceph_provisioner_volumes_waiting", {}, 0),
        ("ceph_provisioner_orphaned_volumes", {}, 0),
    ],
)
def test_the_metrics_tell_what_was_done(used: Program, metric: str, labels: dict[str, str], value: float) -> None:
    assert metric in used.page("/metrics")[1]
    assert used.total(metric, **labels) == value


def test_no_metric_names_an_object(used: Program) -> None:
    assert "pvc-" not in used.page("/metrics")[1]


def test_an_image_kept_after_its_volume_is_counted_at_the_next_start(
    ceph: Ceph, kubernetes: Kubernetes, program: Program
) -> None:
    program.start()
    claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": ceph.pool}, reclaimPolicy="Retain"))
    name = kubernetes.wait_bound(claim)["metadata"]["name"]
    kubernetes.delete_claim(claim)
    kubernetes.delete_volume(name)
    kubernetes.wait_gone(claim)
    program.stop()
    program.start()
    until(lambda: program.total("ceph_provisioner_orphaned_volumes") == 1, 120, "the kept image is counted", program.text)
    assert f"{name} was handed out" in program.text()
    assert name in ceph.images()


def test_a_server_that_cannot_be_reached_ends_the_program_with_one_sentence(ceph: Ceph, account: Path, tmp_path: Path) -> None:
    config = json.loads(account.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(json.dumps(config))
    command = [
        PROGRAM,
        "--config",
        ceph.config_file(tmp_path),
        "claims",
        "--kubeconfig",
        nowhere,
        "--provisioner",
        "a.example.com/rbd",
    ]
    done = subprocess.run([*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ceph-provisioner: ")
    assert "Traceback" not in done.stderr
