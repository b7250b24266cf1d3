"""Delete and Retain are honoured in whatever order claim and PersistentVolume go. About 20 s."""

import pytest

from provisioner.claims import objects
from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.traces import traces, wait_no_traces
from tests.harness.waiting import until


class Bound:
    """A claim and its PersistentVolume."""

    def __init__(self, ceph: Ceph, kubernetes: Kubernetes, provisioner: str, policy: str) -> None:
        self._ceph, self._kubernetes = ceph, kubernetes
        self.claim = kubernetes.make_claim(kubernetes.make_class(provisioner, {"pool": ceph.pool}, reclaimPolicy=policy))
        self.volume = kubernetes.wait_bound(self.claim)
        self.name = self.volume["metadata"]["name"]

    def delete(self, what: str) -> None:
        if what == "claim":
            self._kubernetes.delete_claim(self.claim)
        else:
            self._kubernetes.delete_volume(self.name)

    def wait_phase(self, phase: str) -> None:
        until(
            lambda: (self.now() or {}).get("status", {}).get("phase") == phase,
            120,
            f"the volume is {phase}",
            lambda: str(self.now()),
        )

    def now(self) -> Object | None:
        return self._kubernetes.volume_of(self.claim)

    def set_policy(self, policy: str) -> None:
        self._kubernetes.patch_volume(self.name, {"spec": {"persistentVolumeReclaimPolicy": policy}})

    def traces(self) -> list[str]:
        return [found.split()[0] for found in traces(self.claim, self._ceph, self._kubernetes)]

    def wait_no_traces(self) -> None:
        wait_no_traces(self.claim, self._ceph, self._kubernetes)

    def wait_gone(self) -> None:
        self._kubernetes.wait_gone(self.claim)


@pytest.fixture
def bound(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, request: pytest.FixtureRequest) -> Bound:
    return Bound(ceph, kubernetes, provisioner.provisioner, request.param)


def pass_by(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> None:
    """Have another volume made and reclaimed: what was on the queues before has been looked at by then."""
    other = Bound(ceph, kubernetes, provisioner.provisioner, "Delete")
    other.delete("claim")
    other.wait_no_traces()


@pytest.mark.parametrize("bound", ["Delete"], indirect=True)
class TestDelete:
    @pytest.mark.parametrize("order", [["claim"], ["claim", "volume"], ["volume", "claim"]])
    def test_everything_goes_in_any_order(self, bound: Bound, order: list[str]) -> None:
        for what in order:
            bound.delete(what)
        bound.wait_no_traces()

    def test_a_volume_deleted_while_bound_serves_until_its_claim_goes(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, bound: Bound
    ) -> None:
        bound.delete("volume")
        pass_by(ceph, kubernetes, provisioner)
        assert bound.traces() == ["image", "user", "Secret", "PersistentVolume"]
        bound.delete("claim")
        bound.wait_no_traces()

    def test_a_policy_changed_to_retain_while_bound_keeps_everything(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, bound: Bound
    ) -> None:
        bound.set_policy("Retain")
        bound.delete("claim")
        bound.wait_phase("Released")
        pass_by(ceph, kubernetes, provisioner)
        assert bound.traces() == ["image", "user", "Secret", "PersistentVolume"]

    def test_a_volume_whose_note_of_the_image_was_broken_is_kept_and_says_so(self, kubernetes: Kubernetes, bound: Bound) -> None:
        noted = objects.annotations(bound.volume)[objects.VOLUME]
        kubernetes.patch_volume(bound.name, {"metadata": {"annotations": {objects.VOLUME: "lost"}}})
        bound.delete("claim")
        kubernetes.wait_event(bound.volume, "VolumeFailedDelete", "'lost'")
        kubernetes.patch_volume(bound.name, {"metadata": {"annotations": {objects.VOLUME: noted}}})
        bound.delete("volume")
        bound.wait_no_traces()


@pytest.mark.parametrize("bound", ["Retain"], indirect=True)
class TestRetain:
    @pytest.mark.parametrize("order", [["claim", "volume"], ["volume", "claim"]])
    def test_the_image_stays_without_its_user_and_secret(self, bound: Bound, order: list[str]) -> None:
        for what in order:
            bound.delete(what)
        bound.wait_gone()
        assert bound.traces() == ["image"]

    def test_everything_stays_while_the_volume_does(
        self, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, bound: Bound
    ) -> None:
        bound.delete("claim")
        bound.wait_phase("Released")
        pass_by(ceph, kubernetes, provisioner)
        assert bound.traces() == ["image", "user", "Secret", "PersistentVolume"]

    def test_a_policy_changed_to_delete_after_the_release_takes_everything(self, bound: Bound) -> None:
        bound.delete("claim")
        bound.wait_phase("Released")
        bound.set_policy("Delete")
        bound.wait_no_traces()


def test_what_was_released_while_nobody_ran_is_reclaimed(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> None:
    bound = Bound(ceph, kubernetes, program.start().provisioner, "Delete")
    program.kill()
    bound.delete("claim")
    bound.delete("volume")
    program.start(ready=False)
    bound.wait_no_traces()


def test_an_image_that_is_open_is_kept_until_it_is_closed(ceph: Ceph, kubernetes: Kubernetes, provisioner: Program) -> None:
    bound = Bound(ceph, kubernetes, provisioner.provisioner, "Delete")
    with ceph.open_image(bound.volume["spec"]["rbd"]["image"]):
        bound.delete("claim")
        kubernetes.wait_event(bound.volume, "VolumeFailedDelete", "in use by 127.0.0.1:")
        assert bound.traces() == ["image", "user", "Secret", "PersistentVolume"]
    bound.delete("volume")
    bound.wait_no_traces()
