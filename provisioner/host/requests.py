"""What is asked of a node, in its own words: front ends fill these in."""

from dataclasses import dataclass

from provisioner.core.encryption import Encryption
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials
from provisioner.host.filesystem import Wanted


@dataclass(frozen=True, slots=True)
class Stage:
    """Have a volume ready on this node: attached, and unless it is a block volume, mounted at `path`."""

    volume: VolumeId
    path: str
    file_system: Wanted | None
    """None for a block volume."""
    flags: tuple[str, ...] = ()
    read_only: bool = False
    mounter: str = ""
    """The kind of device, "" for the first that this host has."""
    map_options: str = ""
    unmap_options: str = ""
    credentials: Credentials | None = None
    encryption: Encryption | None = None
    recorded: bool = False
    """Whether the controller attached it to this node, so that its client has to be recorded."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Have a staged volume show up at `target`, as a directory or, for a block volume, as a device."""

    volume: VolumeId
    staging: str
    target: str
    block: bool
    read_only: bool = False
    alone: bool = False
    """Nobody else on this node may have it published."""
