"""A claim becomes an iSCSI target with CHAP that the PersistentVolume and its Secret log in to, and nobody else. About 30 s."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.cinder.cloud import INITIATOR
from provisioner.kube.resources import PERSISTENT_VOLUMES, SECRETS
from tests.harness.ceph import Ceph
from tests.harness.cinder import CLOUD, Cinder
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.program import Program, running
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def provisioner(cinder: Cinder, ceph: Ceph, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A provisioner that knows the Cinder, and no key."""
    directory = tmp_path_factory.mktemp("provisioner")
    config = cinder.config_file(directory, ceph, key=False)
    with running(directory, config, account, kind="cinder") as made:
        yield made


def test_the_volume_and_its_secret_log_in_until_the_claim_goes_and_leaves_nothing(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"cloud": CLOUD, "type": "iscsi"})
    claim = kubernetes.make_claim(storage_class, volumeMode="Block")
    volume = kubernetes.wait_bound(claim)
    name, source = volume["metadata"]["name"], volume["spec"]["iscsi"]
    assert source["initiatorName"] == INITIATOR
    assert source["secretRef"] == {"namespace": NAMESPACE, "name": f"{name}-connection"}
    assert kubernetes.api.get(SECRETS.path(NAMESPACE, f"{name}-connection"))["type"] == "kubernetes.io/iscsi-chap"
    assert_only_the_secret_logs_in(kubernetes, source)

    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    until(lambda: (kubernetes.claim(claim) or {})["status"]["capacity"]["storage"] == "2Gi", 120, "the claim says 2Gi")
    assert kubernetes.api.get(PERSISTENT_VOLUMES.path(name=name))["spec"]["capacity"]["storage"] == "2Gi"

    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim)
    cinder.wait_nothing_left(ceph, name)
    assert source["iqn"] not in cinder.targets()
    assert f"{name}-connection" not in [s["metadata"]["name"] for s in kubernetes.api.list_all(SECRETS.path(NAMESPACE)).items]
    assert said_nothing_of(kubernetes, claim, provisioner)


def assert_only_the_secret_logs_in(kubernetes: Kubernetes, source: dict[str, Any]) -> None:
    secret = kubernetes.secret_data(source["secretRef"]["namespace"], source["secretRef"]["name"])
    user, password = (secret[f"node.session.auth.{part}"] for part in ("username", "password"))
    right, wrong, none = (inquired(source, who) for who in (f"{user}%{password}@", f"{user}%not-the-password@", ""))
    assert right.returncode == 0, right.stdout + right.stderr
    assert "DIRECT_ACCESS" in right.stdout
    for refused in (wrong, none):
        assert "Authentication failure" in refused.stdout + refused.stderr


def inquired(source: dict[str, Any], who: str) -> subprocess.CompletedProcess[str]:
    """What a real initiator hears of the LUN."""
    url = f"iscsi://{who}{source['targetPortal']}/{source['iqn']}/{source['lun']}"
    return subprocess.run(
        ["iscsi-inq", "-i", source["initiatorName"], url], capture_output=True, text=True, timeout=30, check=False
    )


def said_nothing_of(kubernetes: Kubernetes, claim: dict[str, Any], provisioner: Program) -> bool:
    """No password where people and programs can read."""
    return "auth_password" not in provisioner.text() + str(kubernetes.events(claim))
