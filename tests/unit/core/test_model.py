"""Sizes, layouts, credentials: what a request may say. Takes a second."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.core.errors import InvalidRequest, OutOfRange
from provisioner.core.model import FEATURES, LARGEST, MIB, Credentials, Layout, SizeRange

GIB = 1 << 30


@given(st.integers(1, LARGEST))
def test_a_size_is_rounded_up_to_mib_and_no_further(required: int) -> None:
    size = SizeRange(required).choose()
    assert size % MIB == 0
    assert 0 <= size - required < MIB
    assert SizeRange(required).admits(size)


@given(st.integers(1, LARGEST), st.integers(1, LARGEST))
def test_a_chosen_size_is_within_the_limit_or_refused(required: int, limit: int) -> None:
    asked = SizeRange(required, limit)
    try:
        assert required <= asked.choose() <= limit
    except OutOfRange:
        assert -(-required // MIB) * MIB > limit


@pytest.mark.parametrize("required", [0, -1, -GIB, 8 << 60, (1 << 64) - 1, LARGEST + 1])
def test_a_size_that_no_image_can_have_is_refused_with_its_value(required: int) -> None:
    with pytest.raises(OutOfRange) as refused:
        SizeRange(required).choose()
    assert (refused.value.field, refused.value.value) == ("size", required)
    assert str(required) in str(refused.value)


@pytest.mark.parametrize("limit", [-1, 1, GIB - 1])
def test_a_limit_below_the_size_is_refused_by_name(limit: int) -> None:
    with pytest.raises(OutOfRange) as refused:
        SizeRange(GIB, limit).choose()
    assert (refused.value.field, refused.value.value) == ("limit", limit)


def test_a_limit_that_rounding_passes_is_refused() -> None:
    with pytest.raises(OutOfRange, match="rounded up to MiB is over the limit of 1073741825 bytes"):
        SizeRange(GIB + 1, GIB + 1).choose()


def test_a_size_over_the_limit_does_not_satisfy() -> None:
    asked = SizeRange(GIB, 2 * GIB)
    assert [asked.admits(size) for size in (GIB - 1, GIB, 2 * GIB, 2 * GIB + 1)] == [False, True, True, False]


BAD_LAYOUTS: list[tuple[dict[str, Any], str, str]] = [
    ({"features": frozenset({"layering", "journaling"})}, "imageFeatures", "journaling"),
    ({"features": frozenset({"layering", "sharding"})}, "imageFeatures", "sharding"),
    ({"features": frozenset({"object-map"})}, "imageFeatures", "exclusive-lock"),
    ({"features": frozenset({"exclusive-lock", "fast-diff"})}, "imageFeatures", "object-map"),
    ({"object_size": 1000}, "objectSize", "1000"),
    ({"object_size": 2048}, "objectSize", "2048"),
    ({"object_size": 64 * MIB}, "objectSize", str(64 * MIB)),
    ({"object_size": -4096}, "objectSize", "-4096"),
    ({"object_size": 3 * MIB}, "objectSize", str(3 * MIB)),
    ({"stripe_unit": 65536}, "stripeUnit", "stripeCount"),
    ({"stripe_count": 4}, "stripeUnit", "stripeCount"),
    ({"stripe_unit": 256, "stripe_count": 4}, "stripeUnit", "256"),
    ({"stripe_unit": 3 * 65536, "stripe_count": 4}, "stripeUnit", str(3 * 65536)),
    ({"stripe_unit": 8 * MIB, "stripe_count": 4}, "stripeUnit", str(8 * MIB)),
    ({"stripe_unit": -65536, "stripe_count": 4}, "stripeUnit", "-65536"),
    ({"object_size": 65536, "stripe_unit": 2 * 65536, "stripe_count": 2}, "stripeUnit", str(2 * 65536)),
    ({"stripe_unit": 65536, "stripe_count": 1025}, "stripeCount", "1025"),
    ({"stripe_unit": 65536, "stripe_count": -1}, "stripeCount", "-1"),
]


@pytest.mark.parametrize(("arguments", "field", "told"), BAD_LAYOUTS)
def test_a_layout_that_cannot_be_is_refused_naming_field_and_value(arguments: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Layout(**arguments)
    assert refused.value.field == field
    assert told in str(refused.value)


@given(
    st.sets(st.sampled_from(FEATURES)),
    st.sampled_from([0, 4096, MIB, 32 * MIB]),
    st.sampled_from([(0, 0), (4096, 1), (4096, 16)]),
)
def test_layouts_that_differ_are_described_differently(features: set[str], object_size: int, striping: tuple[int, int]) -> None:
    try:
        layout = Layout(frozenset(features), "", object_size, *striping)
    except InvalidRequest:
        return
    plain = Layout()
    assert (layout.described() == plain.described()) == (layout == plain)


def test_an_image_without_features_can_be_described() -> None:
    assert Layout(frozenset()).described() == {"imageFeatures": ""}


@pytest.mark.parametrize(("object_size", "largest"), [(0, 256_000_000 * 4 * MIB), (4096, 256_000_000 * 4096)])
def test_an_object_map_bounds_the_size(object_size: int, largest: int) -> None:
    layout = Layout(object_size=object_size)
    layout.check_size(largest)
    with pytest.raises(OutOfRange, match=str(largest)):
        layout.check_size(largest + MIB)


def test_without_an_object_map_the_largest_image_can_be_had() -> None:
    Layout(frozenset({"layering"})).check_size(LARGEST)


@pytest.mark.parametrize(("user", "key", "field"), [("", "k", "userID"), ("admin", "", "userKey")])
def test_half_of_a_credential_is_refused(user: str, key: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Credentials(user, key)
    assert refused.value.field == field


def test_a_key_does_not_show() -> None:
    assert "secret" not in repr(Credentials("admin", "secret")) + str(Credentials("admin", "secret"))
