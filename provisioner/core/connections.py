"""Volumes that a node reaches through a connection which their store makes: exported to it, not opened by a key of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from provisioner.core.ids import VolumeId
from provisioner.core.model import Volume


@dataclass(frozen=True, slots=True)
class Connection:
    """How a node reaches the volume: `kind` is the protocol (`rbd`, `iscsi`, `fibre_channel`), `data` what it takes.

    `data` may hold a target's password: it never shows in a repr, a log or an error. `initiator` is whom it was made for.
    """

    kind: str
    data: Mapping[str, Any] = field(repr=False)
    initiator: str = ""


class Connector(Protocol):
    """What a store that exports its volumes offers beside `core.ports.VolumeStore`. Both are safe to repeat."""

    def connect(self, volume: Volume) -> Connection:
        """Export the volume. From now on no sweep may take it. What a refused step leaves is undone, the volume too."""

    def disconnect(self, volume: VolumeId) -> None:
        """Take the export back, and leave the volume; gone already is fine. InUse if somebody else has it attached."""
