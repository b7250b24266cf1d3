"""What every kind of connection does: build the part of a PersistentVolume that a kubelet reads, and say what it logs in with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from provisioner.claims.classes import Class
from provisioner.core.connections import Connection
from provisioner.core.errors import Unsupported
from provisioner.core.parameters import SecretRef


@dataclass(frozen=True, slots=True)
class Authentication:
    """The contents of a Secret to be made: the type that the kubelet's plugin insists on, and its text by key."""

    type: str
    data: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Mounting:
    """What does not depend on the kind: the file system ("" for a block volume), and whether it is only read."""

    fs_type: str
    read_only: bool

    def fields(self) -> dict[str, Any]:
        """As every in-tree source spells them."""
        return {"readOnly": self.read_only, **({"fsType": self.fs_type} if self.fs_type else {})}


class Kind(Protocol):
    """One `driver_volume_type`. Errors are the core's, and name what in the connection can't be used."""

    def authentication(self, connection: Connection, storage_class: Class) -> Authentication | SecretRef | None:
        """What nodes log in with: a Secret to be made, one that the class names, or nothing."""

    def source(self, connection: Connection, secret: SecretRef | None, mounting: Mounting) -> dict[str, Any]:
        """The fields to merge into the PersistentVolume's `spec`."""


def reference(secret: SecretRef) -> dict[str, str]:
    """A Secret as a PersistentVolume names it."""
    return {"namespace": secret.namespace, "name": secret.name}


def refuse_encrypted(connection: Connection) -> None:
    """Raise Unsupported for a volume that Cinder expects its client to decrypt: no kubelet does."""
    if connection.data.get("encrypted"):
        raise Unsupported(f"a connection of type {connection.kind!r} to an encrypted volume: no kubelet decrypts it")
