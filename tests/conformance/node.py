"""A node that has nothing mounted: the suite wants one beside a controller, and asks it to unmount before it deletes a volume."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from csi.identity import Identity
from csi.pb import csi_pb2, csi_pb2_grpc
from csi.pulse import Pulse
from provisioner.core.attachments import Node
from tests.contract.driver import NAME, Driver

NODE, LIMIT = "sanity-node", 3


class _IdleNode(csi_pb2_grpc.NodeServicer):
    def NodeGetCapabilities(self, request: object, context: object) -> csi_pb2.NodeGetCapabilitiesResponse:  # noqa: N802
        return csi_pb2.NodeGetCapabilitiesResponse()

    def NodeGetInfo(self, request: object, context: object) -> csi_pb2.NodeGetInfoResponse:  # noqa: N802
        return csi_pb2.NodeGetInfoResponse(node_id=NODE, max_volumes_per_node=LIMIT)

    def NodeUnpublishVolume(self, request: object, context: object) -> csi_pb2.NodeUnpublishVolumeResponse:  # noqa: N802
        return csi_pb2.NodeUnpublishVolumeResponse()


@contextmanager
def idle_node(directory: Path, driver: Driver) -> Iterator[str]:
    """Its endpoint, for the block; enrolled as a node's service enrols its node."""
    driver.attachments.enrol_node("dev", Node(NODE, max_volumes=LIMIT))
    server = grpc.server(ThreadPoolExecutor(4))
    csi_pb2_grpc.add_NodeServicer_to_server(_IdleNode(), server)
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(NAME, Pulse(list, lambda cluster: None)), server)
    endpoint = f"unix://{directory}/node.sock"
    server.add_insecure_port(endpoint)
    server.start()
    try:
        yield endpoint
    finally:
        server.stop(1).wait()
