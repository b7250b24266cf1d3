"""A stand-in for Vault's HTTP API, since the registries serve no Vault that builds in minutes: what is asked of it, no more.

KV version 2 at `secret`, transit at `transit` (AES-GCM with associated data), Kubernetes auth, and its ill moods: sealed, mute,
tokens that run out. Status codes and bodies are those of Vault's API documentation.
"""

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROLE, ACCOUNT_TOKEN = "ceph-provisioner", "a service account's token"
Answer = tuple[int, dict[str, Any] | None]


class Vault:
    """Its state: `secrets` by path below the mount, and the tokens that are good."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.tokens: set[str] = set()
        self.logins, self.sealed = 0, False
        self.mute = threading.Event()
        self.address = ""
        self._transit: dict[str, AESGCM] = {}
        self._lock = threading.Lock()

    def answer(self, verb: str, path: str, token: str, body: dict[str, Any]) -> Answer:
        """What Vault says to one request."""
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path == "/v1/auth/kubernetes/login":
            return self._login(body)
        if token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        with self._lock:
            for prefix, handler in (("/v1/secret/data/", self._data), ("/v1/secret/metadata/", self._metadata)):
                if path.startswith(prefix):
                    return handler(verb, path.removeprefix(prefix), body)
            if path.startswith("/v1/transit/"):
                return self._wrap(*path.removeprefix("/v1/transit/").split("/", 1), body)
        return 404, {"errors": [f'no handler for route "{path}"']}

    def _login(self, body: dict[str, Any]) -> Answer:
        if (body.get("role"), body.get("jwt")) != (ROLE, ACCOUNT_TOKEN):
            return 403, {"errors": ["permission denied"]}
        self.logins += 1
        token = f"hvs.{secrets.token_hex(8)}"
        self.tokens.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True, "policies": ["default"]}}

    def _data(self, verb: str, path: str, body: dict[str, Any]) -> Answer:
        if verb == "GET":
            kept = self.secrets.get(path)
            return (200, {"data": {"data": kept, "metadata": {"version": 1}}}) if kept else (404, {"errors": []})
        if body.get("options", {}).get("cas") == 0 and path in self.secrets:
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        self.secrets[path] = body["data"]
        return 200, {"data": {"version": 1}}

    def _metadata(self, verb: str, path: str, body: dict[str, Any]) -> Answer:
        if verb == "DELETE":
            self.secrets.pop(path, None)
            return 204, None
        below = path.rstrip("/") + "/" if path else ""
        rest = [name.removeprefix(below) for name in self.secrets if name.startswith(below)]
        keys = sorted({first + "/" * bool(slash) for first, slash, _ in (name.partition("/") for name in rest)})
        return (200, {"data": {"keys": keys}}) if keys else (404, {"errors": []})

    def _wrap(self, what: str, name: str, body: dict[str, Any]) -> Answer:
        aead = self._transit.setdefault(name, AESGCM(bytes(32)))
        bound = base64.b64decode(body.get("associated_data", ""))
        if what == "encrypt":
            nonce = secrets.token_bytes(12)
            sealed = nonce + aead.encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            return 200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(sealed).decode(), "key_version": 1}}
        sealed = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"))
        try:
            plain = aead.decrypt(sealed[:12], sealed[12:], bound)
        except InvalidTag:
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vault: Vault

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.vault.mute.is_set():
            self.close_connection = True
            threading.Event().wait(30)
            return
        code, said = self.vault.answer(self.command, self.path.partition("?")[0], self.headers.get("X-Vault-Token", ""), body)
        raw = b"" if said is None else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def vault() -> Iterator[Vault]:
    """A Vault for the block."""
    made = Vault()
    handler = type("Handler", (_Handler,), {"vault": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
