"""Which client is recorded for a node: its own, whoever else begins to use the image meanwhile. Takes no time."""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.core.attachments import Node as NodeEntry
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Opening
from provisioner.host import blocks
from provisioner.host.clients import Clients
from provisioner.host.ports import Attachment

VOLUME = VolumeId(Place("dev", "rbd"), "shared")
IMAGE = Opening(VOLUME, "fsid", "1a", 1 << 30, (), Credentials("u", "k"))
OURS, THEIRS = "10.0.0.1:0/1", "10.0.0.2:0/2"


@dataclass
class Watched:
    """What Ceph tells of one image: who watches it, and who is recorded for the node."""

    watchers: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    enrolled: list[NodeEntry] = field(default_factory=list)

    def clients(self, volume: VolumeId, node: str, credentials: Credentials | None = None) -> tuple[str, ...]:
        return tuple(self.recorded)

    def watching(self, volume: VolumeId, credentials: Credentials | None = None) -> list[str]:
        return list(self.watchers)

    def record_client(self, volume: VolumeId, node: str, address: str, credentials: Credentials | None = None) -> None:
        self.recorded.append(address)

    def enrol_node(self, cluster: str, node: NodeEntry) -> None:
        self.enrolled.append(node)


class Nameless:
    """A kind of device that can't name its client; others come while it attaches, at each of the first `crowded` times."""

    name = "nameless"

    def __init__(self, ceph: Watched, crowded: int) -> None:
        self._ceph, self._crowded, self.attached = ceph, crowded, 0

    def find(self, volume: VolumeId) -> Path | None:
        return Path("/dev/x") if any(each.startswith("10.0.0.1:") for each in self._ceph.watchers) else None

    def attach(self, attachment: Attachment) -> Path:
        self.attached += 1
        if self.attached <= self._crowded:
            self._ceph.watchers.append(f"{THEIRS}{self.attached}")
        if not attachment.read_only:
            self._ceph.watchers.append(f"{OURS}{self.attached}")
        return Path("/dev/x")

    def detach(self, volume: VolumeId) -> None:
        self._ceph.watchers = [each for each in self._ceph.watchers if not each.startswith("10.0.0.1:")]

    def let_go(self, volume: VolumeId) -> None:
        self._ceph.watchers.remove(f"{OURS}{self.attached}")

    def address(self, volume: VolumeId) -> str:
        return ""


@pytest.mark.parametrize("crowded", [0, 1, 2])
def test_another_nodes_client_that_comes_at_the_same_moment_is_not_taken_for_ours(crowded: int) -> None:
    ceph = Watched()
    kind = Nameless(ceph, crowded)
    Clients(ceph, "here").attach(kind, Attachment(IMAGE), None)  # type: ignore[arg-type]
    assert ceph.recorded == [f"{OURS}{crowded + 1}"]


def test_a_node_that_can_not_tell_its_client_does_not_use_the_device() -> None:
    ceph = Watched()
    kind = Nameless(ceph, 1000)
    with pytest.raises(Unavailable, match="which client"):
        Clients(ceph, "here").attach(kind, Attachment(IMAGE), None)  # type: ignore[arg-type]
    assert (ceph.recorded, kind.find(VOLUME)) == ([], None)


def test_a_reader_has_no_client_that_could_write_and_takes_nobodys() -> None:
    ceph = Watched()
    kind = Nameless(ceph, 1)
    Clients(ceph, "here").attach(kind, Attachment(IMAGE, read_only=True), None)  # type: ignore[arg-type]
    assert ceph.recorded == []


class Refusing(Watched):
    """The volume was taken from the node: nothing is recorded for it."""

    def record_client(self, volume: VolumeId, node: str, address: str, credentials: Credentials | None = None) -> None:
        raise NotFound(f"volume {volume} on node {node}")


@pytest.mark.parametrize("ceph", [Watched([f"{OURS}0"], [f"{OURS}0"]), Refusing([f"{OURS}0"], [f"{OURS}0"])])
def test_who_takes_a_lost_device_over_is_recorded_or_ended(ceph: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "is_read_only", lambda device: False)
    kind = Nameless(ceph, 0)
    refused = pytest.raises(NotFound) if isinstance(ceph, Refusing) else nullcontext()
    with refused:
        Clients(ceph, "here").take_over(kind, Attachment(IMAGE), None)  # type: ignore[arg-type]
    living = [] if isinstance(ceph, Refusing) else [f"{OURS}1"]
    assert (ceph.watchers[1:], ceph.recorded[1:]) == (living, living)


def test_a_device_is_not_taken_over_where_its_client_can_not_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "is_read_only", lambda device: False)
    ceph = Watched([f"{OURS}0"], [f"{OURS}0"])
    with pytest.raises(Unavailable, match="which client"):
        Clients(ceph, "here").take_over(Nameless(ceph, 1), Attachment(IMAGE), None)  # type: ignore[arg-type]
    assert (ceph.watchers, ceph.recorded) == ([f"{OURS}0", f"{THEIRS}1"], [f"{OURS}0"])


def test_a_node_tells_how_many_volumes_it_takes() -> None:
    ceph = Watched()
    clusters: Collection[str] = ["dev"]
    Clients(ceph, "here", max_volumes=7).enrol(clusters, {"zone": "z"})  # type: ignore[arg-type]
    assert [(node.id, node.max_volumes, node.topology) for node in ceph.enrolled] == [("here", 7, {"zone": "z"})]
