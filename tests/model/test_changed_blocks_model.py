"""What snapshots keep, and what Ceph says that changed between them, beside a client that writes. Takes about 10 s.

Snapshots are taken by us while nobody has the image open, and by librbd while somebody has; what is told must not depend on it.
"""

import rados
import rbd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from provisioner.core.ids import SnapshotId, VolumeId
from provisioner.core.model import MIB, SizeRange
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at_home, new_place, unexplained

NAME, OBJECT = "pvc-1", 4 * MIB
NUMBERS = st.integers(0, 5)
SNAPSHOTS = st.sampled_from(["s1", "s2", "s3", "s4"])


class ChangesMachine(RuleBasedStateMachine):
    """An image of which every write is known: `writes` are object numbers, a snapshot is how many of them it has."""

    ceph: Ceph
    admin: rados.Rados

    def __init__(self) -> None:
        super().__init__()
        self.place = new_place(self.ceph)
        self.pool = self.admin.open_ioctx(self.place.pool)
        self.pool.set_namespace(self.place.namespace)
        self.ours = Provisioner(at_home(self.ceph, self.place))
        self.ours.create(self.place, NAME)
        self.writes: list[int] = []
        self.taken: dict[str, tuple[SnapshotId, int]] = {}
        self.size = GIB
        self.client: rbd.Image | None = None

    def teardown(self) -> None:
        self.look()
        self.close()
        for snapshot, _ in self.taken.values():
            self.ours.snapshots.delete(snapshot)
        assert unexplained(self.pool) == set()
        self.ours.close()
        self.pool.close()

    @rule()
    def open(self) -> None:
        if self.client is None:
            self.client = rbd.Image(self.pool, NAME)

    @rule()
    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    @rule(number=NUMBERS)
    def write(self, number: int) -> None:
        self.writes.append(number)
        content = len(self.writes).to_bytes(4, "little")
        if self.client is not None:
            self.client.write(content, number * OBJECT)
            return
        with rbd.Image(self.pool, NAME) as image:
            image.write(content, number * OBJECT)

    @rule(name=SNAPSHOTS)
    def snapshot(self, name: str) -> None:
        taken = self.ours.snapshot(self.place, NAME, name)
        self.taken.setdefault(name, (taken.id, len(self.writes)))

    @rule(name=SNAPSHOTS)
    def delete_snapshot(self, name: str) -> None:
        if name in self.taken:
            self.ours.snapshots.delete(self.taken.pop(name)[0])

    @rule()
    def grow(self) -> None:
        self.size += 3 * MIB
        self.ours.volumes.expand(VolumeId(self.place, NAME), SizeRange(self.size))

    @rule()
    def look(self) -> None:
        """Compare all moments: contents, and what changed since every one before."""
        moments = [(writes, snapshot.snapshot) for snapshot, writes in self.taken.values()]
        # opened at each snapshot anew, librbd 16.2 aborted this process now and then
        with rbd.Image(self.pool, NAME, read_only=True) as image:
            for at, (later, name) in enumerate([*moments, (len(self.writes), None)]):
                image.set_snap(name)
                assert image.flags() == 0
                self._is_as_written(image, later)
                for earlier, since in [(0, None), *moments[:at]]:
                    assert _changed(image, since) == set(self.writes[earlier:later]), (since, name)

    def _is_as_written(self, image: rbd.Image, writes: int) -> None:
        for number in set(self.writes):
            last = max((at for at, each in enumerate(self.writes[:writes], 1) if each == number), default=0)
            assert image.read(number * OBJECT, 4) == last.to_bytes(4, "little")


def _changed(image: rbd.Image, since: str | None) -> set[int]:
    found: set[int] = set()
    image.diff_iterate(0, image.size(), since, lambda at, *_: found.add(at // OBJECT), whole_object=True)
    return found


def test_snapshots_keep_their_content_and_the_maps_tell_what_changed(ceph: Ceph) -> None:
    limits = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    with ceph.admin() as admin:
        machine = type("Machine", (ChangesMachine,), {"ceph": ceph, "admin": admin})
        run_state_machine_as_test(machine, settings=limits)
