"""The memory of names asked for lately."""

from provisioner.core.recent import Recent


def test_name_is_new_once() -> None:
    recent = Recent()
    assert [recent.is_new("a"), recent.is_new("a"), recent.is_new("b")] == [True, False, True]


def test_name_that_was_not_asked_for_in_a_while_is_new_again() -> None:
    recent = Recent(most=2)
    for name in ("a", "b", "a", "c"):
        recent.is_new(name)
    assert recent.is_new("b")
    assert not recent.is_new("c")
