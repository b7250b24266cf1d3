"""HTTP to the API server: pooled keep-alive connections, plain dicts, a bound on every wait.

A call costs about 0.4 ms of CPU, most of it TLS and the standard library's HTTP; hence urllib3 and msgspec, and no typed
client. The API server's HTTP/1.1 serves one call a connection at a time, so give the pool as many as there are threads.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec.json
import urllib3

from provisioner.kube.backoff import TokenBucket
from provisioner.kube.connections import Connections
from provisioner.kube.credentials import Credentials, Login
from provisioner.kube.errors import ApiError, Gone, Unauthorized, Unreachable, from_answer
from provisioner.kube.kubeconfig import Access
from provisioner.kube.resources import Object, resource_of
from provisioner.kube.watch import Watch

Params = Mapping[str, str]
Trim = Callable[[Object], Object]
PatchKind = Literal["merge", "json", "strategic"]

_PATCHES: Mapping[PatchKind, str] = {"merge": "merge-patch", "json": "json-patch", "strategic": "strategic-merge-patch"}
_METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}


class OnCall(Protocol):
    """Is told of each exchange: a verb of the API, a plural, an HTTP status or `unreachable`, and seconds."""

    def __call__(self, verb: str, resource: str, status: str, seconds: float) -> None:
        """Called from any thread; must be quick and must not raise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much: seconds, connections, calls a second."""

    connect: float = 5.0
    read: float = 30.0
    connections: int = 32
    rate: float = 1000.0
    burst: float = 1000.0
    patience: float = 30.0
    """The longest time that one call may spend on waits which the server asked for (Retry-After)."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole collection as of one version, to watch on from."""

    items: list[Object]
    resource_version: str


