"""A process of ours to be killed: `python -m tests.harness.victim CONFIG-JSON WORDS...`. Says what it does, a line each.

hold IMAGE           enrols, opens the image for writing on the provisioner's own connection, says `held`, and waits
detach IMAGE NODE STEP
                     detaches the image from the node, and waits for the end when it comes to `note`, `fence`, `osds`, `lock`
                     or `replace`, whose name it says; says `done` if it comes to none
churn SEED THREADS   says `ready`, and from the next line of its input on creates, deletes and abandons volumes churn-0 ...
                     churn-39 for ever; says `begin|done create|delete|abandon NAME`
fill COUNT           creates that many volumes, deletes them, says `purging`, and purges them one after the other
"""

import json
import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import rbd

from provisioner.ceph import fences
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.attachments import Attachments
from provisioner.core.ids import Place, VolumeId
from tests.harness.store import Provisioner

NAMES = 40


def main() -> None:
    raw, action, *words = sys.argv[1:]
    told = json.loads(raw)
    place = Place("dev", told["pool"], told["namespace"])
    process = Provisioner(ClusterConfig("dev", conf=told["conf"], user=told["user"], keyring=told["keyring"]))
    {"hold": _hold, "detach": _detach, "churn": _churn, "fill": _fill}[action](process, place, *words)


def _hold(process: Provisioner, place: Place, image: str) -> None:
    process.volumes.attend(place)
    with process.clusters.connection("dev") as connection, connection.pool(place) as pool, rbd.Image(pool, image) as opened:
        opened.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        _say("held")
        signal.pause()


def _detach(process: Provisioner, place: Place, image: str, node: str, step: str) -> None:
    def halting(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def halted(*arguments: Any) -> Any:
            if name == step:
                _say(name)
                signal.pause()
            return act(*arguments)

        return halted

    store = CephAttachments(process.places)
    steps = {"note": (store, "_note"), "fence": (fences, "fence"), "osds": (fences, "barrier")}
    steps |= {"lock": (fences, "release_locks"), "replace": (store, "replace")}
    for name, (where, method) in steps.items():
        setattr(where, method, halting(name, getattr(where, method)))
    Attachments(store).detach(VolumeId(place, image), node)
    _say("done")


def _churn(process: Provisioner, place: Place, seed: str, threads: str) -> None:
    process.volumes.attend(place)
    _say("ready")
    sys.stdin.readline()
    workers = [
        threading.Thread(target=_churn_some, args=(process, place, _dice(seed, number), number, int(threads)))
        for number in range(int(threads))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _dice(*seed: object) -> random.Random:
    return random.Random(str(seed))  # noqa: S311


def _churn_some(process: Provisioner, place: Place, dice: random.Random, number: int, threads: int) -> None:
    mine = [f"churn-{index}" for index in range(number, NAMES, threads)]
    made: set[str] = set()
    while True:
        name = dice.choice(mine)
        # an asker deletes what it was given; what it may not have been given yet, it abandons
        action = dice.choice(("create", "delete" if name in made else "abandon"))
        _say(f"begin {action} {name}")
        getattr(process, action)(place, name)
        _say(f"done {action} {name}")
        (made.add if action == "create" else made.discard)(name)


def _fill(process: Provisioner, place: Place, count: str) -> None:
    names = [f"fill-{index}" for index in range(int(count))]
    for name in names:
        process.create(place, name)
    for name in names:
        process.delete(place, name)
    _say("purging")
    for _, done in process.store.purge(lambda: _say("next") is None):
        _say(str(done))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")  # in one piece, whatever the other threads say
    sys.stdout.flush()


if __name__ == "__main__":
    main()
