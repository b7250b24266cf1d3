"""A claim that goes before its PersistentVolume is saved leaves nothing, wherever its provisioner stood or died. About 40 s.

Each step is stopped by refusing the write that follows it: the claim is held, its image made, its user and Secret made, its
PersistentVolume saved.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from provisioner.claims import objects
from provisioner.kube.resources import STORAGE_CLASSES, Object
from tests.harness.admission import no_release, no_secrets, no_volumes
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.traces import traces, wait_no_traces
from tests.harness.waiting import until

Refusal = Callable[[Kubernetes], AbstractContextManager[None]]
STEPS: dict[str, tuple[Refusal, list[str]]] = {
    "its user is made": (no_secrets, ["image", "user"]),
    "its Secret is made": (no_volumes, ["image", "user", "Secret"]),
    "its volume is saved": (no_release, ["image", "user", "Secret", "PersistentVolume"]),
}


def kinds_of_traces(claim: Object, ceph: Ceph, kubernetes: Kubernetes) -> list[str]:
    return [found.split()[0] for found in traces(claim, ceph, kubernetes)]


def restart(program: Program) -> None:
    """Kill and start at once, under another lease: its own would have to run out first."""
    program.kill()
    program.with_options("--lease", f"again-{program.pid}").start(ready=False)


def is_held(kubernetes: Kubernetes, claim: Object) -> bool:
    return objects.CLAIM_FINALIZER in objects.finalizers(kubernetes.claim(claim) or {"metadata": {}})


def stopped(step: str, ceph: Ceph, kubernetes: Kubernetes, provisioner: str) -> Object:
    """A claim that got as far as the step."""
    claim = kubernetes.make_claim(kubernetes.make_class(provisioner, {"pool": ceph.pool}))
    made = STEPS[step][1]
    until(lambda: kinds_of_traces(claim, ceph, kubernetes) == made, 120, step, lambda: str(kubernetes.told(claim)))
    return claim


@pytest.mark.parametrize("step", STEPS)
def test_a_claim_deleted_while_its_provisioner_is_dead(ceph: Ceph, kubernetes: Kubernetes, program: Program, step: str) -> None:
    program.start()
    with STEPS[step][0](kubernetes):
        claim = stopped(step, ceph, kubernetes, program.provisioner)
        program.kill()
        kubernetes.delete_claim(claim)
    restart(program)
    wait_no_traces(claim, ceph, kubernetes)


@pytest.mark.parametrize("step", ["its user is made", "its Secret is made"])
def test_a_claim_deleted_while_its_provisioner_tries_again(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, step: str
) -> None:
    with STEPS[step][0](kubernetes):
        claim = stopped(step, ceph, kubernetes, provisioner.provisioner)
        kubernetes.delete_claim(claim)
        wait_no_traces(claim, ceph, kubernetes)


def test_a_claim_held_while_ceph_hangs_goes_without_a_trace(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    kubernetes.wait_bound(kubernetes.make_claim(storage_class))
    with ceph.frozen_osd():
        claim = kubernetes.make_claim(storage_class)
        until(lambda: is_held(kubernetes, claim), 120, "the claim is held")
        program.kill()
        kubernetes.delete_claim(claim)
    assert kubernetes.claim(claim) is not None
    restart(program)
    wait_no_traces(claim, ceph, kubernetes)


def test_a_class_deleted_before_its_claim_is_not_needed_to_clean_up(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    bound = kubernetes.make_claim(storage_class)
    kubernetes.wait_bound(bound)
    with no_volumes(kubernetes):
        half_made = kubernetes.make_claim(storage_class)
        until(lambda: len(traces(half_made, ceph, kubernetes)) == 3, 120, "the claim's Secret is made")
        kubernetes.api.delete(STORAGE_CLASSES.path(name=storage_class))
        restart(program)
        for claim in (bound, half_made):
            kubernetes.delete_claim(claim)
            wait_no_traces(claim, ceph, kubernetes)


def test_an_image_whose_claim_vanished_is_swept_at_the_next_start(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    with ceph.no_new_users():
        claim = kubernetes.make_claim(storage_class)
        until(lambda: kinds_of_traces(claim, ceph, kubernetes) == ["image"], 120, "the image is made")
        program.kill()
        kubernetes.patch_claim(claim, {"metadata": {"finalizers": None}})
        kubernetes.delete_claim(claim)
        until(lambda: kubernetes.claim(claim) is None, 120, "the claim is gone")
    restart(program)
    wait_no_traces(claim, ceph, kubernetes)


def test_a_claim_bound_to_another_volume_leaves_nothing_of_its_own(
    ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    with no_volumes(kubernetes):
        claim = kubernetes.make_claim(storage_class)
        until(lambda: len(traces(claim, ceph, kubernetes)) == 3, 120, "the claim's Secret is made")
        by_hand = kubernetes.make_volume_by_hand(f"by-hand-{claim['metadata']['uid']}", storage_class, claim)
        until(lambda: (kubernetes.claim(claim) or {})["spec"].get("volumeName") == by_hand, 120, "the claim is bound to it")
        until(lambda: traces(claim, ceph, kubernetes) == [], 120, "our image is gone")
        until(lambda: not is_held(kubernetes, claim), 120, "the claim is free")
    kubernetes.delete_claim(claim)
    kubernetes.delete_volume(by_hand)


def test_a_volume_that_took_the_name_is_never_touched(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    claim = kubernetes.make_claim(storage_class)
    name = kubernetes.make_volume_by_hand(f"pvc-{claim['metadata']['uid']}", "by-hand")
    program.start()
    kubernetes.wait_event(claim, "ProvisioningFailed", f"PersistentVolume {name} exists already")
    kubernetes.delete_claim(claim)
    until(lambda: kinds_of_traces(claim, ceph, kubernetes) == ["PersistentVolume"], 120, "only the volume is left")
    until(lambda: kubernetes.claim(claim) is None, 120, "the claim is gone")
    kubernetes.delete_volume(name)


def test_a_populated_volume_outlives_the_claim_it_was_made_for(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    """As populators do it: the volume of a claim of theirs is handed on to the claim that waits for its data."""
    program.start()
    storage_class = kubernetes.make_class(program.provisioner, {"pool": ceph.pool})
    with no_release(kubernetes):
        theirs = kubernetes.make_claim(storage_class)
        volume = kubernetes.wait_bound(theirs)["metadata"]["name"]
        program.kill()
        waiting = kubernetes.make_claim(storage_class, dataSourceRef={"apiGroup": "a.example.com", "kind": "Image", "name": "x"})
        reference = {"namespace": "default", "name": waiting["metadata"]["name"], "uid": waiting["metadata"]["uid"]}
        kubernetes.patch_volume(volume, {"spec": {"claimRef": {**reference, "resourceVersion": None}}})
        kubernetes.delete_claim(theirs)
    restart(program)
    until(lambda: kubernetes.claim(theirs) is None, 120, "the populator's claim is gone")
    until(lambda: (kubernetes.claim(waiting) or {})["spec"].get("volumeName") == volume, 120, "the volume is handed on")
    assert kinds_of_traces(theirs, ceph, kubernetes) == ["image", "user", "Secret", "PersistentVolume"]


class TestStrangersAndTenants:
    def test_an_annotation_never_leads_to_another_claims_image(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
    ) -> None:
        storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
        victim = kubernetes.make_claim(storage_class)
        target = objects.annotations(kubernetes.wait_bound(victim))[objects.VOLUME]
        forged = {
            objects.VOLUME: target,
            "volume.kubernetes.io/storage-provisioner": provisioner.provisioner,
        }
        attacker = kubernetes.make_claim(storage_class, annotations=forged, finalizers=[objects.CLAIM_FINALIZER])
        kubernetes.delete_claim(attacker)
        until(lambda: kubernetes.claim(attacker) is None, 120, "the forged claim is gone")
        assert kinds_of_traces(victim, ceph, kubernetes) == ["image", "user", "Secret", "PersistentVolume"]

    def test_a_claim_of_another_provisioner_waits_for_it(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, program: Program
    ) -> None:
        program.start()
        with no_volumes(kubernetes):
            claim = kubernetes.make_claim(kubernetes.make_class(program.provisioner, {"pool": ceph.pool}))
            until(lambda: len(traces(claim, ceph, kubernetes)) == 3, 120, "the claim's Secret is made")
            program.kill()
            kubernetes.delete_claim(claim)
        kubernetes.wait_bound(kubernetes.make_claim(kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})))
        assert len(traces(claim, ceph, kubernetes)) == 3
        restart(program)
        wait_no_traces(claim, ceph, kubernetes)
