"""Which worker runs which file of tests: the longest files first, and those that need a service where it runs already.

A Kubernetes or a Cinder is a session's fixture, so each worker that meets a file which uses it starts one of its own, which then
costs a part of a core until the end. And a long file that is begun last is all that the others wait for.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = {"kubernetes": 2, "csi": 1, "cinder": 1}
"""How many workers have a service of their own before one is out of other work."""
_USES = {
    "kubernetes": re.compile(r"\b(kubernetes: Kubernetes|account: Path|(program|provisioner): Program)\b"),
    "csi": re.compile(r"\b(csi: CsiCluster|copier: Program)\b"),
    "cinder": re.compile(r"\bcinder: Cinder\b"),
}
_SECONDS = re.compile(r"\b[Aa]bout (\d+) (s|minute)")


@cache
def services(file: str) -> frozenset[str]:
    """The services that a file's tests and fixtures ask for."""
    text = (ROOT / file).read_text()
    return frozenset(name for name, use in _USES.items() if use.search(text))


@cache
def seconds(file: str) -> int:
    """About how long a file takes, as its docstring says; one that doesn't is begun early rather than last."""
    told = _SECONDS.search(ast.get_docstring(ast.parse((ROOT / file).read_text())) or "")
    if told is None:
        return 1 if file.startswith("tests/unit/") else 60
    return int(told[1]) * (60 if told[2] == "minute" else 1)


class Schedule(LoadFileScheduling):
    """A file is one piece of work, as with --dist loadfile."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._running: dict[Any, set[str]] = {}

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(self._next(node), last=False)
        super()._assign_work_unit(node)

    def _next(self, node: Any) -> str:
        mine = self._running.setdefault(node, set())
        chosen: str = max(self.workqueue, key=lambda file: self._rank(file, mine))
        mine |= services(chosen)
        return chosen

    def _rank(self, file: str, mine: set[str]) -> tuple[bool, bool, int]:
        """What few may run goes first with those who may, since they can help the others afterwards, and not the reverse."""
        return not self._taken(services(file) - mine), bool(services(file)), seconds(file)

    def _taken(self, wanted: frozenset[str]) -> bool:
        """Whether enough workers have one of the services already."""
        return any(sum(name in each for each in self._running.values()) >= AT_ONCE[name] for name in wanted)
