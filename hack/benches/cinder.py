"""`hack/bench cinder [N] [--keystone]`: N claims in one burst on a real Cinder, 20 of them worked on at once.

What is counted is CPU time, of our process and of everybody else beside it: wall time is Cinder's, which works on one volume
after another. Our process is warm, as one that serves for weeks is; what its start and its first claim take is told apart.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from provisioner.kube.resources import Object
from tests.harness import cinder as cinder_harness
from tests.harness.ceph import Ceph
from tests.harness.cinder import Cinder
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program
from tests.harness.waiting import until

IN_FLIGHT = 20
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 1200


@dataclass(frozen=True)
class Parties:
    """Who works in a burst: the directories tell whose a process is."""

    ceph: Ceph
    cinder: Cinder
    kubernetes: Kubernetes
    program: Program

    def spent(self) -> dict[str, float]:
        """CPU seconds so far, with those of children that ended (Cinder runs `ceph` for each connection)."""
        places = {"Cinder": self.cinder.directory, "Ceph": self.ceph.directory, "Kubernetes": self.kubernetes.directory}
        spent = dict.fromkeys(["ours", *places], 0.0)
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            whose = "ours" if int(pid) == self.program.pid else _whose(pid, places)
            if whose and int(pid) != os.getpid():
                spent[whose] += _cpu_seconds(pid)
        return spent


def cinder(ceph: Ceph, kubernetes: Kubernetes, directory: Path, number: int, *, keystone: bool) -> None:
    """Start a Cinder, and measure."""
    made = cinder_harness.start(directory / "cinder", ceph)
    try:
        burst(made, ceph, kubernetes, directory, number, keystone=keystone)
    finally:
        cinder_harness.stop(directory / "cinder")


def burst(made: Cinder, ceph: Ceph, kubernetes: Kubernetes, directory: Path, number: int, *, keystone: bool) -> None:
    """Up from claims to bound volumes, and down to nothing."""
    cloud: dict[str, object] = {"cloud": "dev", "file": str(cinder_harness.start_keystone(made))} if keystone else {}
    config = made.config_file(directory, ceph, **cloud)
    account = kubernetes.account_kubeconfig(directory / "account")
    program = Program(directory, config, account, "bench.example.com/cinder", "--workers", str(IN_FLIGHT))
    storage_class = kubernetes.make_class(program.provisioner, {"cloud": cinder_harness.CLOUD, "type": "rbd"})
    try:
        program.start()
        _down(kubernetes, _up(kubernetes, storage_class, 1))
        parties = Parties(ceph, made, kubernetes, program)
        print(f"cinder: {number} claims, {IN_FLIGHT} in flight, {'a user of Keystone' if keystone else 'no Keystone'}")
        print(f"  start     {program.cpu_seconds():6.2f} s CPU, with the first claim")
        before, started = parties.spent(), monotonic()
        claims = _up(kubernetes, storage_class, number)
        _tell("bound", number, monotonic() - started, before, parties.spent())
        before, started = parties.spent(), monotonic()
        _down(kubernetes, claims)
        _tell("deleted", number, monotonic() - started, before, parties.spent())
        print(f"  our RSS   {program.rss_bytes() / 1e6:6.1f} MB; {len(made.volumes())} volumes left", flush=True)
    finally:
        program.stop()


def _up(kubernetes: Kubernetes, storage_class: str, number: int) -> list[Object]:
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda _: kubernetes.make_claim(storage_class), range(number)))
    uids = {claim["metadata"]["uid"] for claim in claims}
    until(lambda: uids <= _uids(kubernetes.claims("default"), "Bound"), _PATIENCE, "every claim is Bound", every=1.0)
    return claims


def _down(kubernetes: Kubernetes, claims: list[Object]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(kubernetes.delete_claim, claims))
    until(lambda: not kubernetes.volumes(), _PATIENCE, "every PersistentVolume is gone", every=1.0)


def _uids(claims: Iterable[Object], phase: str) -> set[str]:
    return {claim["metadata"]["uid"] for claim in claims if (claim.get("status") or {}).get("phase") == phase}


def _tell(what: str, number: int, seconds: float, before: dict[str, float], after: dict[str, float]) -> None:
    each = {who: (after[who] - before[who]) / number * 1000 for who in after}
    others = ", ".join(f"{who} {each[who]:.0f}" for who in each if who != "ours")
    print(f"  {what:9} {seconds:6.1f} s; CPU ms a claim: ours {each['ours']:.1f}; {others}", flush=True)


def _whose(pid: str, places: dict[str, Path]) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        place = str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""
    return next((who for who, where in places.items() if str(where) in words or place.startswith(str(where))), "")


def _cpu_seconds(pid: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS
