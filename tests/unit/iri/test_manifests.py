"""The overlay `iri`: what it starts is there to be started, and what it mounts is there to be mounted. A second."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.config import parse
from provisioner.iri.classes import read_bucket_classes, read_volume_classes
from provisioner.oci import Registries
from tests.harness.options import options_of, required_of

OVERLAY = Path(__file__).parents[3] / "manifests/overlays/iri"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((OVERLAY / name).read_text()))


@pytest.mark.parametrize("name", ["volumes.yaml", "buckets.yaml"])
def test_every_option_of_the_runtimes_is_one_of_theirs(name: str) -> None:
    (deployment,) = documents(name)
    (runtime,) = (c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "runtime")
    config, role, *options = runtime["args"]
    assert config.startswith("--config=")
    known = options_of(role)
    assert [option for option in options if option.partition("=")[0] not in known] == []
    required = required_of(role)
    assert required <= {option.partition("=")[0] for option in options}


@pytest.mark.parametrize("name", ["volumes.yaml", "buckets.yaml"])
def test_runtime_and_poollet_meet_in_a_directory_that_only_they_may_write_to(name: str) -> None:
    (deployment,) = documents(name)
    pod = deployment["spec"]["template"]["spec"]
    words = [word for container in pod["containers"] for word in container["args"] if "unix://" in word]
    (socket,) = {word.partition("unix://")[2] for word in words}
    assert len(words) == 2
    assert str(Path(socket).parent) in pod["initContainers"][0]["command"][-1]
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_files_of_the_config_map_can_be_read(tmp_path: Path) -> None:
    (config,) = documents("classes.yaml")
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    assert list(parse(tmp_path / "config.yaml")) == ["main"]
    assert list(read_volume_classes(tmp_path / "volume-classes.yaml")) == ["fast", "slow"]
    assert list(read_bucket_classes(tmp_path / "bucket-classes.yaml")) == ["standard"]
    Registries(tmp_path / "registries.yaml")


def test_everything_in_the_overlay_is_applied() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert set(kustomization["resources"]) - {"../../base"} == {p.name for p in OVERLAY.glob("*.yaml")} - {"kustomization.yaml"}
