"""Whose id an image bears, told from its digits alone. Takes a second."""

from hypothesis import given
from hypothesis import strategies as st

from provisioner.ceph.names import is_made_by

instances = st.integers(1, (1 << 48) - 1)


def _as_librbd_makes_it(instance: int, random: int) -> str:
    return f"{instance:x}{random:x}"[-14:]


@given(instances, st.integers(0, 0xFFFFFFFF))
def test_an_id_is_recognised_by_the_client_that_made_it(instance: int, random: int) -> None:
    assert is_made_by(_as_librbd_makes_it(instance, random), instance)


def test_an_id_of_another_client_is_told_apart() -> None:
    assert not is_made_by(_as_librbd_makes_it(0x1019, 0x12345678), 0x101A)
    assert not is_made_by(_as_librbd_makes_it(0x1019, 0x12345678), 0x2019)
    assert not is_made_by("", 0x1019)


def test_one_client_s_digits_that_go_on_as_another_s_are_told_apart_by_their_number() -> None:
    assert not is_made_by(_as_librbd_makes_it(0x10191, 0x12345678), 0x1019)
