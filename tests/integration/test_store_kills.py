"""A process that makes and deletes volumes as fast as it can, killed a hundred times at random moments. Takes about 60 s.

After it, each volume is asked for once more as its asker would, and then every RADOS object has to be accounted for.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import rados
import rbd

from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, Victim, at, image_id, omap, processes, unexplained
from tests.harness.victim import NAMES
from tests.harness.waiting import until

KILLS = 100
SEED = 20260101


class Ledger:
    """What the killed processes said: the last thing that each name was asked for, and whether it was done."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[str, bool]] = {}
        self.begun = self.cut_short = 0

    def note(self, lines: list[str]) -> None:
        open_now: set[str] = set()
        for line in lines:
            word, action, name = line.split()
            self.last[name] = (action, word == "done")
            if word == "begin":
                self.begun += 1
                open_now.add(name)
            else:
                open_now.discard(name)
        self.cut_short += len(open_now)


def test_a_hundred_kills_leave_nothing_that_a_repeat_does_not_settle(ceph: Ceph, place: Place) -> None:
    ledger = _kill_often(ceph, place)
    assert ledger.cut_short >= KILLS, "the kills met operations under way"
    survivor = Provisioner(ceph.config())
    try:
        survivor.volumes.attend(place)
        _repeat(survivor, place, ledger)
        expected = sorted(name for name, (action, _) in ledger.last.items() if action == "create")
        assert ceph.images(place.pool, place.namespace) == expected
        assert survivor.listed(place) == expected
        until(lambda: survivor.purge()[1] == 0 and survivor.store.backlog(place) == 0, 30, "the trash is empty")
        with at(ceph, place) as pool:
            assert omap(pool, "rbd_trash") == {}
            assert not unexplained(pool)
            assert processes(pool) == {survivor.client()}
            for name in expected:
                _is_whole(pool, name)
    finally:
        survivor.close()


def _kill_often(ceph: Ceph, place: Place) -> Ledger:
    """One after the other; the next is started, and on the list of processes, while the last one still works."""
    ledger, dice = Ledger(), random.Random(SEED)  # noqa: S311
    lives = [dice.uniform(0.0, 0.25) for _ in range(KILLS)]
    waiting = [Victim(ceph, place, "churn", f"{SEED}-{number}", "4") for number in range(2)]
    for number, life in enumerate(lives):
        victim = waiting.pop(0)
        if number + 2 < KILLS:
            waiting.append(Victim(ceph, place, "churn", f"{SEED}-{number + 2}", "4"))
        assert victim.line() == "ready"
        victim.go()
        threading.Event().wait(life)
        ledger.note(victim.kill())
    return ledger


def _repeat(survivor: Provisioner, place: Place, ledger: Ledger) -> None:
    """As every asker does whose provisioner died: ask again for what was asked last."""
    with ThreadPoolExecutor(16) as threads:
        done = [threads.submit(getattr(survivor, action), place, name) for name, (action, _) in ledger.last.items()]
        for future in done:
            future.result(60)
    assert len(done) == NAMES


def _is_whole(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as image:
        assert image.flags() == 0, "the object map is good"
        image.write(b"x", image.size() - 1)
        assert not list(image.list_snaps())
    assert omap(pool, f"rbd_header.{image_id(pool, name)}").keys() >= {"metadata_ceph-provisioner.fingerprint"}
