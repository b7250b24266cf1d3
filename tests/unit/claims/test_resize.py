"""When a bound claim's volume grows, and who has to act next."""

import pytest

from provisioner.claims.objects import grown_by_hand
from provisioner.claims.resize import Step, is_short, next_step
from provisioner.kube.resources import Object
from tests.unit.claims.objects_of import claim, volume

PENDING = [{"type": "FileSystemResizePending", "status": "True"}]


def bound(asks: str, tells: str, *, mode: str = "Filesystem", conditions: list[Object] | None = None) -> Object:
    status: Object = {"phase": "Bound", "conditions": conditions or []}
    if tells:
        status["capacity"] = {"storage": tells}
    return claim(volumeMode=mode, status=status, resources={"requests": {"storage": asks}})


@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
class TestBothModes:
    def test_a_claim_that_has_what_it_asks_for_is_left_alone(self, mode: str) -> None:
        assert next_step(bound("1Gi", "1Gi", mode=mode), volume(capacity={"storage": "1Gi"})) is Step.NOTHING

    def test_a_claim_that_asks_for_less_is_left_alone(self, mode: str) -> None:
        assert next_step(bound("1Gi", "2Gi", mode=mode), volume(capacity={"storage": "2Gi"})) is Step.NOTHING

    def test_a_claim_that_asks_for_more_makes_its_volume_grow(self, mode: str) -> None:
        assert next_step(bound("2Gi", "1Gi", mode=mode), volume(capacity={"storage": "1Gi"})) is Step.GROW

    def test_a_volume_that_has_grown_is_told_to_its_claim(self, mode: str) -> None:
        assert next_step(bound("2Gi", "1Gi", mode=mode), volume(capacity={"storage": "2Gi"})) is Step.TELL

    def test_a_claim_just_being_bound_is_left_alone(self, mode: str) -> None:
        assert not is_short(bound("2Gi", "", mode=mode))


def test_a_file_system_waits_for_its_node_once_its_image_has_grown() -> None:
    assert next_step(bound("2Gi", "1Gi", conditions=PENDING), volume(capacity={"storage": "2Gi"})) is Step.NOTHING


def test_a_file_system_that_waits_for_its_node_may_grow_further() -> None:
    assert next_step(bound("3Gi", "1Gi", conditions=PENDING), volume(capacity={"storage": "2Gi"})) is Step.GROW


def test_a_size_that_no_image_can_have_is_still_short_so_that_somebody_hears_of_it() -> None:
    assert next_step(bound("4Pi", "1Gi"), volume(capacity={"storage": "1Gi"})) is Step.GROW


@pytest.mark.parametrize(("source", "kind"), [("rbd", ""), ("iscsi", "iscsi"), ("fc", "fc")])
def test_a_file_system_over_scsi_is_no_kubelets_to_grow(source: str, kind: str) -> None:
    made = volume()
    made["spec"] = {source: {}, "capacity": {}}
    assert grown_by_hand(made) == kind
