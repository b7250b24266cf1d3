"""A process that dies at every call of every operation: asked again, it converges, and nothing is left over. Takes about 40 s.

CEPH_PROVISIONER_TEST_KILLS=all dies at each call, and at more moments within librbd's own; by default, at a choice of them.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import rados
import rbd

from provisioner.ceph import clones, flatten, names
from provisioner.ceph.headers import read_header
from provisioner.ceph.registry import PROCESSES
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Snapshot
from tests.harness.ceph import Ceph
from tests.harness.slayer import Fate, Slayer, act
from tests.harness.store import GIB, Provisioner, at, at_home, image_id, index, omap, unexplained
from tests.harness.waiting import until

ALL = os.environ.get("CEPH_PROVISIONER_TEST_KILLS") == "all"
SOON = 10.0
"""Seconds within which a repeat has to succeed after the restart."""
CONTENT = b"content"
LONG = {
    "rbd.clone",
    "rbd.create",
    "image.create_snap",
    "image.remove_snap",
    "image.resize",
    "rbd.trash_remove",
    "image.open",
    "image.aio_close",
}
"""Calls that are many of RADOS."""
DELAYS = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04)
CHOSEN = 3
"""Deaths of each case where not all are asked for."""


@dataclass(frozen=True)
class Case:
    """An operation, and what its place is like before: a volume `src` with `snapshots`, and volumes cloned from them."""

    words: tuple[str, ...]
    snapshots: tuple[str, ...] = ("base",)
    clones: dict[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    src: bool = True

    def __str__(self) -> str:
        return "-".join(word for word in self.words if "/" not in word)


CASES = [
    Case(("create", "new"), src=False, snapshots=()),
    Case(("create", "new", "next"), src=False, snapshots=()),
    Case(("expand", "src")),
    Case(("snapshot", "src", "new")),
    Case(("snapshot", "src", "new"), clones={"kid": "base"}),
    Case(("clone", "new", "src")),
    Case(("restore", "new", "@base")),
    Case(("delete", "src"), snapshots=()),
    Case(("delete", "src")),
    Case(("delete", "src"), snapshots=(), clones={"new": ""}),
    Case(("delete-snapshot", "@base")),
    Case(("delete-snapshot", "@base"), clones={"new": "base"}),
    Case(("delete", "new"), clones={"new": "base"}),
    Case(("tidy",), clones={"new": "base"}, gone=("src", "@base", "new")),
]


@dataclass
class Scene:
    """A place of the test's own, with whatever the case wants; `steady` is a process that nobody kills."""

    ceph: Ceph
    place: Place
    case: Case
    slayer: Slayer
    steady: Provisioner
    pool: rados.Ioctx
    taken: dict[str, SnapshotId] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make what there is before."""
        if self.case.src:
            self.steady.create(self.place, "src")
            with rbd.Image(self.pool, "src") as image:
                image.write(CONTENT, 0)
        self.taken = {name: self.steady.snapshot(self.place, "src", name).id for name in self.case.snapshots}
        for name, snapshot in self.case.clones.items():
            self.steady.clone(self.place, name, self.taken[snapshot] if snapshot else VolumeId(self.place, "src"))
        for each in self.case.gone:
            self._delete(each)

    def words(self) -> list[str]:
        return [str(self.taken[word[1:]]) if word.startswith("@") else word for word in self.case.words]

    def again(self) -> None:
        """As after a restart: another process is asked the same, until it succeeds."""
        process, began = Provisioner(at_home(self.ceph, self.place)), time.monotonic()
        try:
            act(process, self.place, self.words())
            assert time.monotonic() - began < SOON
            act(process, self.place, self.words())
        finally:
            process.close()
        self._check()

    def strike(self) -> None:
        """Delete everything, as everybody who asked for something would; nothing may remain."""
        for each in ("new", "next", "src", *self.case.clones, *(f"@{name}" for name in self.taken), "@new"):
            self._delete(each)
        until(self._is_empty, SOON, "the place is empty", lambda: str(self._remains()))

    def _delete(self, each: str) -> None:
        if not each.startswith("@"):
            self.steady.delete(self.place, each)
            return
        for snapshot in self._snapshots():
            if snapshot.name == each[1:]:
                self.steady.snapshots.delete(snapshot.id)
        if each[1:] in self.taken:
            self.steady.snapshots.delete(self.taken[each[1:]])

    def _snapshots(self) -> Sequence[Snapshot]:
        return self.steady.snapshots.page(self.place, "", 100).snapshots

    def _check(self) -> None:
        """What is there is what the case's operation means."""
        volumes, snapshots = self._expected()
        assert set(self.steady.listed(self.place)) == volumes
        assert {each.name for each in self._snapshots()} == snapshots
        for name in volumes:
            with rbd.Image(self.pool, name) as image:
                assert image.read(0, len(CONTENT)) == (bytes(len(CONTENT)) if self.case.words[0] == "create" else CONTENT)
                assert image.flags() == 0, "the object map is good"
                assert self.case.words[0] != "expand" or image.size() == 2 * GIB
            self._is_linked(self.pool, name)
        self.steady.reap()
        assert not unexplained(self.pool)
        assert index(self.pool).keys() == snapshots
        assert not [name for name in omap(self.pool, "rbd_directory") if name.startswith(f"name_{names.NEW}")]

    def _is_linked(self, pool: rados.Ioctx, name: str) -> None:
        """Each clone is on its parent's list: removing the parent's snapshot would lose its content else."""
        made = image_id(pool, name)
        header = read_header(pool, made)
        assert header is not None
        if header.parent is not None:
            children = omap(pool, f"rbd_header.{header.parent.image_id}")[f"snap_children_{header.parent.snap_id:016x}"]
            assert made.encode() in children

    def _expected(self) -> tuple[set[str], set[str]]:
        volumes = ({"src"} if self.case.src else set()) | set(self.case.clones)
        snapshots = set(self.case.snapshots)
        match self.case.words:
            case ("create", *names):
                volumes.update(names)
            case ("clone" | "restore", name, *_):
                volumes.add(name)
            case ("snapshot", _, name):
                snapshots.add(name)
            case ("delete", name):
                volumes.discard(name)
            case ("delete-snapshot", name):
                snapshots.discard(name[1:])
        gone = set(self.case.gone)
        return volumes - gone, {name for name in snapshots if f"@{name}" not in gone}

    def _is_empty(self) -> bool:
        self.steady.reap()
        self.steady.purge()
        return not self._remains()

    def _remains(self) -> set[str]:
        found = unexplained(self.pool) | set(index(self.pool))
        for obj in ("rbd_directory", "rbd_trash", clones.BUILDS, flatten.LIST):
            found |= set(omap(self.pool, obj)) - {"state"}
        found |= {f"watched by {watcher}" for each in omap(self.pool, "rbd_trash") for watcher in self._watchers(each[3:])}
        return found | {name for name, _ in self.pool.get_xattrs(PROCESSES) if "process" not in name}

    def _watchers(self, made: str) -> list[str]:
        try:
            with rbd.Image(self.pool, image_id=made, read_only=True) as image:
                return [watcher["addr"] for watcher in image.watchers_list()]
        except rbd.ImageNotFound:
            return []


