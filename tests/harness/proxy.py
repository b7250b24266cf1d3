"""A proxy before an HTTP API that fails chosen calls in chosen ways, once each, and remembers what was called in which order."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HANGS = 30.0
CUT, HANG = "cut", "hang"
"""Ways to fail beside a status: acted on, but the connection breaks before the answer; never answered, not acted on."""


@dataclass
class Story:
    """What happens to one volume's calls: `step` fails as `way` says, the first time; `steps` are all that came."""

    step: str
    way: str | int
    failed: bool = False
    steps: list[str] = field(default_factory=list)


class CinderProxy:
    """Knows volumes by name, and their uuids from the answers that pass through it."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is the v3 URL of the Cinder behind."""
        self.target = urlsplit(endpoint)
        self.stories: dict[str, Story] = {}
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def story(self, name: str, step: str, way: str | int) -> Story:
        """From now on, the calls about the volume of this name make a story."""
        return self.stories.setdefault(name, Story(step, way))

    def comes(self, method: str, path: str, body: dict[str, Any]) -> tuple[Story | None, str]:
        """The story that a call belongs to, and what the call is in it; a call that fails is noted as `step!`."""
        step, name = self._step(method, path, body)
        with self._lock:
            story = self.stories.get(name)
            if story is None:
                return None, step
            fails = step == story.step and not story.failed
            story.failed |= fails
            story.steps.append(f"{step}!" if fails else step)
            return (story, step) if fails else (None, step)

    def learns(self, method: str, path: str, answer: bytes) -> None:
        """A made volume's uuid, from the answer that tells it."""
        if method == "POST" and path.endswith("/volumes"):
            made = json.loads(answer).get("volume", {})
            with self._lock:
                self._names[made.get("id", "")] = made.get("name", "")

    def _step(self, method: str, path: str, body: dict[str, Any]) -> tuple[str, str]:
        if method == "POST" and path.endswith("/volumes"):
            return "create", body["volume"]["name"]
        found = re.search(r"/volumes/([0-9a-f-]{36})(/action)?", path)
        name = self._names.get(found[1], "") if found else ""
        if found and found[2]:
            return next(iter(body)).removeprefix("os-"), name
        return ("delete" if method == "DELETE" else "look"), name


@contextmanager
def proxied(endpoint: str) -> Iterator[tuple[CinderProxy, str]]:
    """A proxy before the endpoint, and the URL to use in its place."""
    proxy = CinderProxy(endpoint)
    server = _Server(proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}{proxy.target.path}"
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
        story, step = self.server.proxy.comes(self.command, urlsplit(self.path).path, json.loads(body or b"{}"))
        way = story.way if story else None
        if way == HANG:
            threading.Event().wait(_HANGS)
            self.close_connection = True
        elif isinstance(way, int):
            self._answer(way, json.dumps({"fault": {"code": way, "message": f"the proxy refuses {step}"}}).encode())
        else:
            self._forward(body, cut=way == CUT)

    def _forward(self, body: bytes, *, cut: bool) -> None:
        status, content = self._asked(body)
        if status < 300:
            self.server.proxy.learns(self.command, urlsplit(self.path).path, content)
        if cut:
            self.close_connection = True
        else:
            self._answer(status, content)

    def _asked(self, body: bytes) -> tuple[int, bytes]:
        target = self.server.proxy.target
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
