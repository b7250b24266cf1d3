"""The node makes itself known to the kubelet (pluginregistration v1), so that no registrar has to run beside it."""

import logging

import grpc

from csi.pb import registration_pb2, registration_pb2_grpc
from provisioner.rpc.boundary import Context, OnCall, Policy
from provisioner.rpc.redact import Redactor
from provisioner.rpc.server import Listen, Server

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

_SERVICE = "pluginregistration.Registration"
_VERSIONS = ("1.0.0",)
"""Of the CSI socket, as the kubelet counts them: any 1.x of CSI."""


class Registration(registration_pb2_grpc.RegistrationServicer):
    """Answers the kubelet, and remembers what it said last."""

    def __init__(self, driver: str, csi_socket: str) -> None:
        """`csi_socket` is the path of the node's socket as the kubelet sees it."""
        self._info = registration_pb2.PluginInfo(type="CSIPlugin", name=driver, endpoint=csi_socket, supported_versions=_VERSIONS)
        self._refusal = ""

    def refusals(self) -> list[str]:
        """Why the kubelet does not take the plugin up; nothing while it does, or has not said."""
        return [f"the kubelet refuses to register: {self._refusal}"] if self._refusal else []

    def GetInfo(self, request: registration_pb2.InfoRequest, context: Context) -> registration_pb2.PluginInfo:
        """Who is there, and where its own socket is."""
        return self._info

    def NotifyRegistrationStatus(
        self, request: registration_pb2.RegistrationStatus, context: Context
    ) -> registration_pb2.RegistrationStatusResponse:
        """Hear whether the kubelet took it up; one that refused asks again by itself."""
        self._refusal = "" if request.plugin_registered else request.error or "without a reason"
        if self._refusal:
            log.error("the kubelet refuses to register %s: %s", self._info.name, self._refusal)
        else:
            log.info("registered with the kubelet as %s", self._info.name)
        return registration_pb2.RegistrationStatusResponse()


def serve_registration(registration: Registration, listen: Listen, on_call: OnCall) -> Server:
    """Start answering the kubelet; the caller drains it. Raises InvalidRequest if the socket can't be had."""
    light = frozenset((f"/{_SERVICE}/GetInfo", f"/{_SERVICE}/NotifyRegistrationStatus"))

    def register(server: grpc.Server) -> list[str]:
        registration_pb2_grpc.add_RegistrationServicer_to_server(registration, server)
        return [_SERVICE]

    server = Server(listen, Policy(light, {}, Redactor(lambda field: False), on_call), register)
    server.start()
    return server
