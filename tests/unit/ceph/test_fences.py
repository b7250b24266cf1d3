"""Which fences are set, and when they count: against monitors and OSDs that answer as told."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import rados

from provisioner.ceph import fences
from provisioner.ceph.fences import FOR_GOOD
from provisioner.ceph.placement import group_of
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.ids import Place

ADDRESS = "10.0.0.1:0/5"
PLACE = Place("dev", "rbd", "ns")
GROUPS = 300


class Cluster:
    """Lists fences as Ceph 16.2: the first of two for an address stays. `deaf` monitors say yes and do nothing."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.listed: dict[str, float] = {}
        self.steps: list[str] = []
        self.names: list[str] = []
        self.codes: dict[int, int] = {}
        self.deaf, self.gone = deaf, False
        self.before: Callable[[], None] = lambda: None

    @contextmanager
    def alone(self, address: str) -> Iterator[None]:
        """Another process may have been at it before us."""
        self.before()
        self.steps.append("lock")
        yield
        self.steps.append("unlock")

    def blocklist(self) -> dict[str, float]:
        return dict(self.listed)

    def fence(self, address: str, seconds: float) -> None:
        self.steps.append("add")
        if not self.deaf:
            self.listed.setdefault(address, time.time() + seconds)

    def unfence(self, address: str) -> None:
        self.steps.append("rm")
        del self.listed[address]

    def groups(self, pool: str) -> int:
        if self.gone:
            raise NotFound(f"pool {pool}")
        return GROUPS

    def catch_up(self) -> None:
        self.steps.append("map")

    @contextmanager
    def pool(self, place: Place) -> "Iterator[Cluster]":
        yield self

    def stat(self, name: str) -> None:
        assert self.steps == ["map"], "the newest map comes first"
        self.names.append(name)
        code = self.codes.get(group_of(name, PLACE.namespace, GROUPS), errno.ENOENT)
        raise rados.ObjectNotFound(name) if code == errno.ENOENT else rados.TimedOut(name)


def test_a_fence_is_for_years() -> None:
    cluster = Cluster()
    fences.fence(cluster, [ADDRESS], cluster.alone)  # type: ignore[arg-type]
    assert cluster.listed[ADDRESS] - time.time() > FOR_GOOD - 60


def test_one_that_is_for_years_already_is_left_alone() -> None:
    cluster = Cluster()
    cluster.listed[ADDRESS] = time.time() + FOR_GOOD / 2
    fences.fence(cluster, [ADDRESS], cluster.alone)  # type: ignore[arg-type]
    assert cluster.steps == []


def test_a_short_one_is_replaced_since_a_second_would_not_lengthen_it() -> None:
    cluster = Cluster()
    cluster.listed[ADDRESS] = time.time() + 3600
    fences.fence(cluster, [ADDRESS], cluster.alone)  # type: ignore[arg-type]
    assert cluster.steps == ["lock", "rm", "add", "unlock"]
    assert cluster.listed[ADDRESS] - time.time() > FOR_GOOD - 60


def test_one_that_another_process_just_replaced_is_not_lifted_again() -> None:
    cluster = Cluster()
    cluster.listed[ADDRESS] = time.time() + 3600
    cluster.before = lambda: cluster.listed.update({ADDRESS: time.time() + FOR_GOOD})
    fences.fence(cluster, [ADDRESS], cluster.alone)  # type: ignore[arg-type]
    assert cluster.steps == ["lock", "unlock"]


def test_what_the_monitors_do_not_list_is_not_fenced_whatever_they_said() -> None:
    cluster = Cluster(deaf=True)
    with pytest.raises(Unavailable, match=ADDRESS):
        fences.fence(cluster, [ADDRESS], cluster.alone)  # type: ignore[arg-type]


def test_every_placement_group_is_asked_once_with_the_newest_map() -> None:
    cluster = Cluster()
    fences.barrier(cluster, PLACE)  # type: ignore[arg-type]
    assert sorted(group_of(name, "ns", GROUPS) for name in cluster.names) == list(range(GROUPS))


def test_one_group_that_does_not_answer_is_enough_to_fail() -> None:
    cluster = Cluster()
    cluster.codes[GROUPS - 1] = errno.ETIMEDOUT
    with pytest.raises(rados.TimedOut):
        fences.barrier(cluster, PLACE)  # type: ignore[arg-type]


def test_a_pool_that_is_gone_needs_no_answer() -> None:
    cluster = Cluster()
    cluster.gone = True
    fences.barrier(cluster, PLACE)  # type: ignore[arg-type]
    assert cluster.names == []
