"""What of attachments lies in Ceph: the record on an image, the list of nodes, the list of fences.

ceph-provisioner.attachments   metadata of the image, JSON: {image_id, nodes: {node: {mode, readonly, block, clients}}}; one with
                               another image's id was inherited through a clone and counts as none
ceph-provisioner.nodes         an object in the home place: node id -> {addresses, topology, seen}
ceph-provisioner.fences        an object in the home place: client address -> {node, volume, since}. Written before the fence is
                               set, so that a killed process leaves no fence that nobody knows of
ceph-provisioner.attached      an object in the home place: an empty entry for each volume on a node that takes a limited number
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import msgspec
import rbd

from provisioner.ceph import fences, headers, marks, names
from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import explained
from provisioner.ceph.headers import Header
from provisioner.ceph.ledger import Ledger
from provisioner.ceph.places import Places, Room
from provisioner.ceph.registry import Standing
from provisioner.core.attachments import Attached, Attachment, Fence, Node, Watcher, ip_of
from provisioner.core.errors import Conflict, InvalidRequest
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Volume
from provisioner.core.uses import Mode, Use

NODES = "ceph-provisioner.nodes"
FENCES = "ceph-provisioner.fences"
ATTACHED = "ceph-provisioner.attached"
_SEPARATOR = "\x1f"

V = TypeVar("V")


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    mode: Mode
    readonly: bool = False
    block: bool = False
    clients: tuple[str, ...] = ()


class _Record(msgspec.Struct, frozen=True):
    image_id: str
    nodes: dict[str, _Entry]


class _Node(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...] = ()
    topology: dict[str, str] = {}
    seen: float = 0.0
    max_volumes: int = 0


class _Fence(msgspec.Struct, frozen=True):
    node: str
    volume: str
    since: float = 0.0


class CephAttachments:
    """Implements `core.attachments.AttachmentStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._nodes, self._fences = Ledger(places, NODES), Ledger(places, FENCES)
        self._attached = Ledger(places, ATTACHED)

    def attached(self, volume: VolumeId, credentials: Credentials | None) -> Attached | None:
        """The volume and its record, in two reads, or three where more is on the header than one read gives."""
        try:
            header = self._header(volume, credentials)
        except InvalidRequest as error:
            if error.field != "pool":
                raise
            return None
        if header is None or marks.is_leaving(header) or not marks.is_ours(header):
            return None
        stamp = {key: header.metadata.get(key, "") for key in (marks.ATTACHMENTS, marks.DELETING, marks.TOMBSTONE)}
        return Attached(marks.read_volume(volume, header), _nodes_in(volume, header), stamp)

    def replace(self, seen: Attached, nodes: Mapping[str, Attachment], credentials: Credentials | None) -> bool:
        """Put another record on the image if it bears the one that was seen, and is not being deleted."""
        volume = seen.volume
        with self._places.at(volume.id.place, credentials) as (_, pool), explained(f"changing the attachments of {volume.id}"):
            if nodes:
                written = {marks.ATTACHMENTS: _encoded(volume.image_id, nodes), **marks.turn()}
                return headers.change_metadata(pool, volume.image_id, written, expected=seen.stamp)
            return headers.change_metadata(pool, volume.image_id, {}, [marks.ATTACHMENTS], seen.stamp)

    def watchers(self, seen: Attached, credentials: Credentials | None) -> list[Watcher]:
        """Who has the image open, by exact client id."""
        volume = seen.volume
        with self._places.enrolled(volume.id.place, credentials) as room, explained(f"looking who uses {volume.id}"):
            return _watchers(room, volume.image_id)

    def fence(self, seen: Attached, fences_: Sequence[Fence], credentials: Credentials | None) -> None:
        """Fence clients of a volume for good, verified with the monitors and every placement group of its pools."""
        volume, addresses = seen.volume, [each.address for each in fences_]
        place = volume.id.place
        self._note(place.cluster, fences_)
        with self._places.at(place, credentials) as (connection, pool), explained(f"fencing clients of {volume.id}"):
            fences.fence(connection, addresses, lambda address: self._fences.alone(place.cluster, address))
            self._wait_for_osds(connection, volume)
            fences.release_locks(pool, volume.image_id, addresses)

    def fenced(self, cluster: str) -> Collection[str]:
        """Addresses of all fenced clients."""
        with self._places.clusters.connection(cluster) as connection:
            return connection.fenced()

    def fences(self, cluster: str) -> list[Fence]:
        """The fences of ours."""
        found = ((key, _decoded(raw, _Fence)) for key, raw in self._fences.entries(cluster).items())
        return [Fence(key, entry.node, entry.volume, entry.since) for key, entry in found if entry is not None]

    def lift(self, cluster: str, fence: Fence) -> None:
        """Take the client off Ceph's list, then off ours."""
        with self._places.clusters.connection(cluster) as connection:
            connection.unfence(fence.address)
        self._fences.drop(cluster, fence.address)

    def enrol_node(self, cluster: str, node: Node) -> None:
        """Write the node down; the IP that this process's connection has is one of its addresses."""
        with self._places.clusters.connection(cluster) as connection:
            own = ip_of(connection.address)
        addresses = tuple(sorted({*node.addresses, own}))
        entry = _Node(addresses, dict(node.topology), node.seen or time.time(), node.max_volumes)
        self._nodes.put(cluster, node.id, msgspec.json.encode(entry, order="sorted"))

    def forget_node(self, cluster: str, node: str) -> None:
        """Strike the node off."""
        self._nodes.drop(cluster, node)

    def nodes(self, cluster: str) -> list[Node]:
        """All nodes, in order of their ids."""
        found = (_node(key, raw) for key, raw in self._nodes.entries(cluster).items())
        return [node for node in found if node is not None]

    def node(self, cluster: str, node: str) -> Node | None:
        """One node."""
        raw = self._nodes.get(cluster, node)
        return _node(node, raw) if raw is not None else None

    def count(self, volume: VolumeId, node: str) -> None:
        """Note the volume among those of the node."""
        self._attached.put(volume.place.cluster, _key(volume, node), b"{}")

    def discount(self, volume: VolumeId, node: str) -> None:
        """Strike the volume off."""
        self._attached.drop(volume.place.cluster, _key(volume, node))

    def counted(self, cluster: str, node: str) -> list[VolumeId]:
        """The volumes noted for the node."""
        pairs = (key.rsplit(_SEPARATOR, 1) for key in self._attached.entries(cluster) if _SEPARATOR in key)
        return [VolumeId.parse(volume) for name, volume in pairs if name == node]

    def _header(self, volume: VolumeId, credentials: Credentials | None) -> Header | None:
        with self._places.at(volume.place, credentials) as (_, pool), explained(f"looking up the attachments of {volume}"):
            image_id = names.read_id(pool, volume.image)
            return marks.read_header(pool, image_id) if image_id is not None else None

    def _wait_for_osds(self, connection: Connection, volume: Volume) -> None:
        place = volume.id.place
        fences.barrier(connection, place)
        if volume.data_pool:
            fences.barrier(connection, Place(place.cluster, volume.data_pool, place.namespace))

    def _note(self, cluster: str, fences_: Sequence[Fence]) -> None:
        for fence in fences_:
            entry = _Fence(fence.node, fence.volume, fence.since or time.time())
            self._fences.put(cluster, fence.address, msgspec.json.encode(entry))


def _key(volume: VolumeId, node: str) -> str:
    return f"{node}{_SEPARATOR}{volume}"


def _watchers(room: Room, image_id: str) -> list[Watcher]:
    try:
        with rbd.Image(room.pool, image_id=image_id, read_only=True) as image:
            listed = list(image.watchers_list())
    except rbd.ImageNotFound:
        return []
    return [Watcher(watcher["addr"], room.registry.judge(room.pool, watcher["id"]) is not Standing.FOREIGN) for watcher in listed]


def _nodes_in(volume: VolumeId, header: Header) -> dict[str, Attachment]:
    raw = header.metadata.get(marks.ATTACHMENTS, "")
    record = _decoded(raw.encode(), _Record) if raw else _Record(header.image_id, {})
    if record is None:
        raise Conflict(str(volume), f"its metadata {marks.ATTACHMENTS} can't be read; if no node uses it, remove that key")
    if record.image_id != header.image_id:
        return {}
    return {node: Attachment(Use(entry.mode, entry.readonly, entry.block), entry.clients) for node, entry in record.nodes.items()}


def _encoded(image_id: str, nodes: Mapping[str, Attachment]) -> str:
    entries = {
        node: {"mode": entry.use.mode, "readonly": entry.use.readonly, "block": entry.use.block, "clients": entry.clients}
        for node, entry in nodes.items()
    }
    return json.dumps({"image_id": image_id, "nodes": entries}, sort_keys=True)  # ASCII, as comparisons need


def _node(key: str, raw: bytes) -> Node | None:
    entry = _decoded(raw, _Node)
    return None if entry is None else Node(key, entry.addresses, entry.topology, entry.seen, entry.max_volumes)


def _decoded(raw: bytes, kind: type[V]) -> V | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
