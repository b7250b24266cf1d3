"""A repeated request gets the volume that is there if it is what was asked for, or each difference by name. Takes no time."""

import pytest

from provisioner.core.errors import AlreadyExists
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Layout, SizeRange, Volume
from provisioner.core.volumes import same_as_asked

GIB = 1 << 30
PLAIN = Layout()
ID = VolumeId(Place("dev", "rbd"), "pvc-1")


def _found(size: int = GIB, layout: Layout = PLAIN, name: str = "pvc-1") -> Volume:
    return Volume(ID, "10ab", name, size, layout.described(), {}, "2026-01-01T00:00:00+00:00")


def _plan(size: int = GIB, layout: Layout = PLAIN) -> Blueprint:
    return Blueprint(ID, "pvc-1", size, layout, {})


def _differences(found: Volume, plan: Blueprint, size: SizeRange) -> list[str]:
    with pytest.raises(AlreadyExists) as refused:
        same_as_asked(found, plan, size)
    assert str(ID) in refused.value.what
    return list(refused.value.differs)


def test_the_same_is_given_back() -> None:
    assert same_as_asked(_found(), _plan(), SizeRange(GIB)) == _found()


def test_a_larger_volume_satisfies_without_a_limit() -> None:
    assert same_as_asked(_found(size=2 * GIB), _plan(), SizeRange(GIB)).size == 2 * GIB


def test_labels_are_no_part_of_the_identity() -> None:
    plan = Blueprint(ID, "pvc-1", GIB, Layout(), {"owner": "another"})
    assert same_as_asked(_found(), plan, SizeRange(GIB)) == _found()


def test_a_smaller_volume_is_a_difference() -> None:
    told = _differences(_found(), _plan(2 * GIB), SizeRange(2 * GIB))
    assert told == [f"size is {GIB} bytes, asked for at least {2 * GIB}"]


def test_a_volume_over_the_limit_is_a_difference() -> None:
    told = _differences(_found(size=3 * GIB), _plan(), SizeRange(GIB, 2 * GIB))
    assert told == [f"size is {3 * GIB} bytes, asked for at most {2 * GIB}"]


def test_another_name_with_the_same_hash_is_a_difference() -> None:
    assert _differences(_found(name="other"), _plan(), SizeRange(GIB)) == ["it was made for the name 'other'"]


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        (Layout(frozenset({"layering"})), "imageFeatures"),
        (Layout(data_pool="ec"), "dataPool"),
        (Layout(object_size=1 << 20), "objectSize"),
    ],
)
def test_another_layout_is_a_difference_by_name_whichever_was_first(layout: Layout, key: str) -> None:
    for found, plan in ((_found(), _plan(layout=layout)), (_found(layout=layout), _plan())):
        (told,) = _differences(found, plan, SizeRange(GIB))
        assert told.startswith(f"{key} is ")


def test_every_difference_is_named_at_once() -> None:
    layout = Layout(frozenset({"layering"}), "ec", 1 << 20, 65536, 4)
    told = _differences(_found(name="other"), _plan(2 * GIB, layout), SizeRange(2 * GIB))
    assert [line.split()[0] for line in told] == [
        "dataPool",
        "imageFeatures",
        "objectSize",
        "stripeCount",
        "stripeUnit",
        "it",
        "size",
    ]
