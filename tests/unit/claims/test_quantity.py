"""Kubernetes quantities: every form that the API server accepts, to bytes and back."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.claims.quantity import from_bytes, to_bytes
from provisioner.core.errors import InvalidRequest

FACTORS = {
    **{unit: Fraction(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{unit: Fraction(1000) ** power for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)},
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        (".5Mi", 1 << 19),
        ("1.Ki", 1024),
        ("+1Ki", 1024),
        ("1G", 10**9),
        ("1500m", 2),
        ("1n", 1),
        ("1000000u", 1),
        ("1e9", 10**9),
        ("1.5E3", 1500),
        ("1E", 10**18),
        ("5e-1", 1),
        ("128974848", 128974848),
        ("129M", 129 * 10**6),
        ("7Ei", 7 << 60),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, size: int) -> None:
    assert to_bytes("size", text) == size


@pytest.mark.parametrize(
    "text",
    ["", " 1Gi", "1Gi ", "1gi", "1GB", "1KiB", "Gi", "1e", "1e9Gi", "0x10", "1_000", "\N{ARABIC-INDIC DIGIT ONE}", "--1", "."],
)
def test_what_is_no_quantity_is_refused_by_field_and_value(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_bytes("spec.resources.requests.storage", text)
    assert (caught.value.field, caught.value.value) == ("spec.resources.requests.storage", text)


@given(st.integers(min_value=0, max_value=1 << 70))
def test_bytes_written_are_read_back(size: int) -> None:
    assert to_bytes("size", from_bytes(size)) == size


@given(st.integers(min_value=1, max_value=1 << 30))
def test_whole_mebibytes_are_written_in_a_binary_unit(mebibytes: int) -> None:
    assert from_bytes(mebibytes << 20)[-2:] in ("Mi", "Gi", "Ti")


@given(st.decimals(min_value=0, max_value=10**12, places=6), st.sampled_from(sorted(FACTORS)))
def test_a_part_of_a_byte_counts_as_one(number: object, unit: str) -> None:
    text = f"{number:f}"
    assert to_bytes("size", text + unit) == math.ceil(Fraction(text) * FACTORS[unit])
