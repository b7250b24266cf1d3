"""The manifests, as `kubectl apply -k` has them: Kubernetes 1.36 takes every object without a warning. About 5 seconds."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.sidecars.build import PROGRAMS, sidecars
from tests.harness.kubernetes import ROOT, Kubernetes
from tests.harness.manifests import Applier, Item, rendered

OVERLAYS = sorted(path.name for path in (ROOT / "manifests/overlays").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def applier(csi_kubernetes: Kubernetes) -> Applier:
    return Applier(csi_kubernetes)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_an_overlay_is_taken_without_a_warning(applier: Applier, overlay: str) -> None:
    items = rendered(ROOT / "manifests/overlays" / overlay)
    assert {"Namespace", "Deployment"} <= {item["kind"] for item in items}
    assert [(item["kind"], item["metadata"]["name"], said) for item in items if (said := applier.apply(item))] == []


@pytest.mark.parametrize("example", sorted((ROOT / "manifests/examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_taken_without_a_warning(applier: Applier, example: Path) -> None:
    assert [applier.apply(item) for item in yaml.safe_load_all(example.read_text())] == [[]]


def test_an_object_that_kubernetes_would_complain_of_is_told(applier: Applier) -> None:
    (wrong,) = [item for item in rendered(ROOT / "manifests/base") if item["kind"] == "Namespace"]
    assert applier.apply({**wrong, "spce": {}}) != []


def containers() -> list[Item]:
    (deployment,) = [item for item in rendered(ROOT / "manifests/overlays/csi") if item["kind"] == "Deployment"]
    found: list[Any] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def options_of(program: str) -> set[str]:
    """What its own help lists."""
    told = subprocess.run([sidecars(print) / program, "--help"], capture_output=True, text=True, timeout=30)
    lines = [line.strip() for line in (told.stdout + told.stderr).splitlines()]
    return {line.split()[0].lstrip("-") for line in lines if line.startswith("-")}


def test_every_option_of_the_sidecars_is_one_of_theirs() -> None:
    unknown = []
    for container in (each for each in containers() if each["name"] in PROGRAMS):
        options = {argument.lstrip("-").partition("=")[0] for argument in container["args"]}
        unknown += [(container["name"], option) for option in options - options_of(container["name"])]
    assert unknown == []


def test_the_sidecars_are_those_that_the_tests_run() -> None:
    assert {each["name"] for each in containers()} - {"controller"} == PROGRAMS.keys() - {"snapshot-controller"}
