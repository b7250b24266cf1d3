"""The overlay `csi`: what it starts is there to be started, and what it mounts is there to be mounted. A second."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.config import parse, parse_all
from tests.harness.options import options_of, required_of

OVERLAY = Path(__file__).parents[3] / "manifests/overlays/csi"
OURS = {"controller": "deployment.yaml", "node": "daemonset.yaml"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((OVERLAY / name).read_text()))


def pod(name: str) -> dict[str, Any]:
    (template,) = [item["spec"]["template"]["spec"] for item in documents(OURS[name]) if "template" in item.get("spec", {})]
    return dict(template)


def container(name: str) -> dict[str, Any]:
    (found,) = [each for each in pod(name)["containers"] if each["name"] == name]
    return dict(found)


@pytest.mark.parametrize("role", OURS)
def test_every_option_of_our_programs_is_one_of_theirs(role: str) -> None:
    config, started, *options = container(role)["args"]
    assert (config.partition("=")[0], started) == ("--config", role)
    known = options_of(role)
    assert [option for option in options if option.partition("=")[0] not in known] == []
    required = required_of(role)
    assert required <= {option.partition("=")[0] for option in options}


@pytest.mark.parametrize("role", OURS)
def test_each_container_can_be_known_by_its_successor(role: str) -> None:
    assert {each["name"] for each in container(role)["env"]} >= {"POD_UID", "CONTAINER"}


@pytest.mark.parametrize("role", OURS)
def test_every_volume_is_mounted_and_every_mount_has_one(role: str) -> None:
    mounted = {mount["name"] for each in pod(role)["containers"] for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(role)["volumes"]}


def test_the_nodes_sockets_are_in_the_directory_that_the_kubelet_sees() -> None:
    mounts = {mount["mountPath"]: mount for mount in container("node")["volumeMounts"]}
    assert mounts["/var/lib/kubelet"]["mountPropagation"] == "Bidirectional"
    sockets = [word.partition("=")[2].removeprefix("unix://") for word in container("node")["args"] if "/kubelet" in word]
    assert [path.startswith("/var/lib/kubelet/plugins") for path in sockets] == [True, True]


def test_nothing_is_mounted_below_the_directory_whose_mounts_show_up_on_the_host() -> None:
    paths = [mount["mountPath"] for mount in container("node")["volumeMounts"]]
    assert [path for path in paths if path.startswith("/var/lib/kubelet/")] == []


def test_only_the_node_is_privileged_and_it_holds_no_token() -> None:
    privileged = [each["name"] for role in OURS for each in pod(role)["containers"] if each["securityContext"].get("privileged")]
    assert privileged == ["node"]
    assert pod("node")["automountServiceAccountToken"] is False


def test_the_config_file_can_be_read(tmp_path: Path) -> None:
    (config,) = [item for item in documents("deployment.yaml") if item["kind"] == "ConfigMap"]
    (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
    assert list(parse(tmp_path / "config.yaml")) == ["main"]


def test_everything_in_the_overlay_is_applied() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert set(kustomization["resources"]) == {path.name for path in OVERLAY.glob("*.yaml")} - {"kustomization.yaml"}


KMS = OVERLAY.parents[1] / "components/kms"


def kms_pod(file: str) -> dict[str, Any]:
    """What the component adds to a pod."""
    return dict(yaml.safe_load((KMS / file).read_text())["spec"]["template"]["spec"])


def test_the_kms_of_the_component_are_beside_the_clusters_of_the_overlay(tmp_path: Path) -> None:
    (overlay,) = [item for item in documents("deployment.yaml") if item["kind"] == "ConfigMap"]
    component = yaml.safe_load((KMS / "config.yaml").read_text())
    assert component["metadata"] == overlay["metadata"]
    assert component["data"]["config.yaml"].startswith(overlay["data"]["config.yaml"])
    (tmp_path / "config.yaml").write_text(component["data"]["config.yaml"])
    assert sorted(kms.kind for kms in parse_all(tmp_path / "config.yaml").kms.values()) == ["metadata", "vault"]


@pytest.mark.parametrize("file", ["controller.yaml", "node.yaml"])
def test_every_file_that_a_kms_is_told_of_is_mounted(file: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_load((KMS / "config.yaml").read_text())["data"]["config.yaml"])
    told = [
        path
        for kms in parse_all(tmp_path / "config.yaml").kms.values()
        for path in (kms.passphrase_file, kms.ca_file, kms.role and kms.service_account_token_file)
        if path
    ]
    (found,) = kms_pod(file)["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in found["volumeMounts"]}
    assert [path for path in told if str(Path(path).parent) not in mounted] == []
    assert set(mounted.values()) == {volume["name"] for volume in kms_pod(file)["volumes"]}


def test_the_labels_that_say_where_a_node_is_are_an_option_of_the_node() -> None:
    component = yaml.safe_load((OVERLAY.parents[1] / "components/read-affinity/kustomization.yaml").read_text())
    (argument,) = [step["value"] for step in yaml.safe_load(component["patches"][0]["patch"]) if step["op"] == "add"]
    assert argument.partition("=")[0] in options_of("node")
