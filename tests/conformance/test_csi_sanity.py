"""The CSI conformance suite against the controller, with file system and block volumes. About 5 seconds.

Every spec of the controller, identity and group services runs but those that the suite itself leaves out because a capability is
not declared; each failing one is named with the suite's own words. The node service's specs belong to the node's tests.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.controller import CAPABILITIES
from csi.identity import CAPABILITIES as PLUGIN_CAPABILITIES
from csi.pb import csi_pb2
from hack.sanity.build import csi_sanity
from tests.conformance.node import idle_node
from tests.conformance.sanity import Spec, run
from tests.contract.driver import Driver, running
from tests.harness.ceph import Ceph

_Rpc = csi_pb2.ControllerServiceCapability.RPC
_Service = csi_pb2.PluginCapability.Service

CONTROLLER = (r"\[Controller Server\]", "GroupController")
NEEDS = {
    "CreateSnapshot": _Rpc.CREATE_DELETE_SNAPSHOT,
    "DeleteSnapshot": _Rpc.CREATE_DELETE_SNAPSHOT,
    "Snapshot": _Rpc.CREATE_DELETE_SNAPSHOT,
    "ListSnapshots": _Rpc.LIST_SNAPSHOTS,
    "GetSnapshot": _Rpc.GET_SNAPSHOT,
    "Volume Cloning": _Rpc.CLONE_VOLUME,
    "Modify volume": _Rpc.MODIFY_VOLUME,
    "Modify Volume": _Rpc.MODIFY_VOLUME,
    "ControllerModifyVolume": _Rpc.MODIFY_VOLUME,
    "ControllerPublishVolume": _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    "ControllerUnpublishVolume": _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    "Controller Publish, UnpublishVolume": _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    "ControllerGetVolumeHealth": _Rpc.GET_VOLUME_HEALTH,
    "ControllerListVolumeHealth": _Rpc.LIST_VOLUME_HEALTH,
}
"""The capability that the suite misses when it says that something is not supported."""
SERVICES = {
    "GroupControllerService": _Service.GROUP_CONTROLLER_SERVICE,
    "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS": _Service.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
}
"""Likewise, of the plugin."""


@pytest.fixture(scope="module")
def fresh_driver(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A controller of its own, and none of its volumes left over when it goes."""
    with running(ceph, tmp_path_factory.mktemp("sanity")) as driver:
        yield driver


@pytest.fixture(scope="module", params=["mount", "block"])
def specs(fresh_driver: Driver, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Spec]:
    """Each spec of the controller's services, run with one kind of volume."""
    directory, binary = tmp_path_factory.mktemp("suite"), csi_sanity(print)
    mutable = directory / "mutable.yaml"
    mutable.write_text("maxIops: '1000'\n")
    with idle_node(directory, fresh_driver) as node:
        flags = (
            "-controller",
            fresh_driver.endpoint,
            "-access-type",
            request.param,
            "-attach-limit",
            "-mutable-parameters",
            str(mutable),
        )
        return run(binary, node, directory, *flags, focus=CONTROLLER)


def failures(specs: list[Spec]) -> list[str]:
    return [f"{spec.name}: {spec.why}" for spec in specs if spec.outcome not in ("passed", "skipped")]


def test_every_spec_of_the_controller_passes(specs: list[Spec]) -> None:
    assert failures(specs) == []
    assert "passed" in {spec.outcome for spec in specs}


def test_nothing_is_skipped_but_for_a_capability_that_is_not_declared(specs: list[Spec]) -> None:
    declared = {capability.rpc.type for capability in CAPABILITIES}
    services = {capability.service.type for capability in PLUGIN_CAPABILITIES}
    unexplained = [spec for spec in specs if spec.outcome == "skipped" and not _is_excluded(spec, declared, services)]
    assert unexplained == []


def _is_excluded(spec: Spec, declared: set[int], services: set[int]) -> bool:
    missing = re.fullmatch(r"(.*) not supported", spec.why)
    if missing is None:
        return False
    if missing[1] in SERVICES:
        return SERVICES[missing[1]] not in services
    return missing[1] in NEEDS and NEEDS[missing[1]] not in declared


def test_every_spec_of_the_identity_passes(fresh_driver: Driver, tmp_path: Path) -> None:
    specs = run(csi_sanity(print), fresh_driver.endpoint, tmp_path, focus=("Identity Service",))
    assert [(spec.outcome, spec.why) for spec in specs] == [("passed", "")] * 3


def test_the_suite_leaves_nothing_behind(specs: list[Spec], ceph: Ceph) -> None:
    assert [image for image in ceph.images() if image.startswith("sanity")] == []
