"""The pulse: an answer in time, whatever the cluster does."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from csi.pulse import Pulse
from provisioner.core.errors import InvalidRequest, ProvisionerError, Unavailable
from tests.harness.waiting import until

PATIENCE = 0.2


class Patient:
    """Clusters that answer, refuse, or keep still until let go."""

    def __init__(self, *still: str, refusing: str = "", refusal: ProvisionerError | None = None) -> None:
        self.still, self.refusing, self.refusal = set(still), refusing, refusal or Unavailable("no")
        self.asked: list[str] = []
        self.let_go = threading.Event()

    def ask(self, cluster: str) -> None:
        self.asked.append(cluster)
        if cluster in self.still:
            self.let_go.wait(10)
        if cluster == self.refusing:
            raise self.refusal


def test_a_cluster_that_answers_beats() -> None:
    assert Pulse(lambda: ["a"], Patient().ask).beats()


def test_a_cluster_that_refuses_does_not() -> None:
    assert not Pulse(lambda: ["a"], Patient(refusing="a").ask).beats()


def test_a_refusal_is_an_answer_though_nothing_can_be_done_there() -> None:
    patient = Patient(refusing="a", refusal=InvalidRequest("clusterID", "a", "is none"))
    pulse = Pulse(lambda: ["a"], patient.ask)
    assert pulse.answers("a")
    assert not pulse.beats()
    assert not Pulse(list, Patient(refusing="a").ask).answers("a")


def test_no_cluster_has_no_pulse() -> None:
    assert not Pulse(list, Patient().ask).beats()


def test_one_of_two_is_enough_however_still_the_other() -> None:
    patient = Patient("a")
    try:
        started = time.monotonic()
        assert Pulse(lambda: ["a", "b"], patient.ask, PATIENCE).beats()
        assert time.monotonic() - started < 2 * PATIENCE
    finally:
        patient.let_go.set()


def test_a_still_cluster_is_asked_once_by_however_many() -> None:
    patient = Patient("a")
    pulse = Pulse(lambda: ["a"], patient.ask, PATIENCE, fresh=0.0)
    try:
        with ThreadPoolExecutor(10) as pool:
            assert not any(pool.map(lambda _: pulse.beats(), range(30)))
        assert patient.asked == ["a"]
    finally:
        patient.let_go.set()
    until(pulse.beats, 5, "the pulse is back")


def test_an_answer_is_good_for_a_moment_only() -> None:
    patient = Patient()
    lasting, passing = Pulse(lambda: ["a"], patient.ask, fresh=60), Pulse(lambda: ["a"], patient.ask, fresh=0.0)
    assert [lasting.beats() for _ in range(3)] == [True] * 3
    assert len(patient.asked) == 1
    assert passing.beats()
    until(lambda: passing.beats() and len(patient.asked) >= 3, 5, "a stale answer is asked for again")
