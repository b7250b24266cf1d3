"""`rbd`: the kubelet's own plugin, up to 1.30. Cinder tells where and as whom, but not the key."""

from collections.abc import Callable, Sequence
from typing import Any

from provisioner.claims.classes import Class
from provisioner.claims.connections.kind import Authentication, Mounting, reference, refuse_encrypted
from provisioner.core.connections import Connection
from provisioner.core.errors import InvalidRequest, Unsupported
from provisioner.core.parameters import SecretRef

FindKey = Callable[[Sequence[str], str], str]
"""From monitors and a user to the user's key in the config file's cluster with these monitors; "" if there is none."""


class RbdKind:
    """The key comes from the config file, or the class names a Secret that holds it."""

    def __init__(self, find_key: FindKey) -> None:
        self._find_key = find_key

    def authentication(self, connection: Connection, storage_class: Class) -> Authentication | SecretRef | None:
        """Raises InvalidRequest where nobody knows the key."""
        refuse_encrypted(connection)
        if not connection.data.get("auth_enabled", True):
            return None
        if given := storage_class.parameters.given_user:
            return given.secret
        user, monitors = _user(connection), _monitors(connection)
        key = self._find_key(monitors, user)
        if not key:
            why = (
                f"the connection to {', '.join(monitors)} needs its key: add an entry with these monitors, user {user} and its "
                "keyring to `clusters` in the config file, or name a Secret by userSecretName in the StorageClass"
            )
            raise InvalidRequest("auth_username", user, why)
        return Authentication("kubernetes.io/rbd", {"key": key})

    def source(self, connection: Connection, secret: SecretRef | None, mounting: Mounting) -> dict[str, Any]:
        """Monitors as "host:port", pool, image, user and the Secret."""
        pool, slash, image = str(connection.data.get("name", "")).partition("/")
        if not slash or not pool or not image or "/" in image:
            raise Unsupported(f"a connection of type 'rbd' to {connection.data.get('name')!r}: it is not POOL/IMAGE")
        source = {"monitors": _monitors(connection), "pool": pool, "image": image, "user": _user(connection)}
        return {"rbd": {**source, **({"secretRef": reference(secret)} if secret else {}), **mounting.fields()}}


def _user(connection: Connection) -> str:
    return str(connection.data.get("auth_username") or "admin")


def _monitors(connection: Connection) -> list[str]:
    hosts, ports = (list(connection.data.get(name) or []) for name in ("hosts", "ports"))
    if not hosts or len(hosts) != len(ports):
        raise Unsupported(f"a connection of type 'rbd' with {len(hosts)} hosts and {len(ports)} ports names no monitors")
    bare = [str(host).strip("[]") for host in hosts]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in zip(bare, ports, strict=True)]
