"""Two CSI controllers are killed 20 times while they make volumes, snapshots and clones; then every account is even. About 90 s.

CEPH_PROVISIONER_TEST_KILLS=200 is the long form; CEPH_PROVISIONER_TEST_SEED repeats a storm's plan.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import sidecars
from tests.harness.askers import Asker, Door
from tests.harness.ceph import Ceph
from tests.harness.sidecars import CsiController
from tests.harness.waiting import until

KILLS = int(os.environ.get("CEPH_PROVISIONER_TEST_KILLS", "20"))
SEED = os.environ.get("CEPH_PROVISIONER_TEST_SEED") or os.urandom(4).hex()
ASKERS = 5


@pytest.fixture
def controllers(ceph: Ceph, pool: str, tmp_path: Path) -> Iterator[list[CsiController]]:
    """Two processes with one pool."""
    with sidecars.controllers(ceph, pool, tmp_path, "storm.example.com") as made:
        yield made


def leftovers(ceph: Ceph, pool: str) -> list[str]:
    """What a pool holds that held volumes once: images, trash, entries of ours, objects of RBD."""
    told = [f"image {name}" for name in ceph.images(pool)] + [f"in the trash: {name}" for name in ceph.trash(pool)]
    for name in ceph.objects(pool):
        if name.startswith("ceph-provisioner."):
            told += [f"{name}: {key}" for key in ceph.omap(name, pool)] if "processes" not in name else []
        elif not name.startswith(("rbd_directory", "rbd_info", "rbd_trash", "rbd_children", "rbd_mirroring", "rbd_namespace")):
            told.append(name)
    return told


def kill_again_and_again(controllers: list[CsiController], doors: list[Door]) -> None:
    """One at a time, at any moment of its life."""
    dice = random.Random(f"kills {SEED}")  # noqa: S311 - a plan, no secret
    for _ in range(KILLS):
        threading.Event().wait(dice.uniform(0.3, 2))
        which = dice.randrange(2)
        controllers[which].kill()
        threading.Event().wait(dice.uniform(0, 0.5))
        controllers[which].start()
        doors[which].started = time.monotonic()


@pytest.mark.timeout(300 + 5 * KILLS)
def test_every_name_converges_and_what_was_deleted_is_gone(
    ceph: Ceph, pool: str, controllers: list[CsiController], say: Callable[[str], None]
) -> None:
    say(f"seed {SEED}: {ASKERS} askers, {KILLS} kills of one of two controllers")
    doors = [Door(each.endpoint) for each in controllers]
    askers = [Asker(number, ceph, pool, doors, SEED) for number in range(ASKERS)]
    with ThreadPoolExecutor(ASKERS) as threads:
        at_work = [threads.submit(asker.run) for asker in askers]
        try:
            kill_again_and_again(controllers, doors)
        finally:
            for asker in askers:
                asker.stop.set()
        for each in at_work:
            each.result()
    say(f"{sum(asker.deeds for asker in askers)} deeds, the slowest answer {max(asker.slowest for asker in askers):.1f} s")
    for asker in askers:
        asker.check()
        asker.delete_everything()
    until(lambda: not leftovers(ceph, pool), 120, "nothing is left", lambda: "\n".join(leftovers(ceph, pool)[:40]), 1)
    assert max(asker.slowest for asker in askers) < 30
