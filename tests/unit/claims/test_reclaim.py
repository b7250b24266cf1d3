"""What is due to a PersistentVolume, by its policy, its phase and whether somebody deleted it."""

import pytest

from provisioner.claims.reclaim import End, end_of
from tests.unit.claims.objects_of import volume


@pytest.mark.parametrize("phase", ["Released", "Failed"])
def test_a_released_volume_goes_with_its_image_if_its_policy_is_delete(phase: str) -> None:
    assert end_of(volume(phase=phase)) is End.DELETE_IMAGE


@pytest.mark.parametrize("policy", ["Retain", "Recycle"])
def test_a_released_volume_stays_if_its_policy_is_another(policy: str) -> None:
    assert end_of(volume(phase="Released", policy=policy)) is End.NOT_YET


@pytest.mark.parametrize("phase", ["Pending", "Available", "Bound"])
def test_a_volume_in_use_stays_whatever_its_policy(phase: str) -> None:
    assert end_of(volume(phase=phase)) is End.NOT_YET


@pytest.mark.parametrize("phase", ["Available", "Bound", "Released"])
def test_a_deleted_volume_takes_its_image_along_if_its_policy_is_delete(phase: str) -> None:
    assert end_of(volume(phase=phase, leaving=True)) is End.DELETE_IMAGE


@pytest.mark.parametrize("policy", ["Retain", "Recycle"])
@pytest.mark.parametrize("phase", ["Available", "Released"])
def test_a_deleted_volume_leaves_its_image_if_its_policy_is_another(phase: str, policy: str) -> None:
    assert end_of(volume(phase=phase, policy=policy, leaving=True)) is End.KEEP_IMAGE


@pytest.mark.parametrize("leaving", [True, False])
def test_a_volume_without_our_finalizer_was_dealt_with(leaving: bool) -> None:
    assert end_of(volume(phase="Released", leaving=leaving, finalizer=False)) is End.NOT_YET
