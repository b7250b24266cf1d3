"""What one of all our threads does at a time: whoever is late neither keeps nor ends another's turn. About 5 seconds."""

from provisioner.ceph import registry, wire
from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at
from tests.harness.waiting import until

TASK = "a-task"


def _tasks(ceph: Ceph, place: Place) -> list[str]:
    with at(ceph, place) as pool:
        return [name for name, _, _ in wire.lockers(pool, registry.PROCESSES) if not name.startswith("process.")]


def test_one_thread_has_it_at_a_time_whichever_process_it_is_of(
    ceph: Ceph, ours: Provisioner, peer: Provisioner, place: Place
) -> None:
    with ours.places.enrolled(place, None) as room, room.registry.turn(room.pool, TASK) as mine:
        assert mine is not None
        assert mine.renew()
        for other in (ours, peer):
            with other.places.enrolled(place, None) as there, there.registry.turn(there.pool, TASK, patience=0.3) as turn:
                assert turn is None
        assert _tasks(ceph, place) == [TASK]
    assert _tasks(ceph, place) == []


def test_what_lapsed_is_not_renewed_and_the_next_one_s_is_not_ended(ceph: Ceph, ours: Provisioner, place: Place) -> None:
    with ours.places.enrolled(place, None) as room:
        with room.registry.turn(room.pool, TASK, seconds=1) as late:
            assert late is not None
            with room.registry.turn(room.pool, TASK, patience=20) as next_one:
                assert next_one is not None
                assert not late.renew()
            # free by now, but somebody had it in between
            assert not late.renew()
            last = registry.Turn(room.pool, TASK, "last", 60)
            assert last.begin()
        assert _tasks(ceph, place) == [TASK]
        last.end()
    until(lambda: _tasks(ceph, place) == [], 60, "nothing is left of it")
