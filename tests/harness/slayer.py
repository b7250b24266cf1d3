"""Processes of ours that die at a chosen call: `python -m tests.harness.slayer CONFIG-JSON`, one JSON order a line.

An order names what to do and when to die; the answer, a JSON line, names the calls that were made, and whether the process
came to an end of its own. Each runs in a fork of a process that never used librados: this costs a tenth of a new interpreter.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import SizeRange
from tests.harness import faults
from tests.harness.ceph import Ceph
from tests.harness.store import GIB, Provisioner


@dataclass(frozen=True)
class Fate:
    """How an order ended: the calls that were made, and whether all of the work was done."""

    calls: Sequence[str]
    survived: bool
    error: str = ""


class Slayer:
    """The program, from outside."""

    def __init__(self, ceph: Ceph, home: Place) -> None:
        config = {"conf": ceph.conf, "user": ceph.user, "keyring": ceph.keyring, "home": [home.pool, home.namespace]}
        command = [sys.executable, "-m", "tests.harness.slayer", json.dumps(config)]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)

    def order(self, words: Sequence[str], at: int, after: float = 0.0) -> Fate:
        """Have a process do as the words say, and die before its call number `at`, or so many seconds after that began."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": list(words), "at": at, "after": after}) + "\n")
        self._process.stdin.flush()
        return Fate(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def act(process: Provisioner, place: Place, words: Sequence[str]) -> None:
    """Do what an order says; also for whoever asks again."""
    match words:
        case ["create", *names]:
            for name in names:
                process.create(place, name)
        case ["expand", name]:
            process.volumes.expand(VolumeId(place, name), SizeRange(2 * GIB))
        case ["snapshot", volume, name]:
            process.snapshot(place, volume, name)
        case ["clone", name, source]:
            process.clone(place, name, VolumeId(place, source))
        case ["restore", name, source]:
            process.clone(place, name, SnapshotId.parse(source), 2 * GIB)
        case ["delete", name]:
            process.delete(place, name)
        case ["delete-snapshot", snapshot]:
            process.snapshots.delete(SnapshotId.parse(snapshot))
        case ["tidy"]:
            process.volumes.attend(place)
            process.reap()
            process.flatten()
            process.purge()
        case _:
            raise ValueError(words)


def main() -> None:
    told = json.loads(sys.argv[1])
    pool, namespace = told["home"]
    config = ClusterConfig("dev", conf=told["conf"], user=told["user"], keyring=told["keyring"], pools=(f"{pool}/{namespace}",))
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_run(config, Place("dev", pool, namespace), order)), flush=True)


def _run(config: ClusterConfig, place: Place, order: dict[str, object]) -> dict[str, object]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _live(config, place, order, writing)
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = said.read().splitlines()
    _, status = os.waitpid(child, 0)
    errors = [line.removeprefix("error ") for line in lines if line.startswith("error ")]
    calls = [line for line in lines if not line.startswith("error ")]
    return {"calls": calls, "survived": status == 0, "error": " ".join(errors)}


def _live(config: ClusterConfig, place: Place, order: dict[str, object], writing: int) -> None:
    out: IO[str] = os.fdopen(writing, "w", buffering=1)
    try:
        process = Provisioner(config)
        faults.arm(faults.Death(int(str(order["at"])), float(str(order["after"])), lambda name: print(name, file=out)))
        act(process, place, [str(word) for word in order["words"]])  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001 - it is told to whoever gave the order
        print(f"error {error!r}", file=out)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
