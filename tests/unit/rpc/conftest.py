"""A server on a socket whose methods do what each test says."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2
from csi.policy import is_secret
from provisioner.rpc.boundary import Policy
from provisioner.rpc.redact import Redactor
from provisioner.rpc.server import Listen, Server
from provisioner.rpc.status import Codes

Behaviour = Callable[[csi_pb2.CreateVolumeRequest, grpc.ServicerContext], csi_pb2.CreateVolumeResponse]
Streaming = Callable[[csi_pb2.CreateVolumeRequest, grpc.ServicerContext], Iterator[csi_pb2.CreateVolumeResponse]]


class Bench:
    """A server with two permits and a queue of three, and its client: `Heavy`, `Light` and `Stream` are its methods."""

    def __init__(self, directory: Path) -> None:
        self.does: dict[str, Behaviour] = {}
        self.streams: Streaming = lambda request, context: iter(())
        self.codes: Codes = {}
        self.seen: list[tuple[str, str]] = []
        self.directory = directory
        self._open: list[tuple[grpc.Channel, Server]] = []

    def start(self, **options: int) -> Server:
        listen = Listen(f"unix://{self.directory}/s", **{"permits": 2, "queue": 3, **options})
        policy = Policy(frozenset({"/test.Bench/Light"}), self.codes, Redactor(is_secret), self._note)
        self.server = Server(listen, policy, self._register)
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix://{self.server.path}")
        self._open.append((self.channel, self.server))
        return self.server

    def call(self, method: str = "Heavy", timeout: float = 30, **fields: object) -> csi_pb2.CreateVolumeResponse:
        return self.future(method, timeout, **fields).result()

    def future(self, method: str = "Heavy", timeout: float = 30, **fields: object) -> grpc.Future:
        stub = self.channel.unary_unary(
            f"/test.Bench/{method}",
            request_serializer=csi_pb2.CreateVolumeRequest.SerializeToString,
            response_deserializer=csi_pb2.CreateVolumeResponse.FromString,
        )
        return stub.future(csi_pb2.CreateVolumeRequest(**fields), timeout=timeout)

    def stream(self, timeout: float = 30) -> Iterator[csi_pb2.CreateVolumeResponse]:
        stub = self.channel.unary_stream(
            "/test.Bench/Stream",
            request_serializer=csi_pb2.CreateVolumeRequest.SerializeToString,
            response_deserializer=csi_pb2.CreateVolumeResponse.FromString,
        )
        return stub(csi_pb2.CreateVolumeRequest(), timeout=timeout)

    def close(self) -> None:
        for channel, server in self._open:
            channel.close()
            server.drain(1)

    def _note(self, method: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((method, code))

    def _register(self, server: grpc.Server) -> list[str]:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                lambda request, context, name=name: self.does[name](request, context),
                csi_pb2.CreateVolumeRequest.FromString,
                csi_pb2.CreateVolumeResponse.SerializeToString,
            )
            for name in ("Heavy", "Light")
        }
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(
            lambda request, context: self.streams(request, context),
            csi_pb2.CreateVolumeRequest.FromString,
            csi_pb2.CreateVolumeResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Bench", handlers),))
        return ["test.Bench"]


@pytest.fixture
def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.DEBUG)
    made = Bench(tmp_path)
    made.does["Heavy"] = made.does["Light"] = lambda request, context: csi_pb2.CreateVolumeResponse()
    try:
        yield made
    finally:
        made.close()
