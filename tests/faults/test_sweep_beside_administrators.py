"""The sweep for orphans, without a pause, beside administrators who do to their images all that librbd can. Takes about 20 s.

Every one of them counts as a suspect, what they make bears no mark of ours, and nothing is written where a sweep looks for data:
so each image that it took for unlisted for a moment would be lost. CEPH_PROVISIONER_SWEEP_SECONDS has them go on for longer.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

import pytest
import rados
import rbd

from provisioner.ceph import names, suspects
from provisioner.ceph.orphans import Sweep, Sweeper
from provisioner.core.errors import ProvisionerError, Unavailable
from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.half_made import ALL
from tests.harness.store import Provisioner, image_id, objects
from tests.harness.waiting import until

SECONDS = float(os.environ.get("CEPH_PROVISIONER_SWEEP_SECONDS", "8"))
SIZE = 16 << 20
AT = 8 << 20
"""Where the content is: in the third object."""
TIMEOUT = 3


@dataclass
class Hand:
    """One administrator, who may be anybody: a client of its own, and images whose content it remembers."""

    ceph: Ceph
    pool: rados.Ioctx
    client: int
    name: str
    kept: dict[str, bytes] = field(default_factory=dict)
    turns: int = 0

    def make(self, name: str, features: int = ALL) -> str:
        """An image with a content; gives its name."""
        name = f"{self.name}-{name}"
        rbd.RBD().create(self.pool, name, SIZE, features=features)
        self.kept[name] = os.urandom(512)
        with rbd.Image(self.pool, name) as image:
            image.write(self.kept[name], AT)
        return name

    def move(self, old: str, new: str) -> str:
        self.kept[new] = self.kept.pop(old)
        return new

    def remove(self, name: str) -> None:
        rbd.RBD().remove(self.pool, name)
        del self.kept[name]

    def check(self) -> None:
        """All that should be there is, and holds what was written."""
        for name, content in self.kept.items():
            with rbd.Image(self.pool, name, read_only=True) as image:
                assert image.read(AT, len(content)) == content, name

    def command(self, *words: str, content: bytes = b"") -> None:
        """What somebody types."""
        command = ["rbd", "--conf", self.ceph.conf, "--id", "admin", *words]
        done = subprocess.run(command, input=content, capture_output=True, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stderr.decode()}"


Work = Callable[[Hand], None]


def make_and_remove(hand: Hand) -> None:
    name = hand.make("short")
    hand.check()
    hand.remove(name)


def rename(hand: Hand) -> None:
    name = next(iter(hand.kept), "") or hand.make("called-so")
    rbd.RBD().rename(hand.pool, name, new := f"{hand.name}-{hand.turns}")
    hand.move(name, new)


def to_the_trash_and_back(hand: Hand) -> None:
    name = next(iter(hand.kept), "") or hand.make("thrown")
    made = image_id(hand.pool, name)
    for _ in range(20):
        rbd.RBD().trash_move(hand.pool, name, 0)
        rbd.RBD().trash_restore(hand.pool, made, name)


def purge(hand: Hand) -> None:
    name = hand.make("purged")
    made = image_id(hand.pool, name)
    rbd.RBD().trash_move(hand.pool, name, 0)
    rbd.RBD().trash_remove(hand.pool, made)
    del hand.kept[name]


def clone(hand: Hand) -> None:
    """A child that is flattened, and so bears neither a parent nor a snapshot."""
    parent, child = hand.make("parent"), f"{hand.name}-child"
    with rbd.Image(hand.pool, parent) as image:
        image.create_snap("s")
    rbd.RBD().clone(hand.pool, parent, "s", hand.pool, child, features=ALL)
    hand.kept[child] = hand.kept[parent]
    with rbd.Image(hand.pool, child) as image:
        image.create_snap("own")
        image.remove_snap("own")
        image.flatten()
    with rbd.Image(hand.pool, parent) as image:
        image.remove_snap("s")
    hand.check()
    hand.remove(child)
    hand.remove(parent)


def migrate(hand: Hand) -> None:
    name = next(iter(hand.kept), "") or hand.make("moved")
    new, api = f"{hand.name}-moved-{hand.turns}", rbd.RBD()
    api.migration_prepare(hand.pool, name, hand.pool, new, features=ALL)
    if hand.turns % 3 == 0:
        api.migration_abort(hand.pool, new)
        return
    api.migration_execute(hand.pool, new)
    api.migration_commit(hand.pool, new)
    hand.move(name, new)


def group(hand: Hand) -> None:
    name, api, called = hand.make("grouped"), rbd.RBD(), f"{hand.name}-group"
    api.group_create(hand.pool, called)
    members = rbd.Group(hand.pool, called)
    members.add_image(hand.pool, name)
    members.create_snap("s")
    members.remove_snap("s")
    members.remove_image(hand.pool, name)
    api.group_remove(hand.pool, called)
    hand.check()
    hand.remove(name)


def copy(hand: Hand) -> None:
    name, new = hand.make("origin", rbd.RBD_FEATURE_LAYERING), f"{hand.name}-copy"
    with rbd.Image(hand.pool, name) as image:
        image.deep_copy(hand.pool, new, features=ALL)
    hand.kept[new] = hand.kept[name]
    hand.remove(name)
    with rbd.Image(hand.pool, new) as image:
        image.update_features(rbd.RBD_FEATURE_FAST_DIFF | rbd.RBD_FEATURE_OBJECT_MAP, False)
        image.update_features(rbd.RBD_FEATURE_FAST_DIFF | rbd.RBD_FEATURE_OBJECT_MAP, True)
        image.rebuild_object_map()
    hand.check()
    hand.remove(new)


def type_commands(hand: Hand) -> None:
    where, content = f"{hand.pool.name}/", os.urandom(512)
    old, new = f"{hand.name}-{hand.turns}", f"{hand.name}-new-{hand.turns}"
    hand.command("import", "-", where + old, content=bytes(AT) + content)
    hand.command("mv", where + old, where + new)
    hand.kept[new] = content
    hand.command("cp", "--no-progress", where + new, where + old)
    hand.command("rm", "--no-progress", where + old)


WORK: tuple[Work, ...] = (
    make_and_remove,
    rename,
    to_the_trash_and_back,
    purge,
    clone,
    migrate,
    group,
    copy,
    type_commands,
)


@pytest.fixture
def place(pool: str) -> Place:
    return Place("dev", pool, "")


@pytest.fixture
def sweeping(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """A process of ours that waits 3 s for each call, looks for a suspect at once, and rests never."""
    process = Provisioner(ceph.config(timeout=TIMEOUT))
    process.store._sweeper = Sweeper(settled=0, rest=0)
    process.store.attend(place, None)
    yield process
    process.close()


@dataclass
class Sweeps:
    """What the sweeps came to."""

    done: int = 0
    removed: int = 0
    failed: list[ProvisionerError] = field(default_factory=list)

    def go_on(self, ours: Provisioner, pool: rados.Ioctx, hands: list[Hand], over: threading.Event) -> None:
        while not over.is_set():
            self.sweep(ours, pool, hands)

    def until_gone(self, ours: Provisioner, boss: Hand, going: set[str]) -> None:
        def gone() -> bool:
            self.sweep(ours, boss.pool, [boss])
            return not going & objects(boss.pool)

        until(gone, 60, "the sweep finds what there is to find")

    def sweep(self, ours: Provisioner, pool: rados.Ioctx, hands: list[Hand]) -> None:
        for hand in hands:
            suspects.note(pool, str(hand.client))
        for _, walk in ours.store.sweep(lambda: True):
            if isinstance(walk, Sweep):
                self.done, self.removed = self.done + (not walk.skipped), self.removed + walk.removed
            else:
                self.failed.append(walk)


def toil(hand: Hand, work: Work, over: threading.Event) -> None:
    """Do it again and again."""
    while not over.is_set():
        work(hand)
        hand.turns += 1


def litter(pool: rados.Ioctx, name: str) -> set[str]:
    """What is to go: an image of a suspect that nothing leads to. Gives its objects."""
    rbd.RBD().create(pool, name, SIZE, features=ALL)
    made = image_id(pool, name)
    names.unlist(pool, name, made)
    names.remove_id(pool, name, made)
    return {f"rbd_header.{made}", f"rbd_object_map.{made}"}


def check_maps(hand: Hand) -> None:
    for name in hand.kept:
        hand.command("info", f"{hand.pool.name}/{name}")
        hand.command("object-map", "check", "--no-progress", f"{hand.pool.name}/{name}")


def test_no_image_of_anybody_is_lost(ceph: Ceph, place: Place, sweeping: Provisioner, say: Callable[[str], None]) -> None:
    over, pause, sweeps, going = threading.Event(), threading.Event(), Sweeps(), set[str]()
    with ExitStack() as stack:

        def hired(name: str) -> Hand:
            handle = stack.enter_context(ceph.admin())
            handle.conf_set("rbd_default_clone_format", "2")
            return Hand(ceph, stack.enter_context(handle.open_ioctx(place.pool)), handle.get_instance_id(), name)

        boss, *hands = (hired(name) for name in ("boss", *(work.__name__ for work in WORK)))
        threads = stack.enter_context(ThreadPoolExecutor(len(WORK) + 1))
        stack.callback(over.set)
        working = [threads.submit(toil, hand, work, over) for hand, work in zip(hands, WORK, strict=True)]
        working.append(threads.submit(sweeps.go_on, sweeping, boss.pool, [boss, *hands], over))
        until_then, stalls = time.monotonic() + SECONDS, cycle((1, 1, 1, TIMEOUT + 1))
        while time.monotonic() < until_then and not any(each.done() for each in working):
            going |= litter(boss.pool, f"litter-{len(going)}")
            pause.wait(2)
            with ceph.frozen_osd():
                pause.wait(next(stalls))
        over.set()
        for each in working:
            each.result(120)
        for hand in hands:
            hand.check()
            check_maps(hand)
        sweeps.until_gone(sweeping, boss, going)
    turns = {hand.name: hand.turns for hand in hands}
    say(f"{sweeps.done} sweeps, and {len(sweeps.failed)} that stalled, removed {sweeps.removed} objects beside {turns}")
    assert all(isinstance(each, Unavailable) for each in sweeps.failed), sweeps.failed
