"""A threaded gRPC server on a unix socket that starts whole and ends whole.

librbd blocks and lets go of the interpreter, so threads it is. There is a thread for each permit and each place in the queue,
and some that no heavy call can occupy: whoever asks whether we are alive is answered while a cluster is not.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc

from provisioner.core.errors import InvalidRequest
from provisioner.rpc.admission import Admission
from provisioner.rpc.boundary import Boundary, Policy
from provisioner.rpc.endpoint import make_way, socket_path
from provisioner.rpc.health import Health

_FOR_LIGHT_CALLS = 16
_HEALTH = frozenset({"/grpc.health.v1.Health/Check"})


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen and how much to take on: `permits` calls at work, `queue` waiting, `streams` being read."""

    endpoint: str
    permits: int = 32
    queue: int = 128
    streams: int = 8
    mode: int = 0o660
    """Who may connect, as the socket's file mode."""


class Server:
    """One server, once: start, then drain."""

    def __init__(self, listen: Listen, policy: Policy, register: Callable[[grpc.Server], list[str]]) -> None:
        """`register` adds the services and gives their names, for the health service."""
        self._listen, self._path = listen, socket_path(listen.endpoint)
        self._admission = Admission(listen.permits, listen.queue)
        self._streams = Admission(listen.streams, listen.streams)
        threads = listen.permits + listen.queue + 2 * listen.streams + _FOR_LIGHT_CALLS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rpc")
        policy = Policy(policy.light | _HEALTH, policy.codes, policy.redactor, policy.on_call)
        self._server = grpc.server(self._threads, interceptors=[Boundary(policy, self._admission, self._streams)])
        self._health = Health(register(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    @property
    def path(self) -> Path:
        """Where the socket is."""
        return self._path

    @property
    def admission(self) -> Admission:
        """Who works and who waits."""
        return self._admission

    def start(self) -> None:
        """Begin to serve. Raises InvalidRequest if the socket can't be had."""
        make_way(self._path)
        former = os.umask(0o777 & ~self._listen.mode)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise InvalidRequest("endpoint", self._path, "can't be bound") from error
        finally:
            os.umask(former)
        self._server.start()

    def drain(self, seconds: float = 30.0) -> None:
        """Take nothing new, let what runs finish within so many seconds, and be gone. Safe to call twice."""
        self._admission.close()
        self._streams.close()
        self._health.end()
        self._server.stop(seconds).wait()
        self._path.unlink(missing_ok=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
