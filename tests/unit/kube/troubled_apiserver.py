"""A small API server over real TLS that keeps objects, versions them, lists by pages, streams watches, and fails on demand.

It speaks as much of the protocol as the transport, the reflector, the lease and the events rest on, so that each way in
which a real server or the network can let us down is one line in a test: `server.next("watch", cut_off())`. The real server's
own behaviour is tests/integration/test_kube.py's.
"""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trustme

Answer = Callable[["Handler"], None]
PATH = re.compile(r"(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?(?:/([a-z]+))?")


@dataclass(frozen=True)
class Request:
    verb: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Kept:
    """What the server keeps: objects by (plural, namespace, name), and every change since a version."""

    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 100
    forgotten: int = 0
    """Versions up to this one are no longer kept."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def write(self, key: tuple[str, str, str], body: dict[str, Any]) -> dict[str, Any]:
        with self.changed:
            self.version += 1
            kind = "MODIFIED" if key in self.objects else "ADDED"
            uid = self.objects[key]["metadata"]["uid"] if key in self.objects else f"uid-{self.version}"
            metadata = {**body["metadata"], "resourceVersion": str(self.version), "uid": uid}
            stored = self.objects[key] = {**body, "metadata": metadata}
            self.history.append((self.version, key[0], kind, stored))
            self.changed.notify_all()
            return stored

    def remove(self, key: tuple[str, str, str]) -> dict[str, Any]:
        with self.changed:
            self.version += 1
            item = self.objects.pop(key)
            last = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self.history.append((self.version, key[0], "DELETED", last))
            self.changed.notify_all()
            return last

    def forget_history(self) -> None:
        """As a compaction of etcd does."""
        with self.changed:
            self.forgotten, self.history = self.version, []


class Server(ThreadingHTTPServer):
    """One server on a free port of the loopback; `url` and `ca` lead to it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.authority = trustme.CA()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1", "kubernetes.test").configure_cert(self.tls)
        self.authority.configure_trust(self.tls)
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.kept = Kept()
        self.requests: list[Request] = []
        self.tokens: set[str] = set()
        """If there are any, a request must bear one of them."""
        self.released = threading.Event()
        """Ends all silences."""
        self._answers: list[tuple[str, Answer]] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    @property
    def ca(self) -> bytes:
        return self.authority.cert_pem.bytes()

    def next(self, verb: str, *answers: Answer) -> None:
        """Answer the next requests of that verb so, and not as they deserve."""
        with self._lock:
            self._answers += [(verb, answer) for answer in answers]

    def answer_for(self, verb: str) -> Answer | None:
        with self._lock:
            for index, (wanted, answer) in enumerate(self._answers):
                if wanted == verb:
                    del self._answers[index]
                    return answer
            return None

    def asked(self, verb: str) -> list[Request]:
        return [request for request in self.requests if request.verb == verb]

    def drop_connections(self) -> None:
        """As a server that dies does."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.tls.wrap_socket(request, server_side=True) as secured:
            with self._lock:
                self._open.add(secured)
            try:
                super().finish_request(secured, client_address)
            finally:
                with self._lock:
                    self._open.discard(secured)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    request_now: Request
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        verb = self._verb(url.path, params)
        self.request_now = Request(verb, url.path, params, dict(self.headers), json.loads(body) if body else None)
        self.server.requests.append(self.request_now)
        planned = self.server.answer_for(verb)
        if planned is not None:
            planned(self)
        elif self.server.tokens and self.headers.get("Authorization", "")[7:] not in self.server.tokens:
            self.refuse(401, "Unauthorized")
        else:
            getattr(self, f"serve_{verb}")(*self._key(url.path))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _verb(self, path: str, params: dict[str, str]) -> str:
        if self.command == "GET":
            return "watch" if "watch" in params else "get" if self._key(path)[2] else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[self.command]

    @staticmethod
    def _key(path: str) -> tuple[str, str, str]:
        found = PATH.fullmatch(path)
        assert found is not None, path
        return found[3], found[2] or "", found[4] or ""

    def send(self, status: int, body: object, **headers: str) -> None:
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def refuse(self, status: int, reason: str, message: str = "", **headers: str) -> None:
        said = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message or reason}
        self.send(status, said, **headers)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, kind: str, item: object) -> None:
        self.chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def serve_get(self, *key: str) -> None:
        item = self.server.kept.objects.get((key[0], key[1], key[2]))
        if item is None:
            self.refuse(404, "NotFound", f"{key[0]} {key[2]!r} not found")
        else:
            self.send(200, item)

    def serve_list(self, plural: str, namespace: str, _name: str) -> None:
        params, kept = self.request_now.params, self.server.kept
        start, version = (int(part) for part in params.get("continue", f"0.{kept.version}").split("."))
        matching = sorted(key for key in kept.objects if key[0] == plural and namespace in ("", key[1]))
        end = start + int(params.get("limit", len(matching) + 1))
        items = [kept.objects[key] for key in matching[start:end]]
        bare = [{name: value for name, value in item.items() if name not in ("apiVersion", "kind")} for item in items]
        metadata = {"resourceVersion": str(version)}
        if end < len(matching):
            metadata["continue"] = f"{end}.{version}"
        self.send(200, {"apiVersion": "v1", "kind": "ThingList", "metadata": metadata, "items": bare})

    def serve_watch(self, plural: str, namespace: str, _name: str) -> None:
        seen, kept = int(self.request_now.params["resourceVersion"]), self.server.kept
        self.start_stream()
        if seen < kept.forgotten:
            self.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
            self.wfile.write(b"0\r\n\r\n")
            return
        while not self.server.released.is_set():
            with kept.changed:
                news = [change for change in kept.history if change[0] > seen and change[1] == plural]
                if not news:
                    kept.changed.wait(0.05)
            for version, _plural, kind, item in news:
                seen = version
                if namespace in ("", item["metadata"].get("namespace", "")):
                    self.event(kind, item)

    def serve_create(self, plural: str, namespace: str, _name: str) -> None:
        body = self.request_now.body
        key = (plural, namespace, body["metadata"]["name"])
        if key in self.server.kept.objects:
            self.refuse(409, "AlreadyExists", f"{plural} {key[2]!r} already exists")
        else:
            self.send(201, self.server.kept.write(key, body))

    def serve_update(self, *key: str) -> None:
        body = self.request_now.body
        with self.server.kept.changed:
            old = self.server.kept.objects.get((key[0], key[1], key[2]))
            if old is None:
                self.refuse(404, "NotFound")
            elif body["metadata"].get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
                self.refuse(409, "Conflict", "the object has been modified")
            else:
                self.send(200, self.server.kept.write((key[0], key[1], key[2]), body))

    def serve_patch(self, *key: str) -> None:
        old = self.server.kept.objects.get((key[0], key[1], key[2]))
        if old is None:
            self.refuse(404, "NotFound")
        else:
            self.send(200, self.server.kept.write((key[0], key[1], key[2]), {**old, **self.request_now.body}))

    def serve_delete(self, *key: str) -> None:
        if (key[0], key[1], key[2]) in self.server.kept.objects:
            self.send(200, self.server.kept.remove((key[0], key[1], key[2])))
        else:
            self.refuse(404, "NotFound")


def refused(status: int, reason: str, **headers: str) -> Answer:
    """A Status of failure."""
    return lambda handler: handler.refuse(status, reason, **headers)


def page_of_a_proxy(status: int) -> Answer:
    """Something that isn't Kubernetes."""
    return lambda handler: handler.send(status, b"<html>come back later</html>")


