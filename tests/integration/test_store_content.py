"""Writing what a volume begins with: over whatever a killed predecessor left, by one thread at a time. About 5 seconds."""

from collections.abc import Iterator

import pytest

from provisioner.ceph import registry, wire
from provisioner.ceph.content import CephContent
from provisioner.core.errors import Conflict
from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner, at, read, write


def _nobody(_written: int) -> None:
    """Hears how far it is."""


def test_zeros_are_where_the_content_has_none_in_a_large_image_too(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    volume = ours.create(place, "large", 3 * GIB)
    write(ceph, place, "large", b"left over", 5 * GIB // 2)
    CephContent(ours.places).fill(volume, iter([b"content"]), _nobody)
    assert read(ceph, place, "large", 9) == b"content\0\0"
    assert read(ceph, place, "large", 9, 5 * GIB // 2) == bytes(9)


def test_two_threads_of_a_process_do_not_write_one_image(ours: Provisioner, place: Place) -> None:
    volume, content = ours.create(place, "small"), CephContent(ours.places)

    def pieces() -> Iterator[bytes]:
        with pytest.raises(Conflict, match="another thread"):
            content.fill(volume, iter([b"other"]), _nobody)
        yield b"content"

    content.fill(volume, pieces(), _nobody)


def test_who_lost_the_lock_writes_no_more(ceph: Ceph, ours: Provisioner, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = ours.create(place, "small")
    monkeypatch.setattr(registry.Turn, "renew", lambda turn: turn._taken(wire.renew_lock))

    def pieces() -> Iterator[bytes]:
        yield bytes(4 << 20)
        with at(ceph, place) as pool:
            for task, client, cookie in wire.lockers(pool, registry.PROCESSES):
                if task.startswith("fill."):
                    wire.break_lock(pool, registry.PROCESSES, task, client, cookie)
        yield b"content" * (1 << 20)

    with pytest.raises(Conflict, match="taken over"):
        CephContent(ours.places).fill(volume, pieces(), _nobody)
    assert read(ceph, place, "small", 7, 4 << 20) == bytes(7)
