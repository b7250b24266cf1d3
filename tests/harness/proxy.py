"""A proxy before an HTTP API that fails chosen calls in chosen ways, once each, and remembers what was called in which order."""

import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HANGS = 30.0
_TOKEN = "X-Subject-Token"
"""Where Keystone says it."""
CUT, HANG = "cut", "hang"
"""Ways to fail beside a status: acted on, but the connection breaks before the answer; never answered, not acted on."""


@dataclass
class Story:
    """What happens to one volume's calls: each of `due` fails once, as it says; `steps` are all that came, `step!` failed."""

    due: list[tuple[str, str | int]]
    steps: list[str] = field(default_factory=list)

    def comes(self, step: str) -> str | int | None:
        """Note a call, and say how it fails; None if it doesn't."""
        found = next((failure for failure in self.due if failure[0] == step), None)
        self.steps.append(f"{step}!" if found else step)
        if found is None:
            return None
        self.due.remove(found)
        return found[1]


class CinderProxy:
    """Knows volumes by name, and their uuids from the answers that pass through it."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is the v3 URL of the Cinder behind."""
        self.target = urlsplit(endpoint)
        self.stories: dict[str, Story] = {}
        self.calls = 0
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def story(self, name: str, *failures: tuple[str, str | int]) -> Story:
        """From now on, the calls about the volume of this name make a story: a step and a way each."""
        return self.stories.setdefault(name, Story(list(failures)))

    def comes(self, method: str, path: str, body: dict[str, Any]) -> tuple[str, str | int | None]:
        """What a call is in the story that it belongs to, and how it fails."""
        step, name = self._step(method, path, body)
        with self._lock:
            self.calls += 1
            story = self.stories.get(name)
            return step, story.comes(step) if story else None

    def learns(self, method: str, path: str, answer: bytes) -> None:
        """A made volume's uuid, from the answer that tells it."""
        if method == "POST" and path.endswith("/volumes"):
            made = json.loads(answer).get("volume", {})
            with self._lock:
                self._names[made.get("id", "")] = made.get("name", "")

    def _step(self, method: str, path: str, body: dict[str, Any]) -> tuple[str, str]:
        if method == "POST" and path.endswith("/volumes"):
            return "create", body["volume"]["name"]
        if found := re.search(r"/volumes/detail\?.*(pvc-[0-9a-f-]{36})", path):
            return "find", found[1]
        found = re.search(r"/volumes/([0-9a-f-]{36})(/action)?", path)
        name = self._names.get(found[1], "") if found else ""
        if found and found[2]:
            return next(iter(body)).removeprefix("os-"), name
        return ("delete" if method == "DELETE" else "look"), name


@contextmanager
def proxied(endpoint: str, tls: ssl.SSLContext | None = None) -> Iterator[tuple[CinderProxy, str]]:
    """A proxy before the endpoint, and the URL to use in its place; https with a server's TLS context."""
    proxy = CinderProxy(endpoint)
    server = _Server(proxy)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield proxy, f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}{proxy.target.path}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: CinderProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def do_DELETE(self) -> None:
        self._pass()

    def log_message(self, *_: object) -> None:
        """Stories are the log."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        step, way = self.server.proxy.comes(self.command, self.path, json.loads(body or b"{}"))
        if way == HANG:
            threading.Event().wait(_HANGS)
            self.close_connection = True
        elif isinstance(way, int):
            self._answer(way, json.dumps({"fault": {"code": way, "message": f"the proxy refuses {step}"}}).encode(), {})
        else:
            self._forward(body, cut=way == CUT)

    def _forward(self, body: bytes, *, cut: bool) -> None:
        status, content, headers = self._asked(body)
        if status < 300:
            self.server.proxy.learns(self.command, urlsplit(self.path).path, content)
        if cut:
            self.close_connection = True
        else:
            self._answer(status, content, headers)

    def _asked(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        target = self.server.proxy.target
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            token = {key: value for key, value in answer.getheaders() if key == _TOKEN}
            return answer.status, answer.read(), token
        finally:
            connection.close()

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
