"""Each call to Cinder fails in turn, in each way that calls fail, on the way up and on the way down. About 60 s.

One claim for each case, all at once, through a proxy: what fails, fails once, and everything comes to its end by itself.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.cinder import CLOUD, Cinder
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.proxy import CUT, HANG, CinderProxy, Story, proxied

pytestmark = pytest.mark.timeout(600)
"""The first one makes all cases, and waits for the slowest."""

UP = ("create", "reserve", "initialize_connection", "attach")
DOWN = ("detach", "terminate_connection", "unreserve", "delete")
REFUSED: tuple[str | int, ...] = (500, 409, 413)
UNANSWERED: tuple[str | int, ...] = (HANG, CUT)
UNDONE = {
    "create": [],
    "reserve": ["delete"],
    "initialize_connection": ["unreserve", "delete"],
    "attach": ["terminate_connection", "unreserve", "delete"],
}
"""What follows on a refused step, in reverse of what came before it."""
CASES = [
    *(("create", way) for way in (*REFUSED, *UNANSWERED)),
    *((step, REFUSED[number % 3]) for number, step in enumerate((UP + DOWN)[1:])),
    *((step, CUT) for step in ("attach", "terminate_connection")),
    *((step, HANG) for step in ("initialize_connection", "delete")),
]
"""Every step is refused, and every way to fail met on the way up and down. Kills after each step: test_cinder_store."""


@dataclass
class Case:
    """A claim, its volume's name, and what was made to happen to it."""

    claim: Object
    name: str
    story: Story


@pytest.fixture(scope="module")
def cases(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, account: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str | int], Case]]:
    """Every case, gone through from claim to nothing."""
    directory = tmp_path_factory.mktemp("provisioner")
    with proxied(cinder.endpoint) as (proxy, endpoint):
        config = cinder.config_file(directory, ceph, endpoint=endpoint, timeout=20)
        program = Program(directory, config, account, f"{uuid.uuid4().hex[:8]}.example.com/cinder", "--workers", "8")
        storage_class = kubernetes.make_class(program.provisioner, {"cloud": CLOUD, "type": "rbd"})
        made = {case: _made(kubernetes, proxy, storage_class, *case) for case in CASES}
        program.start()
        try:
            for case in made.values():
                kubernetes.wait_bound(case.claim, 240)
            for case in made.values():
                kubernetes.delete_claim(case.claim)
            for case in made.values():
                kubernetes.wait_gone(case.claim, 240)
            yield made
        finally:
            program.stop()


def _made(kubernetes: Kubernetes, proxy: CinderProxy, storage_class: str, step: str, way: str | int) -> Case:
    claim = kubernetes.make_claim(storage_class)
    name = f"pvc-{claim['metadata']['uid']}"
    return Case(claim, name, proxy.story(name, step, way))


def test_after_all_failures_nothing_is_left(
    cases: dict[tuple[str, str | int], Case], cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes
) -> None:
    assert all(case.story.failed for case in cases.values()), "each failure did happen"
    names = [case.name for case in cases.values()]
    cinder.wait_nothing_left(ceph, *names)
    assert not {f"{name}-connection" for name in names} & {s["metadata"]["name"] for s in kubernetes.secrets()}


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in CASES if step in UP])
def test_the_claim_is_told_what_failed(
    cases: dict[tuple[str, str | int], Case], kubernetes: Kubernetes, step: str, way: str | int
) -> None:
    told = kubernetes.wait_event(cases[step, way].claim, "ProvisioningFailed")["message"]
    assert (f"the proxy refuses {step}" if isinstance(way, int) else "Cinder does not answer") in told


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in CASES if step in UP and way in REFUSED])
def test_what_came_before_a_refused_step_is_undone_in_reverse(
    cases: dict[tuple[str, str | int], Case], step: str, way: str | int
) -> None:
    steps = [each for each in cases[step, way].story.steps if each != "look"]
    refused = steps.index(f"{step}!")
    assert steps[:refused] == list(UP[: UP.index(step)])
    assert steps[refused + 1 : steps.index("create", refused + 1)] == UNDONE[step]


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in CASES if step in UP and way in UNANSWERED])
def test_a_step_without_an_answer_is_not_undone_but_done(
    cases: dict[tuple[str, str | int], Case], step: str, way: str | int
) -> None:
    steps = [each for each in cases[step, way].story.steps if each != "look"]
    missed = steps.index(f"{step}!")
    bound = steps.index("detach")
    assert not set(steps[missed:bound]) & {"delete", "unreserve", "terminate_connection"}
    assert steps.count("create") + steps.count("create!") == (2 if (step, way) == ("create", HANG) else 1)


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in CASES if step in DOWN])
def test_the_end_comes_in_reverse_of_the_beginning(cases: dict[tuple[str, str | int], Case], step: str, way: str | int) -> None:
    steps = [each.removesuffix("!") for each in cases[step, way].story.steps if each != "look"]
    order = [each for each in steps[steps.index("detach") :] if each in DOWN]
    assert list(dict.fromkeys(order)) == list(DOWN)
