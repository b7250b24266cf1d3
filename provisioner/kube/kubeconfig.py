"""Where the API server is and who we are there: a kubeconfig file, or the service account of the pod we run in.

The file is typed YAML, which msgspec reads and checks as it is. lightkube's reader (1.0.1) would add 7 MB and thirteen
packages to that, passes over `tls-server-name`, `proxy-url` and `as`, and its credentials are bound to another HTTP client;
the official client's reader costs 35 MB. What we don't support is refused by name and never passed over: connecting as
somebody else than the file says would be worse than not connecting.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from provisioner.kube.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Material = bytes | Path
"""A certificate, a key or a CA bundle: in PEM, or the file that has it and may get another one."""


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: bytes | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _Variable(msgspec.Struct):
    name: str
    value: str


class _Exec(msgspec.Struct, rename="camel"):
    api_version: str
    command: str
    args: list[str] | None = None
    env: list[_Variable] | None = None
    provide_cluster_info: bool = False


class _User(msgspec.Struct, rename="kebab"):
    client_certificate: str | None = None
    client_certificate_data: bytes | None = None
    client_key: str | None = None
    client_key_data: bytes | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    username: str | None = None
    password: str | None = None
    exec: _Exec | None = None
    auth_provider: Any = None
    as_: Any = msgspec.field(name="as", default=None)


class _Context(msgspec.Struct):
    cluster: str
    user: str | None = None
    namespace: str | None = None


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str
    user: _User


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _File(msgspec.Struct, rename="kebab"):
    current_context: str = ""
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints an ExecCredential."""

    api_version: str
    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    wants_cluster: bool


@dataclass(frozen=True, slots=True)
class Access:
    """One server and one way to be known there. Paths are absolute; their contents are read when needed."""

    server: str
    namespace: str = "default"
    ca: Material | None = None
    insecure: bool = False
    server_name: str | None = None
    certificate: Material | None = None
    key: Material | None = None
    token: str | None = None
    token_file: Path | None = None
    basic: tuple[str, str] | None = None
    plugin: ExecPlugin | None = None

    def __repr__(self) -> str:
        """The address alone: the rest may hold secrets."""
        return f"Access({self.server})"


def load(path: str = "", context: str = "", environ: Mapping[str, str] = os.environ) -> Access:
    """The access that `path` describes; without one, what KUBECONFIG does, then the pod, then ~/.kube/config.

    Raises ConfigError, which names the file and what is wrong in it.
    """
    named = path or environ.get("KUBECONFIG", "")
    if named:
        return from_file(Path(named), context)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environ)
    return from_file(Path("~/.kube/config"), context)


def in_cluster(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> Access:
    """The access of a pod's service account, whose token the kubelet replaces every hour or so."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        namespace = (account / "namespace").read_text().strip()
    except OSError as error:
        raise ConfigError(f"the pod has no service account: {error}") from error
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace,
        ca=account / "ca.crt",
        token_file=account / "token",
    )


def from_file(path: Path, context: str = "") -> Access:
    """The access of one context (the current one, if none is named) of a kubeconfig file."""
    path = path.expanduser().absolute()
    parsed = _parse(path)
    chosen = context or parsed.current_context
    if not chosen:
        raise ConfigError(f"{path}: no current-context")
    where = _pick(path, "contexts", {c.name: c.context for c in parsed.contexts or ()}, chosen)
    cluster = _pick(path, "clusters", {c.name: c.cluster for c in parsed.clusters or ()}, where.cluster)
    users = {u.name: u.user for u in parsed.users or ()}
    user = _pick(path, "users", users, where.user) if where.user else _User()
    _refuse_unsupported(path, cluster, user)
    return _access(path.parent, where, cluster, user)


def _parse(path: Path) -> _File:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=_File, strict=True)
    except OSError as error:
        raise ConfigError(f"kubeconfig {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"kubeconfig {path}: {error}") from error


T = TypeVar("T")


def _pick(path: Path, section: str, entries: Mapping[str, T], name: str) -> T:
    try:
        return entries[name]
    except KeyError:
        known = ", ".join(sorted(entries)) or "none"
        raise ConfigError(f"{path}: no {name!r} in {section} (there: {known})") from None


def _refuse_unsupported(path: Path, cluster: _Cluster, user: _User) -> None:
    refused = {"proxy-url": cluster.proxy_url, "auth-provider": user.auth_provider, "as": user.as_}
    for key, value in refused.items():
        if value:
            raise ConfigError(f"{path}: {key} is not supported")
    if urlsplit(cluster.server).scheme not in ("https", "http"):
        raise ConfigError(f"{path}: server {cluster.server!r} is no http(s) URL")
    if bool(user.client_certificate or user.client_certificate_data) != bool(user.client_key or user.client_key_data):
        raise ConfigError(f"{path}: client-certificate and client-key must be given together")


def _access(folder: Path, where: _Context, cluster: _Cluster, user: _User) -> Access:
    return Access(
        server=cluster.server.rstrip("/"),
        namespace=where.namespace or "default",
        ca=_material(folder, cluster.certificate_authority_data, cluster.certificate_authority),
        insecure=cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        certificate=_material(folder, user.client_certificate_data, user.client_certificate),
        key=_material(folder, user.client_key_data, user.client_key),
        token=user.token,
        token_file=folder / user.token_file if user.token_file else None,
        basic=(user.username, user.password or "") if user.username else None,
        plugin=_plugin(folder, user.exec) if user.exec else None,
    )


def _material(folder: Path, data: bytes | None, file: str | None) -> Material | None:
    if data:
        return data
    return folder / file if file else None


def _plugin(folder: Path, given: _Exec) -> ExecPlugin:
    relative = "/" in given.command and not os.path.isabs(given.command)
    return ExecPlugin(
        api_version=given.api_version,
        command=str(folder / given.command) if relative else given.command,
        arguments=tuple(given.args or ()),
        environment={variable.name: variable.value for variable in given.env or ()},
        wants_cluster=given.provide_cluster_info,
    )
