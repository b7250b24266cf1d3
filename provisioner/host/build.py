"""A node put together: its kinds of device in the order in which they are tried."""

from pathlib import Path

from provisioner.core.attachments import Attachments
from provisioner.core.errors import InvalidRequest
from provisioner.core.keys import VolumeKeys
from provisioner.core.single_flight import SingleFlight
from provisioner.host.clients import Clients
from provisioner.host.commands import Commands
from provisioner.host.devices.fuse import FuseDevices
from provisioner.host.devices.krbd import KrbdDevices
from provisioner.host.devices.nbd import NbdDevices
from provisioner.host.errand import Errand
from provisioner.host.filesystem import FileSystems
from provisioner.host.locality import Locality
from provisioner.host.luks import Luks
from provisioner.host.mounts import Mounts
from provisioner.host.node import Node
from provisioner.host.ports import Images, Keys, Kind
from provisioner.host.rotation import Rotation, Users


def host_node(
    images: Images,
    clients: Clients,
    run_directory: Path,
    flights: SingleFlight,
    keys: Keys,
    mounter: str = "auto",
    locality: Locality | None = None,
) -> Node:
    """The node of this machine; `mounter` is tried first for volumes that name none. Raises InvalidRequest."""
    commands = Commands()
    mounts = Mounts(commands)
    kinds = _kinds(commands, mounts, run_directory, mounter, locality or Locality())
    return Node(images, clients, kinds, FileSystems(commands), Luks(commands), mounts, flights, keys)


def key_rotation(
    images: Users, keys: VolumeKeys, attachments: Attachments, run_directory: Path, mounter: str = "auto"
) -> Rotation:
    """What gives volumes of this machine other keys. Raises InvalidRequest."""
    commands = Commands()
    kinds = _kinds(commands, Mounts(commands), run_directory, mounter, Locality())
    return Rotation(images, keys, kinds, Luks(commands), Errand(attachments, "rotate-key"))


def _kinds(commands: Commands, mounts: Mounts, run_directory: Path, mounter: str, locality: Locality) -> list[Kind]:
    kernel, files = KrbdDevices(commands, locality.options), FuseDevices(run_directory / "fuse", commands, mounts)
    kinds: list[Kind] = [kernel, NbdDevices(commands, mounts), files]
    if mounter != "auto" and mounter not in [kind.name for kind in kinds]:
        raise InvalidRequest("--mounter", mounter, f"must be one of {', '.join(kind.name for kind in kinds)}, auto")
    return sorted(kinds, key=lambda kind: kind.name != mounter)
