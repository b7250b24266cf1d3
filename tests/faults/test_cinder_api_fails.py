"""Each call to Cinder fails in turn, in each way that calls fail: on the way up, while it grows, on the way down. About 80 s.

Eight claims at once, through a proxy. Each has a story of failures; what fails, fails once, and everything comes to its end by
itself. Kills between the steps: tests/integration/test_cinder_store.py.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.kube.resources import PERSISTENT_VOLUMES, Object
from tests.harness.ceph import Ceph
from tests.harness.cinder import CLOUD, Cinder
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.proxy import CUT, HANG, Story, proxied
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(900)
"""The first one makes all cases, and waits for the slowest."""

Failure = tuple[str, str | int]
UP = ("create", "reserve", "initialize_connection", "attach")
DOWN = ("detach", "terminate_connection", "unreserve", "delete")
READS = ("find", "look")
STEPS = (*UP, "extend", *DOWN)
REFUSED = (500, 409, 413)
DOING = {
    **{"find": "looking for volume", "look": "looking at volume", "extend": "growing volume"},
    **{"create": "making volume", "reserve": "reserving volume", "attach": "attaching volume"},
    **{"detach": "detaching volume", "unreserve": "unreserving volume", "delete": "deleting volume"},
    **{step: step for step in ("initialize_connection", "terminate_connection")},
}
"""How a message names a step."""
UNDONE = {
    "create": [],
    "reserve": ["delete"],
    "initialize_connection": ["unreserve", "delete"],
    "attach": ["terminate_connection", "unreserve", "delete"],
}
"""What follows on a refused step, in reverse of what came before it."""
HANGING = (
    ("create", "attach", "delete"),
    ("find", "reserve", "detach"),
    ("initialize_connection", "terminate_connection", "look"),
    ("extend", "unreserve"),
)
"""Each hang takes as long as a call may: so they are shared out."""
STORIES: list[tuple[Failure, ...]] = [
    *(tuple((step, REFUSED[(turn + number) % 3]) for number, step in enumerate(STEPS)) for turn in range(3)),
    (*((step, CUT) for step in STEPS), *((step, 500) for step in READS)),
    *(tuple((step, HANG) for step in hanging) for hanging in HANGING),
]
"""Every step in every way."""
FAILURES = [failure for story in STORIES for failure in story]


@dataclass
class Case:
    """A claim, its volume's name, and what was made to happen to it."""

    claim: Object
    name: str
    story: Story
    at_the_end: list[Failure]
    """Failures that are not due before the volume is there: undoing takes the same steps."""
    volume: Object = field(default_factory=dict)

    @property
    def steps(self) -> list[str]:
        """The calls that change something, in order; `step!` failed."""
        return [step for step in self.story.steps if step.removesuffix("!") not in READS]


Cases = dict[Failure, Case]


@pytest.fixture(scope="module")
def cases(
    cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes, account: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cases]:
    """The case of every failure, gone through from claim to nothing."""
    directory = tmp_path_factory.mktemp("provisioner")
    with proxied(cinder.endpoint) as (proxy, endpoint):
        config = cinder.config_file(directory, ceph, endpoint=endpoint, timeout=20)
        program = Program(directory, config, account, f"{uuid.uuid4().hex[:8]}.example.com/cinder", "--workers", "8")
        storage_class = kubernetes.make_class(program.provisioner, {"cloud": CLOUD, "type": "rbd"})
        made: Cases = {}
        for story in STORIES:
            claim = kubernetes.make_claim(storage_class)
            name = f"pvc-{claim['metadata']['uid']}"
            at_the_end = [failure for failure in story if failure[0] in DOWN]
            told = proxy.story(name, *(failure for failure in story if failure not in at_the_end))
            made |= dict.fromkeys(story, Case(claim, name, told, at_the_end))
        program.start()
        try:
            _live(kubernetes, list({case.name: case for case in made.values()}.values()))
            yield made
        finally:
            program.stop()


def _live(kubernetes: Kubernetes, cases: list[Case]) -> None:
    """From claim to volume, to a larger volume, to nothing."""
    for case in cases:
        case.volume = kubernetes.wait_bound(case.claim, 300)
        kubernetes.patch_claim(case.claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    for case in cases:
        path = PERSISTENT_VOLUMES.path(name=case.name)
        until(
            lambda path=path: kubernetes.api.get(path)["spec"]["capacity"]["storage"] == "2Gi",  # type: ignore[misc]
            240,
            f"{case.name} has grown",
            lambda case=case: str(kubernetes.told(case.claim)),  # type: ignore[misc]
        )
        case.story.due += case.at_the_end
        kubernetes.delete_claim(case.claim)
    for case in cases:
        kubernetes.wait_gone(case.claim, 300)


def test_after_all_failures_nothing_is_left(cases: Cases, cinder: Cinder, ceph: Ceph, kubernetes: Kubernetes) -> None:
    assert [case.story.due for case in cases.values() if case.story.due] == [], "each failure did happen"
    names = [case.name for case in cases.values()]
    cinder.wait_nothing_left(ceph, *names)
    assert not {f"{name}-connection" for name in names} & {s["metadata"]["name"] for s in kubernetes.secrets()}


@pytest.mark.parametrize(("step", "way"), FAILURES)
def test_an_event_tells_what_failed(cases: Cases, kubernetes: Kubernetes, step: str, way: str | int) -> None:
    case = cases[step, way]
    told = [message for item in (case.claim, case.volume) for _, message in kubernetes.told(item)]
    text = f"the proxy refuses {step}" if isinstance(way, int) else "Cinder does not answer"
    assert [message for message in told if text in message and DOING[step] in message], told


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in FAILURES if step in UP and way in REFUSED])
def test_what_came_before_a_refused_step_is_undone_in_reverse(cases: Cases, step: str, way: int) -> None:
    steps = cases[step, way].steps
    refused = steps.index(f"{step}!")
    began = max((at for at in range(refused) if steps[at] == "create"), default=refused)
    assert steps[began:refused] == list(UP[: UP.index(step)])
    assert steps[refused + 1 : steps.index("create", refused + 1)] == UNDONE[step]


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in FAILURES if step in UP and way in (CUT, HANG)])
def test_a_step_without_an_answer_is_not_undone_but_done(cases: Cases, step: str, way: str) -> None:
    steps = cases[step, way].steps
    made = 2 if cases.get(("create", HANG)) is cases[step, way] else 1
    on_the_way_up = [each for each in steps[: _end_begins(steps)] if each.removesuffix("!") in (*UP, *DOWN)]
    assert {each.removesuffix("!") for each in on_the_way_up} == set(UP)
    assert on_the_way_up.count("create") + on_the_way_up.count("create!") == made


@pytest.mark.parametrize(("step", "way"), [(step, way) for step, way in FAILURES if step in DOWN])
def test_the_end_comes_in_reverse_of_the_beginning(cases: Cases, step: str, way: str | int) -> None:
    steps = cases[step, way].steps
    order = [each.removesuffix("!") for each in steps[_end_begins(steps) :] if each.removesuffix("!") in DOWN]
    assert list(dict.fromkeys(order)) == list(DOWN)


def _end_begins(steps: list[str]) -> int:
    """Nothing is detached on the way up: an attach that is refused did not happen."""
    return min(at for at, step in enumerate(steps) if step.removesuffix("!") == "detach")
