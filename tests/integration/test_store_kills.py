"""A process that makes and deletes volumes as fast as it can, killed a hundred times at random moments. Takes about 60 s.

After each, what lies there is one of the states that test_store_half_made makes by hand. After all, each volume is asked for
once more as its asker would, and then every RADOS object has to be accounted for.
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


_CREATED = ("directory", "id", "header", "map", "mark")
"""The pieces of an image in the order in which a create, or an adoption, makes them."""
_GOING = ("id", "directory", "header", "map", "mark", "dying")
STATES = {frozenset(_CREATED[: count + 1]) for count in range(len(_CREATED))}
STATES.add(frozenset({"id"}))  # clearing takes the directory's entry first
STATES.add(frozenset({"directory", "id", "map"}))  # a cast makes the map before the header
STATES |= {
    frozenset(pieces) - {"map"} if unfinished else frozenset(pieces)
    for unfinished in (False, True)  # an abandoned create may have come to no object map
    for pieces in (
        _GOING,
        (*_GOING, "trash"),
        (*_GOING[1:], "trash"),
    )
}


class Ledger:
    """What the killed processes said: the last thing that each name was asked for, and whether it was done."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[str, bool]] = {}
        self.begun = self.cut_short = 0
        self.seen: set[frozenset[str]] = set()

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
    assert ledger.seen <= STATES, ledger.seen - STATES
    assert len(ledger.seen) >= 3, "and found some half done"
    survivor = Provisioner(ceph.config())
    try:
        survivor.volumes.attend(place)
        _repeat(survivor, place, ledger)
        expected = sorted(name for name, (action, _) in ledger.last.items() if action == "create")
        assert ceph.images(place.pool, place.namespace) == expected
        assert survivor.listed(place) == expected
        until(lambda: survivor.purge()[1] == 0 and survivor.store.backlog(place) == 0, 60, "the trash is empty")
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
    with at(ceph, place) as pool:
        for number, life in enumerate(lives):
            victim = waiting.pop(0)
            if number + 2 < KILLS:
                waiting.append(Victim(ceph, place, "churn", f"{SEED}-{number + 2}", "4"))
            assert victim.line() == "ready"
            victim.go()
            threading.Event().wait(life)
            ledger.note(victim.kill())
            ledger.seen |= _settled_states(pool)
    return ledger


def _settled_states(pool: rados.Ioctx) -> set[frozenset[str]]:
    """What the OSD was sent before the kill may still arrive: look until two looks see the same."""
    looks = [_states(pool), _states(pool)]
    while looks[-1] != looks[-2]:
        looks.append(_states(pool))
    return looks[-1]


def _states(pool: rados.Ioctx) -> set[frozenset[str]]:
    """Which pieces there are of each image that a name leads to."""
    named = {key: value[4:].decode() for key, value in omap(pool, "rbd_directory").items() if key.startswith("name_")}
    held = {name: _id_of(pool, name) for name in (f"churn-{index}" for index in range(NAMES))}
    images = set(named.values()) | {each for each in held.values() if each}
    return {_pieces(pool, each, set(named.values()), set(held.values())) for each in images}


def _id_of(pool: rados.Ioctx, name: str) -> str:
    try:
        return image_id(pool, name)
    except rados.ObjectNotFound:
        return ""


def _pieces(pool: rados.Ioctx, image: str, listed: set[str], held: set[str]) -> frozenset[str]:
    header, trash = omap(pool, f"rbd_header.{image}"), omap(pool, "rbd_trash")
    there = {
        "id": image in held,
        "directory": image in listed,
        "header": "size" in header,
        "map": _exists(pool, f"rbd_object_map.{image}"),
        "mark": "metadata_ceph-provisioner.fingerprint" in header,
        "dying": "metadata_ceph-provisioner.deleting" in header,
        "trash": f"id_{image}" in trash,
    }
    return frozenset(piece for piece, is_there in there.items() if is_there)


def _exists(pool: rados.Ioctx, obj: str) -> bool:
    try:
        pool.stat(obj)
    except rados.ObjectNotFound:
        return False
    return True


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
