"""`/metrics`, `/healthz` and `/readyz` on one address. Answers come from memory: no probe waits for Ceph or Kubernetes."""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from provisioner.core.errors import InvalidRequest
from provisioner.observe.metrics import Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Check = Callable[[], list[str]]
"""Tells what is wrong, one sentence each; nothing if all is well."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the standard library's look for our name in the DNS, which may take many seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not news."""


class StatusServer:
    """Serves until closed, in threads of its own."""

    def __init__(self, listen: str, metrics: Metrics, healthy: Check, ready: Check) -> None:
        """`listen` is HOST:PORT; port 0 takes a free one. Raises InvalidRequest if it can't be had."""
        host, _, port = listen.rpartition(":")
        self._metrics = make_wsgi_app(metrics.registry)
        self._checks = {"/healthz": healthy, "/readyz": ready}
        try:
            kind = _Server6 if ":" in host else _Server
            self._server = make_server(host.strip("[]"), int(port), self._answer, kind, _Quiet)
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidRequest("--listen", listen, str(error)) from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name="status", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start)
            return page
        check = self._checks.get(path)
        wrong = check() if check else [f"no such page: {path}"]
        status = "404 Not Found" if check is None else "503 Service Unavailable" if wrong else "200 OK"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return ["\n".join(wrong or ["ok"]).encode() + b"\n"]
