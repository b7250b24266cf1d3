"""csi-sanity against a driver's socket: what ran, what was skipped and why, what failed."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 240


@dataclass(frozen=True)
class Spec:
    """One spec of the suite and its outcome: passed, skipped, failed, ...; `why` is the suite's own word for it."""

    name: str
    outcome: str
    why: str = ""


def run(binary: Path, endpoint: str, directory: Path, *flags: str, focus: Sequence[str]) -> list[Spec]:
    """Run the specs whose names match one of the patterns, in ginkgo's order for seed 1.

    Not told of: the others, and what the suite's authors have switched off (one, on paging: tests/contract has it).
    """
    report = directory / "report.json"
    command = [str(binary), "-endpoint", endpoint, "-target", str(directory / "mount"), "-staging", str(directory / "stage")]
    command += ["-ginkgo.json-report", str(report), "-ginkgo.seed", "1", "-ginkgo.no-color", *flags]
    command += ["-ginkgo.focus", "|".join(focus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=directory)
    assert report.exists(), f"csi-sanity ended with {done.returncode} and no report:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    (suite,) = json.loads(report.read_text())
    return [_spec(told) for told in suite["SpecReports"] if told["LeafNodeType"] == "It" and _was_wanted(told)]


def _was_wanted(told: dict[str, Any]) -> bool:
    out_of_focus = told["State"] == "skipped" and not told.get("Failure", {}).get("Message")
    return not out_of_focus and told["State"] != "pending"


def _spec(told: dict[str, Any]) -> Spec:
    name = " ".join([*(told["ContainerHierarchyTexts"] or []), told["LeafNodeText"]])
    return Spec(name, told["State"], told.get("Failure", {}).get("Message", ""))
