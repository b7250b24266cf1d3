"""The lease: one leads at a time, the next one takes over in time, and a leader that can't renew steps down before that."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from provisioner.kube.leader import Elector, Timing, new_identity
from provisioner.kube.resources import LEASES, Object
from provisioner.kube.transport import Api
from tests.harness.waiting import until
from tests.unit.kube.troubled_apiserver import Server, cut_off, page_of_a_proxy, refused, silent

FAST = Timing(lease=2.0, renew=1.2, retry=0.1)
LEASE = ("leases", "ceph", "claims")
Campaign = Callable[..., "Replica"]


class Replica:
    """An elector, and what it was told."""

    def __init__(self, api: Api, name: str, timing: Timing = FAST) -> None:
        self.history: list[str] = []
        self.stopped = threading.Event()
        self.elector = Elector(api, "ceph", "claims", name, self._started, self._stopped, timing)
        self.elector.start()

    def _started(self) -> None:
        self.history.append("started")

    def _stopped(self) -> None:
        self.history.append("stopped")
        self.stopped.set()

    def leads(self) -> bool:
        return self.elector.wait_leading(10)


@pytest.fixture
def campaign(api: Api) -> Iterator[Campaign]:
    started: list[Replica] = []

    def start(name: str, timing: Timing = FAST) -> Replica:
        replica = Replica(api, name, timing)
        started.append(replica)
        return replica

    yield start
    for replica in started:
        assert replica.elector.stop()


def lease(server: Server) -> Object:
    spec: Object = server.kept.objects[LEASE]["spec"]
    return spec


def held_by(server: Server, name: str, seconds: int = 2) -> None:
    """Write the lease as somebody else does, with a clock that is a year behind."""
    old = "2025-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": old, "acquireTime": old}
    server.kept.write(LEASE, LEASES.body({"namespace": "ceph", "name": "claims"}, spec=spec))


def test_who_comes_first_leads(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    assert replica.elector.leading
    assert lease(server)["holderIdentity"] == "one"
    assert replica.history == ["started"]


def test_the_record_is_what_other_clients_expect(server: Server, campaign: Campaign) -> None:
    assert campaign("one").leads()
    spec = lease(server)
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (2, 0)
    for moment in (spec["acquireTime"], spec["renewTime"]):
        assert time.strptime(moment[:19] + moment[26:], "%Y-%m-%dT%H:%M:%SZ")
        assert moment[19] == "."


def test_who_leads_goes_on(server: Server, campaign: Campaign) -> None:
    one, two = campaign("one"), None
    assert one.leads()
    two = campaign("two")
    assert not two.elector.wait_leading(3)
    assert one.elector.leading
    assert two.elector.holder == "one"
    assert lease(server)["leaseTransitions"] == 0


def test_a_release_is_taken_up_at_the_next_look(server: Server, campaign: Campaign) -> None:
    one = campaign("one", Timing(lease=60, renew=40, retry=0.1))
    assert one.leads()
    two = campaign("two")
    assert one.elector.stop()
    released = time.monotonic()
    assert two.leads()
    assert time.monotonic() - released < 5
    assert one.history == ["started", "stopped"]
    assert lease(server)["leaseTransitions"] == 1


def test_a_record_that_stands_still_is_taken_after_its_own_duration(server: Server, campaign: Campaign) -> None:
    held_by(server, "dead", seconds=2)
    started = time.monotonic()
    replica = campaign("one", Timing(lease=4.0, renew=3.0, retry=1.5))
    assert replica.leads()
    assert 2 <= time.monotonic() - started < 2 * 1.5, "it looked just when the record ran out, and not a period later"


def test_a_record_that_moves_is_respected_whatever_its_clock_says(server: Server, campaign: Campaign) -> None:
    held_by(server, "alive", seconds=1)
    replica = campaign("one")
    for beat in range(15):
        spec = {**lease(server), "renewTime": f"2025-01-01T00:00:00.{beat:06}Z"}
        server.kept.write(LEASE, LEASES.body({"namespace": "ceph", "name": "claims"}, spec=spec))
        assert not replica.elector.wait_leading(0.2)


def test_a_leader_steps_down_before_the_others_may_take_over(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    server.next("update", *[refused(500, "InternalError")] * 1000)
    renewed = time.monotonic()
    assert replica.stopped.wait(10)
    assert time.monotonic() - renewed < FAST.lease
    assert not replica.elector.leading


def test_a_silent_server_does_not_make_it_late(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    server.next("update", *[silent] * 1000)
    renewed = time.monotonic()
    assert replica.stopped.wait(10)
    assert time.monotonic() - renewed < FAST.lease


def test_a_short_trouble_costs_nothing(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    server.next("update", refused(500, "InternalError"), cut_off, page_of_a_proxy(502))
    renewals = len(server.asked("update"))
    until(lambda: len(server.asked("update")) > renewals + 6, 10, "renewals go on", every=0.01)
    assert replica.history == ["started"]


def test_a_renewal_whose_answer_was_lost_is_still_one(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()

    def done_but_cut(handler: object) -> None:
        server.kept.write(LEASE, handler.request_now.body)  # type: ignore[attr-defined]
        cut_off(handler)  # type: ignore[arg-type]

    server.next("update", done_but_cut)
    renewals = len(server.asked("update"))
    until(lambda: len(server.asked("update")) > renewals + 4, 10, "renewals go on", every=0.01)
    assert replica.history == ["started"]


def test_a_lease_taken_by_force_is_given_up_at_once(server: Server, campaign: Campaign) -> None:
    replica = campaign("one", Timing(lease=60, renew=40, retry=0.1))
    assert replica.leads()
    held_by(server, "usurper", seconds=60)
    assert replica.stopped.wait(5)
    assert lease(server)["holderIdentity"] == "usurper"


def test_a_lease_deleted_by_hand_is_made_again(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    server.kept.remove(LEASE)
    until(lambda: LEASE in server.kept.objects, 10, "the lease is back", every=0.01)
    assert replica.history == ["started"]


def test_who_lost_the_lead_campaigns_again(server: Server, campaign: Campaign) -> None:
    replica = campaign("one")
    assert replica.leads()
    held_by(server, "usurper", seconds=1)
    assert replica.stopped.wait(5)
    until(lambda: replica.history == ["started", "stopped", "started"], 10, "it leads again", every=0.01)


def test_of_many_one_leads_at_a_time(campaign: Campaign) -> None:
    replicas = [campaign(f"replica-{index}") for index in range(5)]
    for left in range(5, 0, -1):
        until(lambda: any(replica.elector.leading for replica in replicas), 10, "one leads", every=0.01)
        leaders = [replica for replica in replicas if replica.elector.leading]
        assert len(leaders) == 1
        assert len(replicas) == left
        assert leaders[0].elector.stop()
        replicas.remove(leaders[0])


def test_a_stranger_does_not_release_anothers_lease(server: Server, campaign: Campaign) -> None:
    held_by(server, "other", seconds=60)
    replica = campaign("one")
    until(lambda: replica.elector.holder == "other", 10, "it has looked", every=0.01)
    assert replica.elector.stop()
    assert lease(server)["holderIdentity"] == "other"


def test_what_others_wrote_beside_our_fields_stays(server: Server, campaign: Campaign) -> None:
    body = LEASES.body({"namespace": "ceph", "name": "claims", "labels": {"a": "b"}}, spec={"strategy": "OldestEmulation"})
    server.kept.write(LEASE, body)
    assert campaign("one").leads()
    assert server.kept.objects[LEASE]["metadata"]["labels"] == {"a": "b"}
    assert lease(server)["strategy"] == "OldestEmulation"


def test_every_process_has_a_name_of_its_own() -> None:
    assert new_identity() != new_identity()


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_times_that_can_not_work_are_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must outlast"):
        Timing(*timing)
