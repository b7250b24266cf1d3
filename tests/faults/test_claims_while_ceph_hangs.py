"""An OSD that stops in its tracks: claims wait and say why, the process answers, and all is well soon after. About 60 s.

CEPH_PROVISIONER_TEST_FREEZE sets the seconds for which it hangs (30).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.crowd import Crowd
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program

FREEZE = float(os.environ.get("CEPH_PROVISIONER_TEST_FREEZE", "30"))


class Probe:
    """Asks for /healthz twice a second, as an impatient kubelet."""

    def __init__(self, program: Program) -> None:
        self._program, self._stop = program, threading.Event()
        self.answers: list[tuple[int, float]] = []
        """Status and seconds of each; a page that didn't come counts as status 0."""

    @contextmanager
    def asking(self) -> Iterator["Probe"]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            started = time.monotonic()
            try:
                status, _ = self._program.page("/healthz", timeout=5)
            except OSError:
                status = 0
            self.answers.append((status, time.monotonic() - started))


def grow(kubernetes: Kubernetes, claim: Object) -> None:
    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})


def test_claims_wait_with_a_reason_and_are_bound_soon_after(
    ceph: Ceph, kubernetes: Kubernetes, pool: str, program: Program, say: Callable[[str], None]
) -> None:
    program.start()
    crowd = Crowd(ceph, kubernetes, kubernetes.make_class(program.provisioner, {"pool": pool}), pool)
    old = crowd.make(10)
    crowd.wait_settled(120)
    say(f"the OSD hangs for {FREEZE:.0f} s: 20 claims to be made, 5 to grow, 5 to be deleted")
    with ceph.frozen_osd(), Probe(program).asking() as probe:
        thaw = time.monotonic() + FREEZE
        new = crowd.make(20)
        for claim in old[:5]:
            grow(kubernetes, claim)
        for claim in old[5:]:
            kubernetes.delete_claim(claim)
        for claim in new:
            kubernetes.wait_event(claim, "ProvisioningFailed", "Ceph does not answer in time", seconds=FREEZE)
        phases = {(kubernetes.claim(claim) or {})["status"]["phase"] for claim in new}
        threading.Event().wait(max(thaw - time.monotonic(), 0))
    say("the OSD goes on")
    crowd.wait_settled(60)
    assert phases == {"Pending"}
    assert {status for status, _ in probe.answers} == {200}
    assert max(seconds for _, seconds in probe.answers) < 1
    assert len(probe.answers) > FREEZE
    assert (len(crowd.volumes()), crowd.wrong_sizes()) == (25, [])
    crowd.wait_accounted(living=1)
