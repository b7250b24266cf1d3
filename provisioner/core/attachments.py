"""Which nodes a volume is attached to, and how a node that lost it is kept from ever writing to it again.

The truth is one record on the image: node -> how it uses the volume, and the addresses of its Ceph clients. It changes by
compare-and-set, so that of two controllers one wins, whatever dies or stalls.

    attach         the record gains the node                         (controller)
    record_client  the node's entry gains a client, before its device is used; refused without an entry     (node)
    clear_client   ... and loses it, when the device is gone         (node)
    detach         clients still recorded or watching are fenced, that is verified, the record loses the node  (controller)
    lift_fences    a fence ends when the client instance that it is for has ended: only its node can know     (node)

A node that was cut off keeps its entry and its clients: detach fences them though they no longer watch, and may be
killed and repeated at any step, since the entry goes last. A client that is recorded while detach works changes the record,
so detach begins again and finds it.
"""

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from provisioner.core.errors import AlreadyExists, Conflict, Denied, InUse, InvalidRequest, LimitReached, NotFound, Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Volume
from provisioner.core.single_flight import SingleFlight
from provisioner.core.uses import Use, conflicting

_ROUNDS = 20
"""Times that another may change the record under one request before it lets its asker come again."""
_LONGEST_NODE = 256
"""Bytes of the longest node id (CSI spec, "Size limits")."""
_ADDRESS = re.compile(r"(?:v[12]:|any:)?((?:\[[0-9A-Fa-f:.]+\]|[0-9.]+):\d+/[1-9]\d*)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One node's entry: `clients` are the full addresses (`IP:0/nonce`) of Ceph clients that may have the image mapped."""

    use: Use
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attached:
    """A volume with its record; `stamp` is what the store compares when the record is replaced."""

    volume: Volume
    nodes: Mapping[str, Attachment]
    stamp: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it told of itself when its service started. `addresses` are IPs that its clients appear with."""

    id: str
    addresses: tuple[str, ...] = ()
    topology: Mapping[str, str] = field(default_factory=dict)
    seen: float = 0.0
    """Seconds since 1970."""
    max_volumes: int = 0
    """How many volumes it takes; 0 for any number."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A client that is kept out for good: of which node, for the sake of which volume, since when (seconds since 1970)."""

    address: str
    node: str
    volume: str
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Watcher:
    """A client that has an image open; `ours` for processes of this provisioner."""

    address: str
    ours: bool


class AttachmentStore(Protocol):
    """What the use cases need. Raises errors of `provisioner.core.errors` only."""

    def attached(self, volume: VolumeId, credentials: Credentials | None) -> Attached | None:
        """The volume and its record; None for what isn't a volume of ours, or is being deleted."""

    def replace(self, seen: Attached, nodes: Mapping[str, Attachment], credentials: Credentials | None) -> bool:
        """Put `nodes` in place of the record that was seen, in one step; False if it is no longer that record."""

    def watchers(self, seen: Attached, credentials: Credentials | None) -> list[Watcher]:
        """Who has the image open."""

    def fence(self, seen: Attached, fences: Sequence[Fence], credentials: Credentials | None) -> None:
        """Keep the clients out, and return when no OSD that holds data of the volume takes anything from them any more."""

    def fenced(self, cluster: str) -> Collection[str]:
        """Addresses of all clients that are kept out now."""

    def fences(self, cluster: str) -> list[Fence]:
        """The fences that `fence` set and `lift` has not ended."""

    def lift(self, cluster: str, fence: Fence) -> None:
        """End a fence; gone already is fine."""

    def enrol_node(self, cluster: str, node: Node) -> None:
        """Write a node down, or anew, with the address of this very process beside its own."""

    def forget_node(self, cluster: str, node: str) -> None:
        """Strike a node off; gone already is fine."""

    def nodes(self, cluster: str) -> list[Node]:
        """All nodes."""

    def node(self, cluster: str, node: str) -> Node | None:
        """One node; None if it is not known."""

    def count(self, volume: VolumeId, node: str) -> None:
        """Count the volume among those of the node: an index, for nodes with a limit; the truth is on the images."""

    def discount(self, volume: VolumeId, node: str) -> None:
        """Count the volume no longer; not counted is fine."""

    def counted(self, cluster: str, node: str) -> list[VolumeId]:
        """The volumes that are counted."""


class Attachments:
    """The use cases over one store. All are safe to repeat, to interrupt and to race."""

    def __init__(
        self, store: AttachmentStore, flights: SingleFlight | None = None, on_fence: Callable[[str], None] | None = None
    ) -> None:
        """`on_fence` hears the node of every client that was fenced, and the fence verified."""
        self._store = store
        self._flights = flights or SingleFlight()
        self._on_fence = on_fence

    def attach(self, volume: VolumeId, node: str, use: Use, credentials: Credentials | None = None) -> Volume:
        """Let the node use the volume so.

        Raises NotFound for a volume or a node that isn't there, InUse naming the node that has a volume which one node can
        have, AlreadyExists where this node has it for another use, LimitReached where it takes no more volumes.
        """
        identity = (use, credentials)
        return self._alone("attach", volume, node, identity, lambda: self._attach(volume, node, use, credentials))

    def detach(self, volume: VolumeId, node: str = "", credentials: Credentials | None = None) -> None:
        """Take the volume from the node ("": from all), after fencing what clients of it there still are.

        A volume or a node that isn't there is success. Raises Unavailable while a fence can't be verified.
        """
        self._alone("detach", volume, node, credentials, lambda: self._detach(volume, node, credentials))

    def record_client(self, volume: VolumeId, node: str, address: str, credentials: Credentials | None = None) -> None:
        """Note the address of the client that maps the volume on the node. To be called before the device is used.

        Raises NotFound if the volume is not attached to the node (any more): the device must go, unused. Conflict if the
        client is fenced, for whatever volume: all its devices must go before a new client can map anything.
        """
        client = client_address(address)
        if client in self._store.fenced(volume.place.cluster):
            raise Conflict(str(volume), f"client {client} of node {node} is fenced; its devices have to go first")
        self._change(volume, credentials, lambda seen: _with_client(seen, node, client))

    def clear_client(self, volume: VolumeId, node: str, address: str, credentials: Credentials | None = None) -> None:
        """Forget a client whose device is gone. Not recorded, not attached or no volume is success."""
        client = client_address(address)
        try:
            self._change(volume, credentials, lambda seen: _without_client(seen, node, client))
        except NotFound:
            return

    def leave(self, volume: VolumeId, node: str, credentials: Credentials | None = None) -> None:
        """Strike a node off that itself says it is done with the volume: nothing is fenced. Done already is success.

        Of a node with clients that are still recorded nothing is changed.
        """
        with suppress(NotFound):
            self._change(volume, credentials, lambda seen: _without_idle(seen, node))

    def has(self, volume: VolumeId, node: str, credentials: Credentials | None = None) -> bool:
        """Whether the volume is attached to the node."""
        seen = self._store.attached(volume, credentials)
        return seen is not None and node in seen.nodes

    def clients(self, volume: VolumeId, node: str, credentials: Credentials | None = None) -> tuple[str, ...]:
        """The clients that are recorded for a node. Raises NotFound if the volume is not attached there."""
        return _entry(self._seen(volume, credentials), node).clients

    def watching(self, volume: VolumeId, credentials: Credentials | None = None) -> list[str]:
        """Addresses of the clients, not ours, that have the image open: how a node finds the one that it just started."""
        seen = self._seen(volume, credentials)
        return [watcher.address for watcher in self._store.watchers(seen, credentials) if not watcher.ours]

    def enrol_node(self, cluster: str, node: Node) -> None:
        """Make a node known; it does so itself, at each start. Raises InvalidRequest for an id that CSI can't carry."""
        if not node.id or len(node.id.encode()) > _LONGEST_NODE:
            raise InvalidRequest("node_id", node.id, f"must have between 1 and {_LONGEST_NODE} bytes")
        self._store.enrol_node(cluster, node)

    def forget_node(self, cluster: str, node: str) -> None:
        """Strike a node off. What is attached there stays so until it is detached; fences stay."""
        self._store.forget_node(cluster, node)

    def nodes(self, cluster: str) -> list[Node]:
        """All nodes of a cluster."""
        return self._store.nodes(cluster)

    def fences(self, cluster: str, node: str) -> list[Fence]:
        """What of the node is fenced, and why."""
        return [fence for fence in self._store.fences(cluster) if fence.node == node]

    def lift_fences(self, cluster: str, node: str, living: Collection[str]) -> list[str]:
        """End the fences of the node's clients, but for those of the clients `living`; gives the addresses set free.

        To be called on the node, by who can list every client instance there is on it. A client that is left out though it
        lives would write over a volume that is another node's by now.
        """
        kept = {client_address(address) for address in living}
        gone = [fence for fence in self.fences(cluster, node) if fence.address not in kept]
        for fence in gone:
            self._store.lift(cluster, fence)
        return [fence.address for fence in gone]

    def _alone(self, kind: str, volume: VolumeId, node: str, identity: Hashable, work: Callable[[], T]) -> T:
        """One at a time for a volume on a node: nodes don't wait for each other."""
        return self._flights.run(kind, f"{volume} on node {node or '*'}", identity, work)

    def _attach(self, volume: VolumeId, node: str, use: Use, credentials: Credentials | None) -> Volume:
        seen, known = self._seen(volume, credentials), self._store.node(volume.place.cluster, node)
        if known is None:
            raise NotFound(f"node {node!r} in cluster {volume.place.cluster}")
        if known.max_volumes and node not in seen.nodes:
            _with_node(seen, node, use)
            self._count(volume, known)
        return self._change(volume, credentials, lambda seen: _with_node(seen, node, use))

    def _count(self, volume: VolumeId, node: Node) -> None:
        """Count the volume before it is attached. Raises LimitReached if the node has all that it takes.

        What a killed attach or detach left counted is found out where the limit seems to be reached.
        """
        cluster = volume.place.cluster
        self._store.count(volume, node.id)
        others = [each for each in self._store.counted(cluster, node.id) if each != volume]
        if len(others) < node.max_volumes:
            return
        for each in [each for each in others if not self._has(each, node.id)]:
            self._store.discount(each, node.id)
            others.remove(each)
        if len(others) >= node.max_volumes:
            self._store.discount(volume, node.id)
            raise LimitReached(f"volumes on node {node.id}", node.max_volumes)

    def _has(self, volume: VolumeId, node: str) -> bool:
        try:
            seen = self._store.attached(volume, None)
        except Denied:  # of a class with a user of its own: nobody here can say
            return True
        return seen is not None and node in seen.nodes

    def _detach(self, volume: VolumeId, node: str, credentials: Credentials | None) -> None:
        for seen in self._looks(volume, credentials):
            leaving = [each for each in seen.nodes if node in ("", each)]
            if not leaving:
                return
            for each in leaving:
                self._fence(seen, each, credentials)
            staying = {each: entry for each, entry in seen.nodes.items() if each not in leaving}
            if self._store.replace(seen, staying, credentials):
                for each in leaving:
                    self._store.discount(volume, each)
                return

    def _fence(self, seen: Attached, node: str, credentials: Credentials | None) -> None:
        volume = seen.volume.id
        clients = {*seen.nodes[node].clients, *self._watching_there(seen, node, credentials)}
        fences = [Fence(address, node, str(volume)) for address in sorted(clients)]
        if not fences:
            return
        self._store.fence(seen, fences, credentials)
        if self._on_fence is not None:
            for fence in fences:
                self._on_fence(fence.node)

    def _watching_there(self, seen: Attached, node: str, credentials: Credentials | None) -> set[str]:
        """Clients with the image open at an address of the node: not ours, nor recorded for another node.

        An address that another node with the volume shares (behind one router, say) tells nothing.
        """
        foreign = [watcher.address for watcher in self._store.watchers(seen, credentials) if not watcher.ours]
        others = seen.nodes.keys() - {node}
        elsewhere = {client for other in others for client in seen.nodes[other].clients}
        unexplained = set(foreign) - elsewhere
        if not unexplained:
            return set()
        cluster = seen.volume.id.place.cluster
        shared = {ip for other in others for ip in self._addresses(cluster, other)}
        return {client for client in unexplained if ip_of(client) in self._addresses(cluster, node) - shared}

    def _addresses(self, cluster: str, node: str) -> set[str]:
        known = self._store.node(cluster, node)
        return set(known.addresses) if known else set()

    def _change(
        self,
        volume: VolumeId,
        credentials: Credentials | None,
        change: Callable[[Attached], Mapping[str, Attachment]],
    ) -> Volume:
        for seen in self._looks(volume, credentials):
            changed = change(seen)
            if changed == seen.nodes or self._store.replace(seen, changed, credentials):
                return seen.volume
        raise NotFound(f"volume {volume}")

    def _looks(self, volume: VolumeId, credentials: Credentials | None) -> Iterator[Attached]:
        """The record as it is now, again each time that another changed it; ends where there is no volume."""
        for _ in range(_ROUNDS):
            seen = self._store.attached(volume, credentials)
            if seen is None:
                return
            yield seen
        raise Unavailable(f"the attachments of {volume} kept changing under {_ROUNDS} attempts")

    def _seen(self, volume: VolumeId, credentials: Credentials | None) -> Attached:
        seen = self._store.attached(volume, credentials)
        if seen is None:
            raise NotFound(f"volume {volume}")
        return seen


def client_address(text: str) -> str:
    """Read a client's full address as Ceph lists it. Raises InvalidRequest; without a nonce it would mean a whole host."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest("client", text, "must be the full address of one client, IP:PORT/NONCE")
    return found[1]


def ip_of(address: str) -> str:
    """The IP of a full address, without brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _with_node(seen: Attached, node: str, use: Use) -> Mapping[str, Attachment]:
    there = seen.nodes.get(node)
    if there is not None:
        _refuse_other_use(seen, node, there.use, use)
        return seen.nodes
    others = [f"node {other}" for other, entry in seen.nodes.items() if conflicting(use, entry.use)]
    if others:
        raise InUse(f"volume {seen.volume.id}", others)
    return {**seen.nodes, node: Attachment(use)}


def _refuse_other_use(seen: Attached, node: str, there: Use, asked: Use) -> None:
    pairs = [
        ("access mode", str(there.mode), str(asked.mode)),
        ("readonly", there.readonly, asked.readonly),
        ("block device", there.block, asked.block),
    ]
    differs = [f"{what} is {now!r}, asked for {wanted!r}" for what, now, wanted in pairs if now != wanted]
    if differs:
        raise AlreadyExists(f"the attachment of {seen.volume.id} to node {node}", differs)


def _entry(seen: Attached, node: str) -> Attachment:
    if node not in seen.nodes:
        raise NotFound(f"an attachment of {seen.volume.id} to node {node!r}")
    return seen.nodes[node]


def _with_client(seen: Attached, node: str, client: str) -> Mapping[str, Attachment]:
    entry = _entry(seen, node)
    if client in entry.clients:
        return seen.nodes
    return {**seen.nodes, node: replace(entry, clients=(*entry.clients, client))}


def _without_idle(seen: Attached, node: str) -> Mapping[str, Attachment]:
    if node not in seen.nodes or seen.nodes[node].clients:
        return seen.nodes
    return {other: entry for other, entry in seen.nodes.items() if other != node}


def _without_client(seen: Attached, node: str, client: str) -> Mapping[str, Attachment]:
    entry = _entry(seen, node)
    left = tuple(each for each in entry.clients if each != client)
    return {**seen.nodes, node: replace(entry, clients=left)}
