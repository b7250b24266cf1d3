"""The program as its users run it: a process, its log, its status page, its signals."""

import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.waiting import until

PROGRAM = Path(sys.executable).with_name("ceph-provisioner")


class Program:
    """One `ceph-provisioner claims`."""

    def __init__(
        self, directory: Path, config: Path, kubeconfig: Path, provisioner: str, *options: str, talkative: bool = False
    ) -> None:
        self.log = directory / "provisioner.log"
        self.provisioner = provisioner
        self._command = [str(PROGRAM), *(["-v"] if talkative else []), "--config", str(config)]
        self._command += ["claims", "--kubeconfig", str(kubeconfig)]
        self._command += ["--provisioner", provisioner, "--listen", "127.0.0.1:0", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self, *, ready: bool = True) -> "Program":
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        marker = "status at http://"
        text = until(
            lambda: (t := self.text()[offset:]) and marker in t and t, 60, "the program says where its status is", self.text
        )
        self.address = text.split(marker, 1)[1].split()[0]
        if ready:
            until(lambda: self.page("/readyz")[0] == 200, 60, "the program is ready", self.text)
        return self

    def with_options(self, *options: str) -> "Program":
        """Add options to those of the next start; a later one of a name wins."""
        self._command += options
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def page(self, path: str, timeout: float = 5.0) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def total(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that bear the labels."""
        families = text_string_to_metric_families(self.page("/metrics")[1])
        samples = (sample for family in families for sample in family.samples if sample.name == metric)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def kube_writes(self) -> float:
        """How many writes reached the API server so far; the lease's renewals, which never end, are not counted."""
        counted = "ceph_provisioner_kube_call_seconds_count"
        verbs = ("create", "update", "patch", "delete")
        return sum(self.total(counted, verb=verb) - self.total(counted, verb=verb, resource="leases") for verb in verbs)

    def leads(self) -> bool:
        return self.total("ceph_provisioner_leading") == 1

    def kill(self) -> None:
        """SIGKILL, as the kernel's OOM killer would."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait(10)

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; gives the exit code."""
        assert self._process is not None
        if self.running():
            self._process.terminate()
        return self._process.wait(seconds)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


@contextmanager
def running(directory: Path, config: Path, account: Path, *options: str, kind: str = "rbd") -> Iterator[Program]:
    """A provisioner under a name of its own, at work for the block."""
    made = Program(directory, config, account, f"{uuid.uuid4().hex[:8]}.example.com/{kind}", *options)
    try:
        yield made.start()
    finally:
        made.stop()