class Api:
    """One API server; thread-safe.

    Every call raises Unreachable if no whole answer came (of a write, the outcome is then unknown) and an ApiError if the
    server refused. `timeout` is the seconds that the server may stay silent, in place of `Limits.read`.
    """

    def __init__(self, access: Access, user_agent: str, limits: Limits | None = None, on_call: OnCall | None = None) -> None:
        """Raises ConfigError if the access can't be used; does not connect yet."""
        self.access = access
        self._limits = limits or Limits()
        self._credentials = Credentials(access)
        self._connections = Connections(access, self._limits.connections)
        self._prefix = urlsplit(access.server).path
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        self._bucket = TokenBucket(self._limits.rate, self._limits.burst)
        self._on_call = on_call
        self._closing = threading.Event()

    def get(self, path: str, params: Params | None = None, *, timeout: float | None = None) -> Object:
        """Read one object, or anything else that is a JSON object."""
        return self._object(_Request("get", path, params, timeout=timeout))

    def list_pages(self, path: str, params: Params | None = None, limit: int = 500) -> Iterator[Listing]:
        """Read a collection page by page; `limit` 0 means all at once.

        Raises Gone when the server forgets the version in the middle: the pages had so far then count for nothing.
        """
        asked = {**(params or {}), **({"limit": str(limit)} if limit else {})}
        while True:
            page = self._object(_Request("list", path, asked))
            metadata = page.get("metadata") or {}
            yield Listing(_named(page), metadata.get("resourceVersion", ""))
            following = metadata.get("continue")
            if not following:
                return
            asked["continue"] = following

    def list_all(self, path: str, params: Params | None = None, limit: int = 500, trim: Trim | None = None) -> Listing:
        """Read a whole collection; if that takes longer than the server keeps a version, again in one piece.

        `trim` is applied to each object as soon as its page is there.
        """
        try:
            return _joined(self.list_pages(path, params, limit), trim)
        except Gone:
            return _joined(self.list_pages(path, params, limit=0), trim)

    def create(self, path: str, body: Object, *, timeout: float | None = None) -> Object:
        """Add an object to the collection at `path`; raises AlreadyExists if the name is taken."""
        return self._object(_Request("create", path, body=_json(body), timeout=timeout))

    def replace(self, path: str, body: Object, *, timeout: float | None = None) -> Object:
        """Write a whole object; raises Conflict if its resourceVersion is not the newest."""
        return self._object(_Request("update", path, body=_json(body), timeout=timeout))

    def patch(self, path: str, body: object, kind: PatchKind = "merge", *, timeout: float | None = None) -> Object:
        """Change parts of an object, or of the subresource in the path; `body` is what that kind of patch wants."""
        content = f"application/{_PATCHES[kind]}+json"
        return self._object(_Request("patch", path, body=_json(body), content=content, timeout=timeout))

    def delete(self, path: str, body: Object | None = None, *, timeout: float | None = None) -> Object:
        """Delete an object; `body` are DeleteOptions (preconditions, propagation). Finalizers may delay it."""
        return self._object(_Request("delete", path, body=_json(body) if body else None, timeout=timeout))

    def watch(
        self, path: str, resource_version: str, params: Params | None = None, seconds: float = 300, silence: float = 90
    ) -> Watch:
        """Follow the changes of a collection after a version, for about so many seconds.

        The server sends a bookmark about every minute, but none as long as it has seen no change since it started: so
        `silence` seconds without a word mean a dead connection or a collection at rest, and one watches on to find out.
        """
        asked = {
            **(params or {}),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(round(seconds)),
        }
        return Watch(self._answer(_Request("watch", path, asked, timeout=silence, stream=True)))

    def close(self) -> None:
        """End the waits of all calls and close the idle connections; exchanges under way end by themselves."""
        self._closing.set()
        self._connections.close()

    def _object(self, request: "_Request") -> Object:
        response = self._answer(request)
        try:
            decoded = msgspec.json.decode(response.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"{request}: the answer is no JSON: {error}") from error
        if not isinstance(decoded, dict):
            raise Unreachable(f"{request}: the answer is no JSON object")
        return decoded

    def _answer(self, request: "_Request") -> urllib3.BaseHTTPResponse:
        """The good answer to a request: a stale login is renewed once, waits that the server asks for are kept."""
        deadline = time.monotonic() + min(self._limits.patience, request.timeout or self._limits.patience)
        login, renewed = self._credentials.current(), False
        while True:
            response, error = self._exchange(request, login)
            if error is None:
                return response
            if isinstance(error, Unauthorized) and not renewed:
                login, renewed = self._credentials.refused(login), True
            elif not self._waited(response, deadline):
                raise error

    def _exchange(self, request: "_Request", login: Login) -> tuple[urllib3.BaseHTTPResponse, ApiError | None]:
        """One request and its answer, with the refusal that it stands for."""
        self._closing.wait(self._bucket.reserve())
        started, status = time.monotonic(), "unreachable"
        try:
            response = self._send(request, login)
            status = str(response.status)
            return response, None if response.status < 400 else from_answer(response.status, response.data)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{request}: {error}") from error
        finally:
            if self._on_call is not None:
                self._on_call(request.verb, resource_of(request.path), status, time.monotonic() - started)

    def _send(self, request: "_Request", login: Login) -> urllib3.BaseHTTPResponse:
        headers = dict(self._headers)
        if login.authorization is not None:
            headers["Authorization"] = login.authorization
        if request.body is not None:
            headers["Content-Type"] = request.content
        read = request.timeout or self._limits.read
        return self._connections.pool(login.tls).urlopen(
            _METHODS[request.verb],
            f"{self._prefix}{request.path}" + (f"?{urlencode(request.params)}" if request.params else ""),
            body=request.body,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(self._limits.connect, read), read=read),
            preload_content=not request.stream,
            retries=False,
            redirect=False,
        )

    def _waited(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bool:
        """Whether the server asked to come again later, and later is now."""
        seconds = response.headers.get("Retry-After", "")
        if not seconds.isdecimal() or not (response.status == 429 or response.status >= 500):
            return False
        wait = max(1.0, float(seconds))
        if time.monotonic() + wait > deadline:
            return False
        return not self._closing.wait(wait)


@dataclass(frozen=True, slots=True)
class _Request:
    verb: str
    path: str
    params: Params | None = None
    body: bytes | None = None
    content: str = "application/json"
    timeout: float | None = None
    stream: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"


def _json(body: object) -> bytes:
    return msgspec.json.encode(body)


def _named(page: Object) -> list[Object]:
    """The items of a list with their kind, which the server says only once, of the list."""
    items: list[Object] = page.get("items") or []
    api_version, kind = page.get("apiVersion", ""), page.get("kind", "").removesuffix("List")
    for item in items:
        item.setdefault("apiVersion", api_version)
        item.setdefault("kind", kind)
    return items


def _joined(pages: Iterable[Listing], trim: Trim | None) -> Listing:
    items: list[Object] = []
    version = ""
    for page in pages:
        items += page.items if trim is None else map(trim, page.items)
        version = page.resource_version
    return Listing(items, version)
