"""Our CSI controller in a process of its own, without the purge: what a call costs is counted, what goes on behind it is not.

python -m hack.benches.server CEPH DIRECTORY        CEPH: a cluster of tests/harness, as JSON
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from csi.pb import csi_pb2_grpc
from tests.contract.driver import running
from tests.harness.ceph import Ceph

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Served:
    """The controller's stub, and what its process spends."""

    controller: csi_pb2_grpc.ControllerStub
    pid: int

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss(self) -> float:
        """Resident memory in MB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def served(ceph: Ceph, directory: Path) -> Iterator[Served]:
    """A controller for the block."""
    described = json.dumps({**asdict(ceph), "directory": str(ceph.directory)})
    command = [sys.executable, "-m", "hack.benches.server", described, str(directory)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        with grpc.insecure_channel(endpoint) as channel:
            yield Served(csi_pb2_grpc.ControllerStub(channel), process.pid)
        process.stdin.close()
        process.wait(30)


def main() -> None:
    """Serve until standard input ends."""
    told = json.loads(sys.argv[1])
    ceph = Ceph(**{**told, "directory": Path(told["directory"]), "monitors": tuple(told["monitors"])})
    with running(ceph, Path(sys.argv[2])) as driver:
        print(driver.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