@pytest.fixture
def scene(ceph: Ceph, place: Place, homely: Provisioner, request: pytest.FixtureRequest) -> Iterator[Scene]:
    slayer = Slayer(ceph, place)
    homely.volumes.attend(place)
    with at(ceph, place) as pool:
        yield Scene(ceph, place, request.param, slayer, homely, pool)
    slayer.close()


def _deaths(calls: list[str]) -> list[tuple[int, float]]:
    """When to die: before each call, and within the long ones; or at a choice of that."""
    moments = [(number, 0.0) for number in range(1, len(calls) + 1)]
    moments += [(number, delay) for number, name in enumerate(calls, start=1) if name in LONG for delay in DELAYS]
    return moments if ALL else random.Random(len(calls)).sample(moments, CHOSEN)  # noqa: S311


@pytest.mark.parametrize("scene", CASES, indirect=True, ids=str)
def test_whatever_call_it_dies_at_a_repeat_converges_and_nothing_is_left(scene: Scene) -> None:
    scene.prepare()
    whole = scene.slayer.order(scene.words(), at=0)
    assert whole.survived, whole
    scene.again()
    scene.strike()
    died = 0
    for number, delay in _deaths(list(whole.calls)):
        scene.prepare()
        fate: Fate = scene.slayer.order(scene.words(), number, delay)
        assert not fate.error, fate
        died += not fate.survived
        try:
            scene.again()
            scene.strike()
        except BaseException:
            print(f"died at call {number} after {delay} s of {' '.join(scene.words())}: {fate.calls}")
            raise
    assert died, "a delay may be longer than what is left of the work"
