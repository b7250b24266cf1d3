"""Attaching, staging, cutting off and detaching in any order, cut short at any step: who can write has the volume. Takes 5 s."""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from provisioner.core.attachments import Attachments
from provisioner.core.errors import ProvisionerError, Unavailable
from tests.unit.core.test_attachments import ID, SHARED, WRITER, Store

NODES = st.sampled_from(("a", "b"))
STEPS = st.sampled_from(("", "look", "watchers", "fence", "replace"))


class Cluster(RuleBasedStateMachine):
    """Two nodes and a volume. `using` has the clients that may still send what they hold, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.attachments = Attachments(self.store)
        self.using: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.count = 0

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except ProvisionerError:
            return False
        return True

    @rule(node=NODES, shared=st.booleans())
    def attach(self, node: str, *, shared: bool) -> None:
        self._try(lambda: self.attachments.attach(ID, node, SHARED if shared else WRITER))

    @rule(node=NODES)
    def stage(self, node: str) -> None:
        self.count += 1
        client = f"10.0.0.{1 if node == 'a' else 2}:0/{self.count}"
        if self._try(lambda: self.attachments.record_client(ID, node, client)):
            self.using[client] = node

    @rule(node=NODES)
    def unstage(self, node: str) -> None:
        for client in [client for client, where in self.using.items() if where == node]:
            del self.using[client]
            self.attachments.clear_client(ID, node, client)

    @rule(node=NODES)
    def crash(self, node: str) -> None:
        """Its clients are gone, and nobody was told."""
        self.using = {client: where for client, where in self.using.items() if where != node}

    @rule(node=NODES, cut_short_at=STEPS)
    def detach(self, node: str, cut_short_at: str) -> None:
        def fail() -> None:
            raise Unavailable("killed")

        self.given_up.add(node)
        self.store.before = {cut_short_at: fail}
        self._try(lambda: self.attachments.detach(ID, node))
        self.store.before = {}

    @rule(node=NODES)
    def heal(self, node: str) -> None:
        """The node finds out which of its clients still are, and sets the others free."""
        self.attachments.lift_fences("dev", node, [client for client, where in self.using.items() if where == node])

    @invariant()
    def whoever_can_write_has_the_volume_or_is_fenced(self) -> None:
        assert all(where in self.store.record or client in self.store.noted for client, where in self.using.items())

    @invariant()
    def a_volume_for_one_node_is_on_one(self) -> None:
        alone = [entry for entry in self.store.record.values() if entry.use == WRITER]
        assert not alone or len(self.store.record) == 1

    @invariant()
    def only_who_lost_the_volume_is_fenced(self) -> None:
        assert {fence.node for fence in self.store.noted.values()} <= self.given_up


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
