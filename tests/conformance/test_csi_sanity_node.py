"""The CSI conformance suite against the node service, with file system and block volumes on real devices. About 40 seconds.

The node attaches with `mounter: fuse`. The file system is xfs, since growing a mounted ext4 takes CAP_SYS_RESOURCE, which not
every build machine has.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.sanity.build import csi_sanity
from tests.conformance.sanity import Spec, run
from tests.contract.driver import Driver, running
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, node_program

SPECS_OF_THE_NODE = 26


@pytest.fixture(scope="module")
def controller(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with running(ceph, tmp_path_factory.mktemp("controller")) as driver:
        yield driver


@pytest.fixture(scope="module")
def node(ceph: Ceph) -> Iterator[NodeProgram]:
    with node_program(ceph) as program:
        yield program


@pytest.fixture(scope="module", params=["mount", "block"])
def specs(
    controller: Driver, node: NodeProgram, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Spec]:
    """Each spec of the node service, run with one kind of volume."""
    directory = tmp_path_factory.mktemp("suite")
    parameters = directory / "parameters.yaml"
    parameters.write_text("csi.storage.k8s.io/fstype: xfs\nmounter: fuse\n")
    flags = ("-controller", controller.endpoint, "-access-type", request.param, "-parameters", str(parameters))
    return run(csi_sanity(print), node.endpoint, directory, *flags, focus=("Node Service",))


def test_every_spec_of_the_node_passes_and_none_is_skipped(specs: list[Spec]) -> None:
    assert [f"{spec.name}: {spec.outcome}: {spec.why}" for spec in specs if spec.outcome != "passed"] == []
    assert len(specs) >= SPECS_OF_THE_NODE


def test_the_suite_leaves_nothing_on_the_node(specs: list[Spec], node: NodeProgram, ceph: Ceph) -> None:
    assert specs
    assert node.mounts() == []
    assert [image for image in ceph.images() if image.startswith("sanity-node")] == []


def test_every_spec_of_the_identity_passes(node: NodeProgram, tmp_path: Path) -> None:
    specs = run(csi_sanity(print), node.endpoint, tmp_path, focus=("Identity Service",))
    assert [(spec.outcome, spec.why) for spec in specs] == [("passed", "")] * 3
