"""The overlay `cinder` and the guide's examples: the program's own readers take them."""

import re
from pathlib import Path
from typing import Any

import yaml

from provisioner.claims import cinder_class
from provisioner.config import parse_all
from tests.harness.options import options_of

ROOT = Path(__file__).parents[3]
OVERLAY = ROOT / "manifests/overlays/cinder"


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((OVERLAY / "deployment.yaml").read_text()))


def examples() -> list[str]:
    """What stands in the guide as YAML."""
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cinder.md").read_text(), re.DOTALL)


def test_the_overlay_s_config_file_is_read_and_everything_in_it_is_mounted(tmp_path: Path) -> None:
    config, deployment = documents()
    path = tmp_path / "config.yaml"
    path.write_text(config["data"]["config.yaml"])
    known = parse_all(path)
    mounts = [mount["mountPath"] for mount in deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]]
    named = [known.clouds["main"].file, known.clusters["volumes"].keyring, "/etc/ceph-provisioner/config/config.yaml"]
    assert sorted(str(Path(name).parent) for name in named) == sorted(mounts)


def test_every_option_of_the_overlay_is_one_of_the_program_s() -> None:
    (container,) = documents()[1]["spec"]["template"]["spec"]["containers"]
    config, role, *options = container["args"]
    known = options_of(role)
    assert config == "--config=/etc/ceph-provisioner/config/config.yaml"
    assert {option.partition("=")[0] for option in options} <= known


def test_the_overlay_has_the_rights_that_the_tests_run_with() -> None:
    overlay = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
    base = yaml.safe_load((ROOT / "manifests/base/kustomization.yaml").read_text())
    assert "../../base" in overlay["resources"]
    assert "rbac.yaml" in base["resources"]
    assert documents()[1]["spec"]["template"]["spec"]["serviceAccountName"] == "ceph-provisioner"


def test_the_guide_s_config_file_and_class_are_read(tmp_path: Path) -> None:
    config, storage_class, *_ = examples()
    path = tmp_path / "config.yaml"
    path.write_text(config)
    clouds = parse_all(path).clouds
    assert set(clouds) == {"main", "alone", "env"}
    assert cinder_class.read(yaml.safe_load(storage_class)["parameters"], clouds).cluster == "main"
