"""The provisioner is killed 50 times while 200 claims come, grow and go; after that every account is even. About 2 minutes.

CEPH_PROVISIONER_TEST_SEED repeats a storm's plan; what the kills hit is up to the moment.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random

from provisioner.kube.errors import Invalid, NotFound
from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.crowd import Crowd
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program

CLAIMS, KILLS = 200, 50
SEED = os.environ.get("CEPH_PROVISIONER_TEST_SEED") or os.urandom(4).hex()


class Users:
    """People who make claims, have them grow and delete them, several at once, until they are told to stop."""

    def __init__(self, crowd: Crowd, kubernetes: Kubernetes, random: Random) -> None:
        self._crowd, self._kubernetes, self._random = crowd, kubernetes, random
        self._stop = threading.Event()
        self._alive: list[Object] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Let them make what is left of their claims, and stop."""
        self._stop.set()
        self._thread.join()
        self._crowd.make(CLAIMS - len(self._crowd.made))

    def _run(self) -> None:
        while not self._stop.wait(self._random.expovariate(1.5)):
            deed = self._random.choices((self._make, self._grow, self._delete), (2, 1, 1))[0]
            deed(self._random.randrange(1, 9))

    def _make(self, count: int) -> None:
        self._alive += self._crowd.make(min(count, CLAIMS - len(self._crowd.made)))

    def _grow(self, count: int) -> None:
        bound = [claim for claim in self._crowd.claims() if claim["status"].get("phase") == "Bound"]
        for claim in self._random.sample(bound, min(count, len(bound))):
            size = f"{self._random.randrange(2, 9)}Gi"
            with suppress(Invalid, NotFound):  # it is larger already, or just gone
                self._kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": size}}}})

    def _delete(self, count: int) -> None:
        for _ in range(min(count, len(self._alive))):
            self._kubernetes.delete_claim(self._alive.pop(self._random.randrange(len(self._alive))))


def storm(program: Program, random: Random, say: Callable[[str], None]) -> None:
    """Kill the provisioner again and again, at any moment of a life that may end before it began or last seconds."""
    for number in range(1, KILLS + 1):
        # a lease of its own for each life: a dead one's would have to run out first
        program.with_options("--lease", f"{program.provisioner.split('.')[0]}-{number}").start(ready=False)
        threading.Event().wait(random.choice((random.uniform(0, 0.5), random.uniform(0.3, 2))))
        program.kill()
        if number % 10 == 0:
            say(f"{number} of {KILLS} kills")


def test_after_fifty_kills_every_account_is_even(
    ceph: Ceph, kubernetes: Kubernetes, pool: str, program: Program, say: Callable[[str], None]
) -> None:
    say(f"seed {SEED}: {CLAIMS} claims come, grow and go while their provisioner is killed {KILLS} times")
    crowd = Crowd(ceph, kubernetes, kubernetes.make_class(program.provisioner, {"pool": pool}), pool)
    users = Users(crowd, kubernetes, Random(SEED))  # noqa: S311 - a plan, no secret
    users.start()
    try:
        storm(program, Random(f"kills {SEED}"), say)  # noqa: S311 - a plan, no secret
    finally:
        users.finish()
    say(f"the last life: {len(crowd.claims())} claims of {len(crowd.made)} are to have a volume")
    program.with_options("--lease", f"{pool}-last").start()
    crowd.wait_settled(120)
    assert crowd.wrong_sizes() == []
    crowd.wait_accounted(living=1)
    say("all of them go")
    crowd.delete_all()
    crowd.wait_settled(120)
    assert (crowd.claims(), crowd.volumes(), ceph.images(pool)) == ([], [], [])
    crowd.wait_accounted(living=1)
