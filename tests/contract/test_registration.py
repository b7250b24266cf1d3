"""The node as a kubelet finds it: a socket in the registry, its name, the way to its own socket. About 5 seconds."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2, csi_pb2_grpc, registration_pb2, registration_pb2_grpc
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, node_program
from tests.harness.waiting import until

DRIVER = "rbd.ceph-provisioner.io"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def node(ceph: Ceph, registry: Path) -> Iterator[NodeProgram]:
    with node_program(ceph, "--kubelet-registration", str(registry)) as program:
        yield program


@pytest.fixture(scope="module")
def kubelet(node: NodeProgram, registry: Path) -> registration_pb2_grpc.RegistrationStub:
    """A kubelet that has found the socket."""
    socket = until(lambda: next(registry.glob("*.sock"), None), 60, "a socket in the registry")
    return registration_pb2_grpc.RegistrationStub(grpc.insecure_channel(f"unix:{socket}"))


def health(node: NodeProgram) -> int:
    address = node.log.read_text().split("status at http://", 1)[1].split()[0]
    try:
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_kubelet_is_told_who_is_there_and_where(node: NodeProgram, kubelet: registration_pb2_grpc.RegistrationStub) -> None:
    info = kubelet.GetInfo(registration_pb2.InfoRequest(), timeout=10)
    assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", DRIVER, ["1.0.0"])
    with grpc.insecure_channel(f"unix:{info.endpoint}") as channel:
        told = csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=10)
    assert told.node_id == "here"


def test_a_refusal_is_told_by_healthz_until_the_kubelet_takes_it_up(
    node: NodeProgram, kubelet: registration_pb2_grpc.RegistrationStub
) -> None:
    assert health(node) == 200
    refusal = registration_pb2.RegistrationStatus(plugin_registered=False, error="not today")
    kubelet.NotifyRegistrationStatus(refusal, timeout=10)
    assert health(node) == 503
    kubelet.NotifyRegistrationStatus(registration_pb2.RegistrationStatus(plugin_registered=True), timeout=10)
    assert health(node) == 200


def test_at_its_end_the_node_is_out_of_the_registry_before_its_own_socket_goes(node: NodeProgram, registry: Path) -> None:
    assert node.stop() == 0
    assert list(registry.iterdir()) == []
