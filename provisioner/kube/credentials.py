"""How we log in, kept fresh: tokens that rotate in files, plugins that print short-lived ones, certificates that are renewed.

Files are looked at again every few seconds and read when they changed; a plugin is run again shortly before what it printed
expires, and when the server refuses it. While a renewal fails the old login stays in use: the server decides how long.
"""

import base64
import logging
import os
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec.json

from provisioner.kube.backoff import Clock
from provisioner.kube.errors import ConfigError
from provisioner.kube.kubeconfig import Access, ExecPlugin, Material
from provisioner.watched import stamp

log = logging.getLogger(__name__)

_LOOK_EVERY = 10.0
_PLUGIN_TIMEOUT = 60.0
_RENEW_BEFORE = 60.0
_PLUGIN_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Login:
    """What a request needs: the Authorization header, and the TLS context its connection was made with."""

    authorization: str | None
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        """Nothing of the secrets."""
        return "Login(...)"


class _PluginStatus(msgspec.Struct, rename="camel"):
    expiration_timestamp: datetime | None = None
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None


class _PluginAnswer(msgspec.Struct):
    status: _PluginStatus


class Credentials:
    """The login of one access; thread-safe."""

    def __init__(self, access: Access, clock: Clock = time.monotonic) -> None:
        """Raises ConfigError if there is no first login to be had."""
        self._access, self._clock = access, clock
        self._lock = threading.Lock()
        self._tls, self._tls_stamp = tls_context(access), _stamp(access)
        self._login, self._fresh_until = self._log_in()

    def current(self) -> Login:
        """The login to use now; the same object as long as nothing changed."""
        if self._clock() < self._fresh_until:
            return self._login
        with self._lock:
            if self._clock() >= self._fresh_until:
                self._renew()
            return self._login

    def refused(self, login: Login) -> Login:
        """The login to use after the server refused this one: a new one, if there is."""
        with self._lock:
            if self._login is login:
                self._renew()
            return self._login

    def _renew(self) -> None:
        try:
            login, self._fresh_until = self._log_in()
        except ConfigError as error:
            log.warning("the login to %s stays as it was: %s", self._access.server, error)
            self._fresh_until = self._clock() + _LOOK_EVERY
            return
        if login != self._login:
            self._login = login

    def _log_in(self) -> tuple[Login, float]:
        """A login from scratch, and until when (on our clock) it needs no second look."""
        if self._access.plugin is None:
            return Login(_authorization(self._access), self._context()), self._clock() + _LOOK_EVERY
        status = _run(self._access.plugin, self._access)
        return Login(_bearer(status), self._plugin_context(status)), self._clock() + _lifetime(status)

    def _context(self) -> ssl.SSLContext | None:
        """The context, built anew when its files changed: connections are bound to it."""
        today = _stamp(self._access)
        if today != self._tls_stamp:
            self._tls, self._tls_stamp = tls_context(self._access), today
        return self._tls

    def _plugin_context(self, status: _PluginStatus) -> ssl.SSLContext | None:
        if not (status.client_certificate_data and status.client_key_data):
            return self._context()
        pair = status.client_certificate_data.encode(), status.client_key_data.encode()
        return tls_context(replace(self._access, certificate=pair[0], key=pair[1]))


def _bearer(status: _PluginStatus) -> str | None:
    return f"Bearer {status.token}" if status.token else None


def _lifetime(status: _PluginStatus) -> float:
    if status.expiration_timestamp is None:
        return float("inf")
    left = (status.expiration_timestamp - datetime.now(UTC)).total_seconds()
    return max(left - _RENEW_BEFORE, _LOOK_EVERY)


def _stamp(access: Access) -> tuple[object, ...]:
    """Changes when any file that the TLS context is made of does."""
    materials = (access.ca, access.certificate, access.key)
    return tuple(stamp(material) for material in materials if isinstance(material, Path))


def _authorization(access: Access) -> str | None:
    if access.token_file is not None:
        return f"Bearer {_read(access.token_file).decode().strip()}"
    if access.token:
        return f"Bearer {access.token}"
    if access.basic:
        return "Basic " + base64.b64encode(":".join(access.basic).encode()).decode()
    return None


def _read(material: Material) -> bytes:
    if isinstance(material, bytes):
        return material
    try:
        return material.read_bytes()
    except OSError as error:
        raise ConfigError(f"{material}: {error.strerror}") from error


def tls_context(access: Access) -> ssl.SSLContext | None:
    """The context for an https server, None for plain http; raises ConfigError for unusable PEM."""
    if not access.server.startswith("https:"):
        return None
    try:
        trusted = _read(access.ca).decode() if access.ca is not None else None
        context = ssl.create_default_context(cadata=trusted)
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if access.certificate is not None and access.key is not None:
            _load_pair(context, _read(access.certificate), _read(access.key))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the certificates for {access.server} can't be used: {error}") from error
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Give OpenSSL the pair, which it takes from files only: one in memory, so that a key never touches a disk."""
    handle = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _run(plugin: ExecPlugin, access: Access) -> _PluginStatus:
    if plugin.api_version not in _PLUGIN_VERSIONS:
        raise ConfigError(f"exec plugin {plugin.command}: apiVersion {plugin.api_version} is not supported")
    environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": _request(plugin, access)}
    try:
        ran = subprocess.run(
            [plugin.command, *plugin.arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PLUGIN_TIMEOUT,
            check=True,
        )
        return msgspec.json.decode(ran.stdout, type=_PluginAnswer).status
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ConfigError(f"exec plugin {plugin.command} failed ({error.returncode}): {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"exec plugin {plugin.command} did not run: {error}") from error
    except msgspec.DecodeError:
        # Not chained: the answer it quotes may hold the token.
        raise ConfigError(f"exec plugin {plugin.command} printed no ExecCredential") from None


def _request(plugin: ExecPlugin, access: Access) -> str:
    spec: dict[str, object] = {"interactive": False}
    if plugin.wants_cluster:
        cluster: dict[str, object] = {"server": access.server, "insecure-skip-tls-verify": access.insecure}
        if access.ca is not None:
            cluster["certificate-authority-data"] = base64.b64encode(_read(access.ca)).decode()
        if access.server_name:
            cluster["tls-server-name"] = access.server_name
        spec["cluster"] = cluster
    asked = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    return msgspec.json.encode(asked).decode()
