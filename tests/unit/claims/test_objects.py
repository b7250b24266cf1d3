"""What an object says of itself, and how far it is believed."""

import pytest

from provisioner.claims import objects
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, VolumeId
from tests.unit.claims.objects_of import UID, claim, volume


class TestTheImageThatAClaimNames:
    def test_is_found_in_any_place(self) -> None:
        noted = claim(annotations={objects.VOLUME: f"dev/fast/tenant/pvc-{UID}"})
        assert objects.noted_target(noted) == VolumeId(Place("dev", "fast", "tenant"), f"pvc-{UID}")

    @pytest.mark.parametrize("image", ["pvc-8f4d3e2a-0000-4000-8000-000000000002", "golden-image", f"pvc-{UID}x", "cp-0000"])
    def test_is_never_another_ones_whatever_the_annotation_says(self, image: str) -> None:
        assert objects.noted_target(claim(annotations={objects.VOLUME: f"dev/rbd/{image}"})) is None

    @pytest.mark.parametrize("said", ["", "pvc", "a/b/c/d/e", f"dev//pvc-{UID}"])
    def test_is_none_where_the_annotation_names_nothing(self, said: str) -> None:
        assert objects.noted_target(claim(annotations={objects.VOLUME: said})) is None


def test_a_volume_whose_annotation_was_broken_is_refused_by_name() -> None:
    broken = volume()
    broken["metadata"]["annotations"][objects.VOLUME] = "lost"
    with pytest.raises(InvalidRequest, match="'lost'"):
        objects.volume_id(broken)


class TestBinding:
    def test_a_claim_with_our_volume_is_bound(self) -> None:
        mine = claim(volumeName=f"pvc-{UID}")
        assert (objects.is_bound(mine), objects.is_bound_elsewhere(mine)) == (True, False)

    def test_a_claim_with_another_volume_is_bound_elsewhere(self) -> None:
        assert objects.is_bound_elsewhere(claim(volumeName="by-hand"))

    def test_a_claim_without_a_volume_is_not_bound(self) -> None:
        assert not objects.is_bound_elsewhere(claim())
