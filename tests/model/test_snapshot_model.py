"""Volumes, snapshots, clones against a dictionary, on a real Ceph, with processes that die in the middle. Takes about 30 s."""

from dataclasses import dataclass, replace

import rados
import rbd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from provisioner.ceph import clones, flatten
from provisioner.core.errors import AlreadyExists, NotFound, OutOfRange
from provisioner.core.ids import SnapshotId, VolumeId
from provisioner.core.model import SizeRange
from tests.harness.ceph import Ceph
from tests.harness.slayer import Slayer
from tests.harness.store import GIB, Provisioner, at_home, index, new_place, omap, unexplained
from tests.harness.waiting import until

VOLUMES = st.sampled_from(["v1", "v2", "v3"])
SNAPSHOTS = st.sampled_from(["s1", "s2", "s3"])
SIZES = st.sampled_from([GIB, 2 * GIB])
DEATHS = st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.0, 0.002, 0.01, 0.02]))
EMPTY = bytes(4)


@dataclass(frozen=True)
class Volume:
    """A volume as the model knows it; `source` is the id that it was asked for with."""

    image_id: str
    size: int
    content: bytes
    source: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as the model knows it."""

    id: SnapshotId
    size: int
    content: bytes


class SnapshotMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and says in the dictionaries what that has to mean."""

    ceph: Ceph
    admin: rados.Rados

    def __init__(self) -> None:
        super().__init__()
        self.place = new_place(self.ceph)
        self.pool = self.admin.open_ioctx(self.place.pool)
        self.pool.set_namespace(self.place.namespace)
        self.ours = Provisioner(at_home(self.ceph, self.place))
        self.ours.volumes.attend(self.place)
        self.slayer = Slayer(self.ceph, self.place)
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.used: set[str] = set()
        self.writes = 0

    def _is_tidy(self) -> bool:
        self.ours.reap()
        self.ours.purge()
        return not omap(self.pool, "rbd_trash") and not unexplained(self.pool)

    def teardown(self) -> None:
        for name in sorted(self.volumes):
            self.ours.delete(self.place, name)
        for snapshot in self.snapshots.values():
            self.ours.snapshots.delete(snapshot.id)
        # one generation of clones after the other, and each when Ceph has let go of the watches of the dead
        until(self._is_tidy, 60, "the trash is empty", lambda: str(omap(self.pool, "rbd_trash").keys()))
        assert not unexplained(self.pool)
        assert not index(self.pool)
        for obj in ("rbd_trash", "rbd_directory", clones.BUILDS, flatten.LIST):
            assert omap(self.pool, obj).keys() <= {"state"}, obj
        self.slayer.close()
        self.ours.close()
        self.pool.close()

    # --- what is asked, perhaps after somebody died at it ---

    @rule(name=VOLUMES, size=SIZES, death=st.none() | DEATHS)
    def create(self, name: str, size: int, death: tuple[int, float] | None) -> None:
        if size == GIB:
            self._die(death, "create", name)
        there = self.volumes.get(name)
        try:
            made = self.ours.create(self.place, name, size)
        except AlreadyExists:
            assert there is not None
            assert there.source or there.size < size
            return
        self._is_made(name, made.image_id, made.size, Volume(made.image_id, size, EMPTY))

    @rule(name=VOLUMES, source=VOLUMES, death=st.none() | DEATHS)
    def clone(self, name: str, source: str, death: tuple[int, float] | None) -> None:
        if (origin := self.volumes.get(source)) is None or origin.size != GIB:
            return
        self._die(death, "clone", name, source)
        self._make(name, VolumeId(self.place, source), origin.content, origin.size, GIB)

    @rule(name=VOLUMES, snapshot=SNAPSHOTS, death=st.none() | DEATHS)
    def restore(self, name: str, snapshot: str, death: tuple[int, float] | None) -> None:
        if (origin := self.snapshots.get(snapshot)) is None:
            return
        self._die(death, "restore", name, str(origin.id))
        self._make(name, origin.id, origin.content, origin.size, 2 * GIB)

    @rule(name=VOLUMES, snapshot=SNAPSHOTS)
    def restore_too_small(self, name: str, snapshot: str) -> None:
        if (origin := self.snapshots.get(snapshot)) is not None and name not in self.volumes:
            try:
                self.ours.clone(self.place, name, origin.id, GIB // 2)
            except OutOfRange:
                return
            raise AssertionError("smaller than its source")

    @rule(volume=VOLUMES, name=SNAPSHOTS, death=st.none() | DEATHS)
    def snapshot(self, volume: str, name: str, death: tuple[int, float] | None) -> None:
        source, there = self.volumes.get(volume), self.snapshots.get(name)
        self._die(death, "snapshot", volume, name)
        try:
            taken = self.ours.snapshot(self.place, volume, name)
        except NotFound:
            assert source is None
            return
        except AlreadyExists:
            assert there is not None
            assert there.id.volume.image != volume or (source and source.image_id != there.id.image_id)
            return
        if there is not None:
            assert taken.id == there.id
            return
        assert source is not None
        assert (taken.id.image_id, taken.size) == (source.image_id, source.size)
        self.snapshots[name] = Snapshot(taken.id, source.size, source.content)

    @rule(name=VOLUMES)
    def expand(self, name: str) -> None:
        if (there := self.volumes.get(name)) is not None:
            grown = self.ours.volumes.expand(VolumeId(self.place, name), SizeRange(there.size + GIB))
            self.volumes[name] = replace(there, size=grown.size)

    @rule(name=VOLUMES, death=st.none() | DEATHS)
    def delete(self, name: str, death: tuple[int, float] | None) -> None:
        self._die(death, "delete", name)
        self.ours.delete(self.place, name)
        self.volumes.pop(name, None)

    @rule(name=SNAPSHOTS, death=st.none() | DEATHS)
    def delete_snapshot(self, name: str, death: tuple[int, float] | None) -> None:
        if (there := self.snapshots.pop(name, None)) is not None:
            self._die(death, "delete-snapshot", str(there.id))
            self.ours.snapshots.delete(there.id)

    @rule(death=st.none() | DEATHS)
    def tidy(self, death: tuple[int, float] | None) -> None:
        self._die(death, "tidy")
        self.ours.reap()
        self.ours.flatten()
        self.ours.purge()

    @precondition(lambda self: self.volumes)
    @rule(name=VOLUMES)
    def write(self, name: str) -> None:
        if (there := self.volumes.get(name)) is not None:
            self.writes += 1
            content = self.writes.to_bytes(4, "big")
            with rbd.Image(self.pool, name) as image:
                image.write(content, 0)
            self.volumes[name] = replace(there, content=content)

    # --- what always holds ---

    @invariant()
    def what_is_listed_is_what_was_made(self) -> None:
        assert self.ours.listed(self.place) == sorted(self.volumes)
        listed = self.ours.snapshots.page(self.place, "", 100).snapshots
        assert {(each.name, each.id, each.size) for each in listed} == {
            (name, each.id, each.size) for name, each in self.snapshots.items()
        }
        assert index(self.pool).keys() == self.snapshots.keys()

    @invariant()
    def each_volume_holds_what_was_written(self) -> None:
        for name, there in self.volumes.items():
            with rbd.Image(self.pool, name, read_only=True) as image:
                assert (image.id(), image.size(), image.read(0, 4)) == (there.image_id, there.size, there.content)

    def _die(self, death: tuple[int, float] | None, *words: str) -> None:
        if death is not None:
            self.slayer.order(words, *death)

    def _make(self, name: str, source: SnapshotId | VolumeId, content: bytes, least: int, size: int) -> None:
        there = self.volumes.get(name)
        try:
            made = self.ours.clone(self.place, name, source, size)
        except AlreadyExists:
            assert there is not None
            assert there.source != str(source) or there.size < size
            return
        except OutOfRange:
            assert least > size
            return
        self._is_made(name, made.image_id, made.size, Volume(made.image_id, size, content, str(source)))

    def _is_made(self, name: str, made: str, size: int, new: Volume) -> None:
        there = self.volumes.get(name)
        if there is None:
            assert made not in self.used
            assert size == new.size
            self.used.add(made)
            self.volumes[name] = new
        else:
            assert (made, size, there.source) == (there.image_id, there.size, new.source)


def test_the_store_does_what_the_dictionaries_say(ceph: Ceph) -> None:
    limits = settings(
        max_examples=12, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    with ceph.admin() as admin:
        machine = type("Machine", (SnapshotMachine,), {"ceph": ceph, "admin": admin})
        run_state_machine_as_test(machine, settings=limits)
