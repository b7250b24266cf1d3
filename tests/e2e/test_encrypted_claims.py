"""Claims whose volumes are encrypted with keys that a KMS has. About 15 s, beside the Kubernetes that they need.

Vault is a stand-in for its HTTP API (tests/harness/vault.py). What opens with the keys is tests/contract/test_volume_keys.py's.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import NodeImages
from provisioner.core.ids import Place, VolumeId
from provisioner.core.keys import VolumeKeys
from provisioner.kms.build import KeyServices
from provisioner.kms.settings import KmsConfig
from tests.harness import vault as stand_in
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program, running
from tests.harness.traces import traces, wait_no_traces
from tests.harness.vault import Vault

SECRET_NAME, SECRET_NAMESPACE = (f"csi.storage.k8s.io/provisioner-secret-{what}" for what in ("name", "namespace"))


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    with stand_in.vault() as started:
        started.tokens.add("good")
        yield started


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vault") / "token"
    path.write_text("good")
    return path


@pytest.fixture(scope="module")
def keeper(
    ceph: Ceph, account: Path, vault: Vault, token_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """A provisioner that knows a Vault, `safe`, and a KMS that keeps keys sealed on the images, `sealed`."""
    directory = tmp_path_factory.mktemp("keeper")
    config = ceph.config_file(directory)
    safe = {"encryptionKMSType": "vault", "vaultAddress": vault.address, "vaultTokenFile": str(token_file)}
    kms = {"safe": safe, "sealed": {"encryptionKMSType": "metadata"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), "kms": kms}))
    with running(directory, config, account) as made:
        yield made


@pytest.fixture
def keys(ceph: Ceph, vault: Vault, token_file: Path) -> VolumeKeys:
    """What a node would ask."""
    configs = {
        "safe": KmsConfig("safe", "vault", address=vault.address, token_file=str(token_file)),
        "sealed": KmsConfig("sealed", "metadata"),
    }
    return VolumeKeys(NodeImages(Clusters(lambda: {"dev": ceph.config()})), KeyServices(lambda: configs).get)


def found(ceph: Ceph, keys: VolumeKeys, claim: dict[str, Any], passphrase: str = "") -> tuple[str, ...]:
    images = NodeImages(Clusters(lambda: {"dev": ceph.config()}))
    volume = VolumeId(Place("dev", ceph.pool), f"pvc-{claim['metadata']['uid']}")
    return keys.find(images.opening(volume, None), passphrase)


def parameters(ceph: Ceph, kms: str, **more: str) -> dict[str, str]:
    return {"pool": ceph.pool, "pvType": "csi", "encrypted": "true", "encryptionKMSID": kms, **more}


def test_a_volume_has_its_key_before_any_node_had_it(
    ceph: Ceph, kubernetes: Kubernetes, keeper: Program, keys: VolumeKeys
) -> None:
    claim = kubernetes.make_claim(kubernetes.make_class(keeper.provisioner, parameters(ceph, "safe")))
    kubernetes.wait_bound(claim)
    assert len(found(ceph, keys, claim)) == 1


def test_a_copy_that_no_node_had_keeps_its_key_when_its_sources_is_forgotten(
    ceph: Ceph, kubernetes: Kubernetes, keeper: Program, vault: Vault, keys: VolumeKeys
) -> None:
    storage_class = kubernetes.make_class(keeper.provisioner, parameters(ceph, "safe"))
    source = kubernetes.make_claim(storage_class)
    kubernetes.wait_bound(source)
    key, before = found(ceph, keys, source), set(vault.secrets)
    wanted = {"kind": "PersistentVolumeClaim", "name": source["metadata"]["name"]}
    copy = kubernetes.make_claim(storage_class, dataSource=wanted)
    kubernetes.wait_bound(copy)
    for path in before:
        vault.secrets.pop(path)
    assert found(ceph, keys, copy) == key


def test_a_key_on_the_image_is_sealed_by_what_the_provisioners_secret_holds(
    ceph: Ceph, kubernetes: Kubernetes, keeper: Program, keys: VolumeKeys
) -> None:
    name = f"sealing-{uuid.uuid4().hex[:6]}"
    user = ceph.make_user(name, **ceph.provisioner_caps())
    kubernetes.make_secret("kube-system", name, userID=name, userKey=user.key, encryptionPassphrase="of the secret")
    kubernetes.let_read("kube-system", name)
    told = {SECRET_NAME: name, SECRET_NAMESPACE: "kube-system"}
    claim = kubernetes.make_claim(kubernetes.make_class(keeper.provisioner, parameters(ceph, "sealed", **told)))
    kubernetes.wait_bound(claim)
    assert len(found(ceph, keys, claim, "of the secret")) == 1
    kubernetes.delete_claim(claim)
    wait_no_traces(claim, ceph, kubernetes)
    ceph.command("auth del", entity=f"client.{name}")


def test_a_kms_that_the_config_does_not_know_is_named_and_nothing_is_made(
    ceph: Ceph, kubernetes: Kubernetes, keeper: Program
) -> None:
    claim = kubernetes.make_claim(kubernetes.make_class(keeper.provisioner, parameters(ceph, "nowhere")))
    kubernetes.wait_event(claim, "ProvisioningFailed", "encryptionKMSID 'nowhere'")
    assert traces(claim, ceph, kubernetes) == []
