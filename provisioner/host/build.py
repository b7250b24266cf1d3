"""A node put together: its kinds of device in the order in which they are tried."""

from pathlib import Path

from provisioner.core.errors import InvalidRequest
from provisioner.core.single_flight import SingleFlight
from provisioner.host.clients import Clients
from provisioner.host.commands import Commands
from provisioner.host.devices.fuse import FuseDevices
from provisioner.host.devices.krbd import KrbdDevices
from provisioner.host.filesystem import FileSystems
from provisioner.host.luks import Luks
from provisioner.host.mounts import Mounts
from provisioner.host.node import Node
from provisioner.host.ports import Images, Kind


def host_node(
    images: Images,
    clients: Clients,
    run_directory: Path,
    flights: SingleFlight,
    mounter: str = "auto",
    read_affinity: str = "",
) -> Node:
    """The node of this machine; `mounter` is tried first for volumes that name none. Raises InvalidRequest."""
    commands = Commands()
    mounts = Mounts(commands)
    kinds: list[Kind] = [KrbdDevices(commands, _nearest(read_affinity)), FuseDevices(run_directory / "fuse", commands, mounts)]
    if mounter != "auto" and mounter not in [kind.name for kind in kinds]:
        raise InvalidRequest("--mounter", mounter, f"must be one of {', '.join(kind.name for kind in kinds)}, auto")
    kinds.sort(key=lambda kind: kind.name != mounter)
    return Node(images, clients, kinds, FileSystems(commands), Luks(commands), mounts, flights)


def _nearest(location: str) -> str:
    """Options to read from the replica that is nearest to a CRUSH location, `rack:a|host:b`."""
    return f"read_from_replica=localize,crush_location={location}" if location else ""
