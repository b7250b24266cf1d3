"""How long what librbd made of a layout is a mould for others. Takes a second."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from provisioner.ceph import moulds
from provisioner.ceph.headers import parse_header
from provisioner.ceph.moulds import Moulds
from provisioner.core.ids import Place
from provisioner.core.model import CreateRequest, Layout, SizeRange
from provisioner.core.volumes import plan_for

PLAN = plan_for(CreateRequest("pvc-1", Place("dev", "rbd"), SizeRange(1 << 30)))
MADE = replace(parse_header("10ab", {}), order=22, features=61)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [0.0]
    monkeypatch.setattr(moulds.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


@pytest.fixture
def kept(wait: Callable[[float], None]) -> Moulds:
    known = Moulds()
    known.keep(PLAN, MADE)
    return known


def test_librbd_is_asked_first() -> None:
    assert Moulds().mould_for(PLAN) is None


def test_a_mould_serves_for_a_minute(kept: Moulds, wait: Callable[[float], None]) -> None:
    wait(59)
    mould = kept.mould_for(PLAN)
    assert mould is not None
    assert (mould.order, mould.features) == (22, 61)


def test_of_those_who_come_after_that_one_asks_librbd(kept: Moulds, wait: Callable[[float], None]) -> None:
    wait(61)
    assert [kept.mould_for(PLAN) is None for _ in range(4)] == [True, False, False, False]


def test_a_mould_that_was_not_used_for_long_serves_nobody(kept: Moulds, wait: Callable[[float], None]) -> None:
    wait(121)
    assert [kept.mould_for(PLAN) for _ in range(2)] == [None, None]


def test_another_layout_and_another_place_have_moulds_of_their_own(kept: Moulds) -> None:
    assert kept.mould_for(replace(PLAN, layout=Layout(object_size=1 << 20))) is None
    assert kept.mould_for(replace(PLAN, id=replace(PLAN.id, place=Place("dev", "other")))) is None


def test_what_is_not_plain_is_no_mould() -> None:
    known = Moulds()
    known.keep(PLAN, replace(MADE, features=61 | 128))
    assert known.mould_for(PLAN) is None
