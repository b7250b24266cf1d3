"""The standard health service: whether this process serves, whatever the clusters do.

grpcio's own one can lock up the whole server when a watcher goes away while the state changes. Nobody here needs to watch, and
the protocol lets a server say so.
"""

import threading
from collections.abc import Collection
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provisioner.core.errors import NotFound, Unsupported

_State = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Serving, until told that the end has come."""

    def __init__(self, services: Collection[str]) -> None:
        self._services, self._ended = frozenset(("", *services)), threading.Event()

    def end(self) -> None:
        """From now on nothing is served."""
        self._ended.set()

    def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """State of a service, or of all with ""."""
        if request.service not in self._services:
            raise NotFound(f"service {request.service!r}")
        return _State(status=_State.NOT_SERVING if self._ended.is_set() else _State.SERVING)

    def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        """Not served: ask Check."""
        raise Unsupported("ask Check")
