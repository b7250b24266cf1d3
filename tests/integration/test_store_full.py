"""A pool without room: making says so at once, deleting works, even for a process that was never there before. About 25 s."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.errors import OutOfSpace
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import MIB, SizeRange
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, flags, processes, quota, unexplained, write
from tests.harness.waiting import until


@dataclass(frozen=True)
class Pool:
    """A pool of the test's own with a volume `full` that holds 2 MiB, and two processes of ours: one is new to the pool."""

    ceph: Ceph
    place: Place
    ours: Provisioner
    newcomer: Provisioner


@pytest.fixture
def pool(ceph: Ceph, tmp_path: Path) -> Iterator[Pool]:
    name = f"p{uuid.uuid4().hex[:8]}"
    ceph.make_pool(name)
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={name}"]
    (user,) = ceph.command("auth get-or-create", entity=f"client.{name}", caps=caps)  # type: ignore[misc]
    key = tmp_path / "key"
    key.write_text(user["key"])
    config = ClusterConfig("dev", conf=ceph.conf, user=name, key_file=str(key), timeout=5, pools=(name,))
    ours, newcomer = Provisioner(config), Provisioner(config)
    made = Pool(ceph, Place("dev", name), ours, newcomer)
    try:
        for volume in ("full", "other", "source"):
            ours.create(made.place, volume)
        for snapshot in ("kept", "gone"):
            ours.snapshot(made.place, "source", snapshot)
        write(ceph, made.place, "full", 2 * MIB * b"x")
        yield made
    finally:
        ours.close()
        newcomer.close()
        ceph.drop_pool(name)
        ceph.command("auth rm", entity=f"client.{name}")


def _quota_reached(pool: Pool) -> AbstractContextManager[None]:
    return quota(pool.ceph, pool.place.pool, MIB)


def _flags(pool: Pool) -> list[str]:
    return flags(pool.ceph, pool.place.pool).split(",")


@contextmanager
def _cluster_full(pool: Pool) -> Iterator[None]:
    """Have Ceph take the OSD for full: some MiB of its 10 GiB are over a ratio of nothing."""
    ratios = {"full": 0.0003, "backfillfull": 0.0002, "nearfull": 0.0001}
    usual = {"full": 0.95, "backfillfull": 0.93, "nearfull": 0.9}
    try:
        for name, ratio in ratios.items():
            pool.ceph.command(f"osd set-{name}-ratio", ratio=ratio)
        until(lambda: "full" in _flags(pool), 60, "the pool is full", lambda: str(_flags(pool)))
        yield
    finally:
        for name, ratio in usual.items():
            pool.ceph.command(f"osd set-{name}-ratio", ratio=ratio)
        until(lambda: "full" not in _flags(pool), 60, "the pool takes writes")


@pytest.mark.parametrize("without_room", [_quota_reached, _cluster_full])
def test_a_pool_without_room(pool: Pool, without_room: Callable[[Pool], AbstractContextManager[None]]) -> None:
    """One state that takes seconds to reach, and all that is claimed of it."""
    with without_room(pool):
        for process in (pool.ours, pool.newcomer):
            began = time.monotonic()
            with pytest.raises(OutOfSpace, match="no space left in creating image"):
                process.create(pool.place, "one more")
            assert time.monotonic() - began < 2, "creating says so at once"
            assert process.create(pool.place, "full").size == 1 << 30, "what is there can be asked for again"
        with at(pool.ceph, pool.place) as context:
            assert pool.newcomer.client() in processes(context), "a process that was never there enrols"
            assert not unexplained(context), "a create that was refused leaves nothing"
        assert pool.newcomer.volumes.capacity(pool.place).available == 0
        assert pool.newcomer.volumes.get(VolumeId(pool.place, "full")).size == 1 << 30, "looking works"
        with pytest.raises(OutOfSpace):
            pool.newcomer.snapshot(pool.place, "other", "one more")
        taken = {each.name: each.id for each in pool.newcomer.snapshots.of(VolumeId(pool.place, "source"))}
        with pytest.raises(OutOfSpace):
            pool.newcomer.clone(pool.place, "one more", taken["kept"])
        pool.newcomer.snapshots.delete(taken["gone"])
        pool.newcomer.delete(pool.place, "source")
        assert pool.newcomer.snapshots.get(taken["kept"]), "a deleted volume keeps its snapshot"
        pool.newcomer.snapshots.delete(taken["kept"])
        assert pool.newcomer.reap().tombstones == 1
        assert pool.newcomer.purge() == (1, 0)
        pool.newcomer.delete(pool.place, "full")
        assert pool.newcomer.listed(pool.place) == ["other"], "deleting works"
        assert pool.newcomer.purge() == (1, 0), "purging works"
        with at(pool.ceph, pool.place) as context:
            assert not unexplained(context)
    assert pool.ours.create(pool.place, "one more").size == 1 << 30, "with room, it goes on"
    assert pool.ours.volumes.expand(VolumeId(pool.place, "other"), SizeRange(2 << 30)).size == 2 << 30
