"""Errands on one volume at once, over a record in memory: what another has, be it a node or an errand, is left alone. No time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.core.attachments import Attachments
from provisioner.core.errors import InUse
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Opening
from provisioner.core.uses import Mode, Use
from provisioner.host.errand import Errand
from provisioner.host.ports import Attachment
from tests.unit.core.test_attachments import A1, B1, ID, WRITER, Store

IMAGE = Opening(ID, "fsid", "1a2b3c", 1 << 30, (), Credentials("u", "k"))


@dataclass
class Kernel:
    """A machine's devices: of one volume at most, and the client that shows it."""

    client: str
    device: Path | None = None
    before: Callable[[], None] = lambda: None

    def find(self, volume: VolumeId) -> Path | None:
        return self.device

    def address(self, volume: VolumeId) -> str:
        return self.client if self.device else ""

    def apart(self, attachment: Attachment) -> Attachment:
        return attachment

    def attach(self, attachment: Attachment) -> Path:
        self.before()
        self.device = Path("/dev/rbd0")
        return self.device

    def detach(self, volume: VolumeId) -> None:
        self.device = None


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def errand(store: Store) -> Errand:
    return Errand(Attachments(store), "rotate-key")


def test_an_errand_leaves_neither_device_nor_record(store: Store, errand: Errand) -> None:
    kernel = Kernel(A1)
    with errand.device(kernel, IMAGE) as device:
        assert (device, [entry.clients for entry in store.record.values()]) == (Path("/dev/rbd0"), [(A1,)])
    assert (kernel.device, store.record, set(store.known)) == (None, {}, {"a", "b"})


def test_the_device_of_a_node_that_got_the_volume_first_stays(store: Store, errand: Errand) -> None:
    Attachments(store).attach(ID, "a", WRITER)
    kernel = Kernel(A1, Path("/dev/rbd0"))
    with pytest.raises(InUse, match="node a"), errand.device(kernel, IMAGE):
        pytest.fail("it has the volume")
    assert (kernel.device, set(store.record), set(store.known)) == (Path("/dev/rbd0"), {"a"}, {"a", "b"})


def test_of_two_errands_at_once_on_two_machines_the_later_does_nothing(store: Store, errand: Errand) -> None:
    with errand.device(Kernel(A1), IMAGE):
        later = Kernel(B1)
        with pytest.raises(InUse, match=A1), errand.device(later, IMAGE):
            pytest.fail("both write")
        assert [entry.clients for entry in store.record.values()] == [(A1,)]
    assert store.record == {}


def test_of_two_errands_that_begin_at_the_same_moment_the_later_does_nothing(store: Store, errand: Errand) -> None:
    def record_another() -> None:
        (node,) = store.record
        Attachments(store).record_client(ID, node, A1)

    later = Kernel(B1, before=record_another)
    with pytest.raises(InUse, match=A1), errand.device(later, IMAGE):
        pytest.fail("both write")
    assert (later.device, [entry.clients for entry in store.record.values()]) == (None, [(A1,)])


def test_an_errand_that_was_taken_for_dead_leaves_its_successors_record(store: Store, errand: Errand) -> None:
    with errand.device(Kernel(A1), IMAGE):
        errand.end(ID, [])
        (node,) = store.known.keys() - {"a", "b"}
        Attachments(store).attach(ID, node, Use(Mode.SINGLE_NODE_SINGLE_WRITER, block=True))
        Attachments(store).record_client(ID, node, B1)
    assert [entry.clients for entry in store.record.values()] == [(B1,)]
    assert (A1 in store.noted, node in store.known) == (True, True)
