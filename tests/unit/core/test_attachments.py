"""Attaching and detaching over a store in memory, in which others interfere at any step. Under a second."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import pytest

from provisioner.core.attachments import (
    Attached,
    Attachment,
    Attachments,
    Fence,
    Node,
    Watcher,
    client_address,
    ip_of,
)
from provisioner.core.errors import AlreadyExists, Conflict, InUse, InvalidRequest, LimitReached, NotFound, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Volume
from provisioner.core.uses import Mode, Use, conflicting

ID = VolumeId(Place("dev", "rbd"), "pvc-1")
VOLUME = Volume(ID, "1a2b3c", "pvc-1", 1 << 30, {}, {}, "")
WRITER = Use(Mode.SINGLE_NODE_WRITER)
SHARED = Use(Mode.MULTI_NODE_MULTI_WRITER, block=True)
A1, A2, B1 = "10.0.0.1:0/11", "10.0.0.1:0/12", "10.0.0.2:0/21"


class Store:
    """One volume, two nodes; tells in which order it was asked."""

    def __init__(self) -> None:
        self.there = True
        self.record: dict[str, Attachment] = {}
        self.version = 0
        self.known = {"a": Node("a", ("10.0.0.1",)), "b": Node("b", ("10.0.0.2",))}
        self.open: list[Watcher] = []
        self.noted: dict[str, Fence] = {}
        self.steps: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.noted_volumes: list[tuple[VolumeId, str]] = []

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self.before.pop(name, lambda: None)()

    def change(self, **nodes: Attachment | None) -> None:
        self.record = {key: entry for key, entry in {**self.record, **nodes}.items() if entry is not None}
        self.version += 1

    def attached(self, volume: VolumeId, credentials: Credentials | None) -> Attached | None:
        found = Attached(VOLUME, dict(self.record), {"v": str(self.version)}) if self.there and volume == ID else None
        self._step("look")
        return found

    def replace(self, seen: Attached, nodes: Mapping[str, Attachment], credentials: Credentials | None) -> bool:
        self._step("replace")
        if seen.stamp != {"v": str(self.version)}:
            return False
        self.record, self.version = dict(nodes), self.version + 1
        return True

    def watchers(self, seen: Attached, credentials: Credentials | None) -> list[Watcher]:
        self._step("watchers")
        return list(self.open)

    def fence(self, seen: Attached, fences: Sequence[Fence], credentials: Credentials | None) -> None:
        self._step("fence")
        self.noted |= {fence.address: fence for fence in fences}

    def fenced(self, cluster: str) -> set[str]:
        return set(self.noted)

    def fences(self, cluster: str) -> list[Fence]:
        return list(self.noted.values())

    def lift(self, cluster: str, fence: Fence) -> None:
        del self.noted[fence.address]

    def enrol_node(self, cluster: str, node: Node) -> None:
        self.known[node.id] = node

    def forget_node(self, cluster: str, node: str) -> None:
        self.known.pop(node, None)

    def nodes(self, cluster: str) -> list[Node]:
        return list(self.known.values())

    def node(self, cluster: str, node: str) -> Node | None:
        return self.known.get(node)

    def count(self, volume: VolumeId, node: str) -> None:
        self.noted_volumes.append((volume, node))

    def discount(self, volume: VolumeId, node: str) -> None:
        if (volume, node) in self.noted_volumes:
            self.noted_volumes.remove((volume, node))

    def counted(self, cluster: str, node: str) -> list[VolumeId]:
        return [volume for volume, where in self.noted_volumes if where == node]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def attachments(store: Store) -> Attachments:
    return Attachments(store)


# --- attach ---


def test_a_repeat_is_success_and_writes_nothing(store: Store, attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    assert attachments.attach(ID, "a", WRITER) == VOLUME
    assert store.steps.count("replace") == 1


def test_a_volume_for_one_node_is_refused_to_a_second_by_the_name_of_the_first(attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    with pytest.raises(InUse, match="node a"):
        attachments.attach(ID, "b", WRITER)


@pytest.mark.parametrize(
    ("asked", "differs"),
    [
        (Use(Mode.SINGLE_NODE_WRITER, readonly=True), "readonly"),
        (Use(Mode.SINGLE_NODE_WRITER, block=True), "block"),
        (Use(Mode.MULTI_NODE_MULTI_WRITER), "multi-node-multi-writer"),
    ],
)
def test_another_use_on_the_same_node_is_told_what_differs(attachments: Attachments, asked: Use, differs: str) -> None:
    attachments.attach(ID, "a", WRITER)
    with pytest.raises(AlreadyExists, match=differs):
        attachments.attach(ID, "a", asked)


def test_of_two_nodes_at_once_one_is_refused(store: Store, attachments: Attachments) -> None:
    store.before["replace"] = lambda: store.change(b=Attachment(WRITER))
    with pytest.raises(InUse, match="node b"):
        attachments.attach(ID, "a", WRITER)
    assert set(store.record) == {"b"}


def test_many_nodes_that_may_share_it_all_get_it_at_once(store: Store, attachments: Attachments) -> None:
    store.before["replace"] = lambda: store.change(b=Attachment(SHARED))
    attachments.attach(ID, "a", SHARED)
    assert set(store.record) == {"a", "b"}


def test_a_node_that_is_not_enrolled_is_not_found(attachments: Attachments) -> None:
    with pytest.raises(NotFound, match="node 'c'"):
        attachments.attach(ID, "c", WRITER)


def test_a_volume_that_is_not_there_is_not_found(store: Store, attachments: Attachments) -> None:
    store.there = False
    with pytest.raises(NotFound, match="pvc-1"):
        attachments.attach(ID, "a", WRITER)


def test_a_record_that_never_rests_is_unavailable_in_the_end(store: Store, attachments: Attachments) -> None:
    class Restless(Store):
        def replace(self, seen: Attached, nodes: Mapping[str, Attachment], credentials: Credentials | None) -> bool:
            return False

    with pytest.raises(Unavailable):
        Attachments(Restless()).attach(ID, "a", WRITER)


def _writers_and_readers(uses: tuple[Use, Use]) -> tuple[int, int]:
    return sum(use.writes for use in uses), sum(use.mode.reads_only for use in uses)


@pytest.mark.parametrize("modes", list(product(Mode, Mode)))
@pytest.mark.parametrize("readonly", list(product((False, True), (False, True))))
def test_two_nodes_share_a_volume_only_where_neither_can_harm_the_other(
    modes: tuple[Mode, Mode], readonly: tuple[bool, bool]
) -> None:
    uses = (Use(modes[0], readonly[0]), Use(modes[1], readonly[1]))
    writers, readers = _writers_and_readers(uses)
    one_node = not all(mode.many_nodes for mode in modes)
    two_writers_for_one = writers == 2 and Mode.MULTI_NODE_SINGLE_WRITER in modes
    changing_under_a_reader = readers > 0 and writers > 0
    assert conflicting(*uses) == (one_node or two_writers_for_one or changing_under_a_reader)


# --- a node's limit ---


class Many(Store):
    """Any number of volumes: `elsewhere` are on node a, besides the one that there always is."""

    def __init__(self, *elsewhere: VolumeId) -> None:
        super().__init__()
        self.known["a"] = Node("a", ("10.0.0.1",), max_volumes=2)
        self.noted_volumes = [(volume, "a") for volume in elsewhere]
        self.elsewhere = list(elsewhere)

    def attached(self, volume: VolumeId, credentials: Credentials | None) -> Attached | None:
        if volume == ID:
            return super().attached(volume, credentials)
        return Attached(VOLUME, {"a": Attachment(WRITER)} if volume in self.elsewhere else {}, {})


FIRST, SECOND = (VolumeId(Place("dev", "rbd"), name) for name in ("pvc-8", "pvc-9"))


def test_a_node_that_takes_two_volumes_gets_no_third() -> None:
    store = Many(FIRST, SECOND)
    with pytest.raises(LimitReached, match="the limit is 2"):
        Attachments(store).attach(ID, "a", WRITER)
    assert store.record == {}
    assert store.counted("dev", "a") == [FIRST, SECOND]


def test_what_was_only_left_counted_takes_no_place() -> None:
    store = Many(FIRST, SECOND)
    store.elsewhere = [SECOND]
    Attachments(store).attach(ID, "a", WRITER)
    assert store.counted("dev", "a") == [SECOND, ID]


def test_what_it_has_already_and_what_left_it_count_for_nothing() -> None:
    store = Many(FIRST)
    attachments = Attachments(store)
    attachments.attach(ID, "a", WRITER)
    attachments.attach(ID, "a", WRITER)
    attachments.detach(ID, "a")
    assert store.counted("dev", "a") == [FIRST]


def test_what_is_refused_for_another_reason_is_not_counted() -> None:
    store = Many()
    store.change(b=Attachment(WRITER))
    with pytest.raises(InUse):
        Attachments(store).attach(ID, "a", WRITER)
    assert store.counted("dev", "a") == []


# --- clients ---


def test_a_client_is_recorded_once_and_cleared(store: Store, attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    attachments.record_client(ID, "a", A1)
    attachments.record_client(ID, "a", f"v1:{A1}")
    assert attachments.clients(ID, "a") == (A1,)
    attachments.clear_client(ID, "a", A1)
    attachments.clear_client(ID, "a", A1)
    assert attachments.clients(ID, "a") == ()


def test_without_an_attachment_no_client_is_recorded(attachments: Attachments) -> None:
    with pytest.raises(NotFound, match="node 'a'"):
        attachments.record_client(ID, "a", A1)


def test_a_fenced_client_is_not_recorded_for_any_volume(store: Store, attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    store.noted[A1] = Fence(A1, "a", "dev/rbd/other")
    with pytest.raises(Conflict, match="fenced"):
        attachments.record_client(ID, "a", A1)


def test_clearing_where_nothing_is_is_success(store: Store, attachments: Attachments) -> None:
    attachments.clear_client(ID, "a", A1)
    store.there = False
    attachments.clear_client(ID, "a", A1)


@pytest.mark.parametrize("address", ["", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:0/0", "worker-1:0/5", "10.0.0.1:0/5 rm", "any:0/5"])
def test_what_is_not_the_address_of_one_client_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest):
        client_address(address)


@pytest.mark.parametrize(
    ("address", "ip"), [("10.0.0.1:0/5", "10.0.0.1"), ("[fd00::1]:0/5", "fd00::1"), ("v2:[fd00::1]:6800/77", "fd00::1")]
)
def test_the_ip_of_a_client(address: str, ip: str) -> None:
    assert ip_of(client_address(address)) == ip


# --- detach ---


def test_a_clean_detach_fences_nobody(store: Store, attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    attachments.record_client(ID, "a", A1)
    attachments.clear_client(ID, "a", A1)
    attachments.detach(ID, "a")
    assert (store.record, store.noted) == ({}, {})


def test_the_fence_comes_before_the_record_lets_go(store: Store, attachments: Attachments) -> None:
    store.change(a=Attachment(WRITER, (A1,)))
    attachments.detach(ID, "a")
    assert store.steps[-2:] == ["fence", "replace"]
    assert store.noted == {A1: Fence(A1, "a", str(ID))}


def test_a_client_that_watches_at_an_address_of_the_node_is_fenced_though_not_recorded(
    store: Store, attachments: Attachments
) -> None:
    store.change(a=Attachment(WRITER, (A1,)))
    store.open = [Watcher(A2, ours=False)]
    attachments.detach(ID, "a")
    assert set(store.noted) == {A1, A2}


def test_nobody_else_is_fenced(store: Store, attachments: Attachments) -> None:
    ours, stranger, unrecorded = "10.0.0.1:0/99", "10.0.0.9:0/91", "10.0.0.2:0/22"
    store.change(a=Attachment(SHARED, (A1,)), b=Attachment(SHARED, (B1,)))
    store.open = [Watcher(ours, ours=True), *(Watcher(each, ours=False) for each in (B1, stranger, unrecorded))]
    attachments.detach(ID, "a")
    assert set(store.noted) == {A1}
    assert set(store.record) == {"b"}


def test_an_address_that_two_nodes_share_accuses_neither(store: Store, attachments: Attachments) -> None:
    store.known = {name: Node(name, ("10.0.0.1",)) for name in "ab"}
    store.change(a=Attachment(SHARED), b=Attachment(SHARED))
    store.open = [Watcher(A1, ours=False)]
    attachments.detach(ID, "a")
    assert not store.noted


def test_a_client_recorded_while_detach_works_is_fenced_too(store: Store, attachments: Attachments) -> None:
    store.change(a=Attachment(WRITER, (A1,)))
    store.before["replace"] = lambda: store.change(a=Attachment(WRITER, (A1, A2)))
    attachments.detach(ID, "a")
    assert set(store.noted) == {A1, A2}
    assert store.record == {}


def test_while_the_fence_can_not_be_had_the_node_keeps_the_volume(store: Store, attachments: Attachments) -> None:
    store.change(a=Attachment(WRITER, (A1,)))

    def fail() -> None:
        raise Unavailable("no answer")

    store.before["fence"] = fail
    with pytest.raises(Unavailable):
        attachments.detach(ID, "a")
    with pytest.raises(InUse):
        attachments.attach(ID, "b", WRITER)
    attachments.detach(ID, "a")
    attachments.attach(ID, "b", WRITER)


def test_without_a_node_it_is_taken_from_all(store: Store, attachments: Attachments) -> None:
    store.change(a=Attachment(SHARED, (A1,)), b=Attachment(SHARED, (B1,)))
    attachments.detach(ID)
    assert (set(store.noted), store.record) == ({A1, B1}, {})


def test_where_nothing_is_attached_detach_is_success(store: Store, attachments: Attachments) -> None:
    attachments.detach(ID, "a")
    attachments.detach(ID, "c")
    store.there = False
    attachments.detach(ID, "a")
    assert "replace" not in store.steps


def test_a_node_struck_off_the_list_is_fenced_by_what_it_recorded(store: Store, attachments: Attachments) -> None:
    store.change(a=Attachment(WRITER, (A1,)))
    attachments.forget_node("dev", "a")
    attachments.detach(ID, "a")
    assert set(store.noted) == {A1}


def test_every_fence_is_told_with_its_node(store: Store) -> None:
    told: list[str] = []
    store.change(a=Attachment(WRITER, (A1, A2)))
    Attachments(store, on_fence=told.append).detach(ID, "a")
    assert told == ["a", "a"]


# --- fences ---


def test_a_fence_ends_only_with_its_client_and_only_for_its_own_node(store: Store, attachments: Attachments) -> None:
    store.noted = {address: Fence(address, node, str(ID)) for address, node in ((A1, "a"), (A2, "a"), (B1, "b"))}
    assert attachments.lift_fences("dev", "a", [f"v1:{A2}"]) == [A1]
    assert set(store.noted) == {A2, B1}
    assert [fence.address for fence in attachments.fences("dev", "a")] == [A2]


@pytest.mark.parametrize("node", ["", "x" * 257])
def test_a_node_needs_an_id_that_csi_carries(attachments: Attachments, node: str) -> None:
    with pytest.raises(InvalidRequest, match="node_id"):
        attachments.enrol_node("dev", replace(Node("a"), id=node))


# --- leave ---


def test_a_node_that_is_done_leaves_without_a_fence_and_a_repeat_is_success(store: Store, attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    store.open = [Watcher(A1, False)]
    attachments.leave(ID, "a")
    attachments.leave(ID, "a")
    assert (attachments.has(ID, "a"), store.noted) == (False, {})


def test_a_node_whose_client_is_still_recorded_stays(attachments: Attachments) -> None:
    attachments.attach(ID, "a", WRITER)
    attachments.record_client(ID, "a", A1)
    attachments.leave(ID, "a")
    assert attachments.clients(ID, "a") == (A1,)