def silent(handler: Handler) -> None:
    """Take the request and never answer: a frozen server, or the far end of a connection that is half open."""
    handler.server.released.wait()
    handler.close_connection = True


def hung_up(handler: Handler) -> None:
    """Close the connection in place of an answer."""
    handler.close_connection = True


def cut_off(handler: Handler) -> None:
    """Close the connection in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"kind": "Thing", "metadata": {')
    handler.close_connection = True


def ended(handler: Handler) -> None:
    """The end of a watch as it should be."""
    handler.wfile.write(b"0\r\n\r\n")


def streamed(*events: tuple[str, object], then: Answer = ended) -> Answer:
    """A watch that sends these events and then ends, or as `then` says."""

    def answer(handler: Handler) -> None:
        handler.start_stream()
        for kind, item in events:
            handler.event(kind, item)
        then(handler)

    return answer


def cut_in_an_event(handler: Handler) -> None:
    """The end of a watch whose server dies while it sends."""
    handler.wfile.write(b'40\r\n{"type": "ADDED", "obj')
    handler.close_connection = True


def ended_in_an_event(handler: Handler) -> None:
    """The end of a watch through a proxy that closes it properly, but too early."""
    handler.chunk(b'{"type": "ADDED", "obj')
    ended(handler)


def nonsense(handler: Handler) -> None:
    """The end of a watch that sends what is no JSON."""
    handler.chunk(b"}{ not json\n")
    ended(handler)
