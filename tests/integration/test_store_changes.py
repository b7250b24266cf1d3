"""What the store says of changed bytes, against the bytes themselves, whatever was written, wiped and grown. About 10 seconds."""

import uuid
from collections.abc import Iterator

import pytest
import rados
import rbd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.ceph.diff import CephChanges
from provisioner.core.changes import Run
from provisioner.core.errors import NotFound
from provisioner.core.ids import Place, SnapshotId
from provisioner.core.model import MIB, Layout, Volume
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at, new_place, write

K = 1 << 10
OBJECT = 16 * K
SIZE = MIB
FAST = frozenset(("layering", "exclusive-lock", "object-map", "fast-diff"))

OFFSETS = st.integers(0, 16 * OBJECT // K - 1).map(lambda number: number * K)
LENGTHS = st.sampled_from([512, K, 5 * K, OBJECT, 3 * OBJECT])
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "wipe"]), OFFSETS, LENGTHS)
    | st.just(("grow", 0, 0))
    | st.just(("flatten", 0, 0)),
    max_size=6,
)


@pytest.fixture(scope="module")
def process(ceph: Ceph) -> Iterator[Provisioner]:
    made = Provisioner(ceph.config())
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(ceph: Ceph) -> Place:
    return new_place(ceph)


def made(process: Provisioner, ceph: Ceph, place: Place, layout: Layout, *, cloned: bool) -> Volume:
    """A volume: empty, or restored from a snapshot that holds something."""
    name = f"v{uuid.uuid4().hex[:8]}"
    if not cloned:
        return process.create(place, name, SIZE, layout)
    process.create(place, f"{name}-parent", SIZE, layout)
    write(ceph, place, f"{name}-parent", b"p" * 2 * OBJECT)
    write(ceph, place, f"{name}-parent", b"q" * K, 5 * OBJECT)
    return process.clone(place, name, process.snapshot(place, f"{name}-parent", f"{name}-s").id, SIZE, layout)


def content(pool: rados.Ioctx, snapshot: SnapshotId) -> bytes:
    with rbd.Image(pool, snapshot.volume.image, snapshot.snapshot) as image:
        data: bytes = image.read(0, image.size())
        return data


def act(image: rbd.Image, kind: str, offset: int, length: int) -> None:
    length = min(length, image.size() - offset)
    if kind == "write":
        image.write(bytes([1 + offset // K % 255]) * length, offset)
    elif kind == "wipe":
        image.discard(offset, length)
    elif kind == "grow":
        image.resize(image.size() + OBJECT // 2)
    elif image.overlap():
        image.flatten()


def told(process: Provisioner, base: SnapshotId | None, target: SnapshotId, start: int = 0) -> list[Run]:
    return [run for batch in CephChanges(process.places).changes(base, target, start, None) for run in batch.runs]


def covered(runs: list[Run], size: int) -> bytearray:
    marks = bytearray(size)
    for run in runs:
        assert run.length > 0
        assert run.end <= size
        assert not any(marks[run.offset : run.end])
        marks[run.offset : run.end] = b"x" * run.length
    return marks


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(features=st.sampled_from([FAST, frozenset({"layering"})]), cloned=st.booleans(), first=STEPS, second=STEPS, third=STEPS)
def test_no_byte_that_differs_is_left_out(
    process: Provisioner,
    ceph: Ceph,
    place: Place,
    features: frozenset[str],
    cloned: bool,
    first: list[tuple[str, int, int]],
    second: list[tuple[str, int, int]],
    third: list[tuple[str, int, int]],
) -> None:
    volume = made(process, ceph, place, Layout(features, object_size=OBJECT), cloned=cloned)
    ids = list[SnapshotId]()
    with at(ceph, place) as pool, rbd.Image(pool, volume.id.image) as image:
        for steps in (first, second, third):
            for step in steps:
                act(image, *step)
            ids.append(process.snapshot(place, volume.id.image, f"{volume.id.image}-{len(ids)}").id)
        data = [content(pool, each) for each in ids]
    for base, target in ((None, 0), (None, 1), (None, 2), (0, 1), (0, 2), (1, 2)):
        before = (data[base] if base is not None else b"").ljust(len(data[target]), b"\0")
        marks = covered(told(process, ids[base] if base is not None else None, ids[target]), len(data[target]))
        missed = [byte for byte in range(0, len(marks), 512) if before[byte] != data[target][byte] and not marks[byte]]
        assert missed == [], (base, target)


def test_a_walk_does_not_end_well_once_its_snapshot_is_gone(process: Provisioner, ceph: Ceph, place: Place) -> None:
    volume = process.create(place, "huge", 300 * MIB, Layout(FAST, object_size=4096))
    with at(ceph, place) as pool, rbd.Image(pool, "huge") as image:
        image.write(b"x" * 512, 290 * MIB)
        taken = process.snapshot(place, volume.id.image, "s")
        walk = CephChanges(process.places).changes(None, taken.id, 0, None)
        assert next(walk).runs == ()
        process.snapshots.delete(taken.id)
        with pytest.raises(NotFound):
            list(walk)
