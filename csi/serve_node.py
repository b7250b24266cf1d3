"""The node's half of the CSI front end put together: apart from the controller's, whose memory a node can do without."""

import grpc

from csi.identity import Identity
from csi.node import NodeService
from csi.node import Place as NodePlace
from csi.pb import csi_pb2_grpc
from csi.policy import LIGHT, is_secret
from csi.pulse import Pulse
from provisioner.host.node import Node
from provisioner.rpc.boundary import OnCall, Policy
from provisioner.rpc.redact import Redactor
from provisioner.rpc.server import Listen, Server


def serve_node(node: Node, place: NodePlace, pulse: Pulse, name: str, listen: Listen, on_call: OnCall) -> Server:
    """Start the node service of the driver `name`; the caller drains it. Raises InvalidRequest if the socket can't be had."""
    policy = Policy(LIGHT, {}, Redactor(is_secret), on_call)

    def register(server: grpc.Server) -> list[str]:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(name, pulse), server)
        csi_pb2_grpc.add_NodeServicer_to_server(NodeService(node, place, pulse.silent), server)
        return ["csi.v1.Identity", "csi.v1.Node"]

    server = Server(listen, policy, register)
    server.start()
    return server
