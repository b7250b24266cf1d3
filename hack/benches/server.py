"""Our CSI controller in a process of its own, and what that process spends.

`served` has it without the background work: what a call costs is counted, what goes on behind it is not. `program` starts the
program as a user does.

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

from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.observe import logs
from tests.contract.driver import running
from tests.harness.ceph import Ceph
from tests.harness.program import PROGRAM
from tests.harness.waiting import until

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True)
class Served:
    """The controller's stub, and what its process spends."""

    controller: csi_pb2_grpc.ControllerStub
    pid: int

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_of(self.pid)

    def rss(self) -> float:
        """Resident memory in MB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def ask_nothing(self, _: str) -> None:
        """The cheapest call there is: what gRPC itself costs."""
        self.controller.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest(), timeout=120)


@contextmanager
def served(ceph: Ceph, directory: Path) -> Iterator[Served]:
    """A controller for the block."""
    described = json.dumps({**asdict(ceph), "directory": str(ceph.directory)})
    command = [sys.executable, "-m", "hack.benches.server", described, str(directory)]
    root, log = Path(__file__).parents[2], (directory / "server.log").open("w")
    with (
        log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=root) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        with grpc.insecure_channel(endpoint) as channel:
            yield Served(csi_pb2_grpc.ControllerStub(channel), process.pid)
        process.stdin.close()
        process.wait(30)


@contextmanager
def program(ceph: Ceph, directory: Path) -> Iterator[Served]:
    """`ceph-provisioner controller` for the block, its log in `directory`."""
    socket = directory / "csi.sock"
    command = [str(PROGRAM), "--config", str(ceph.config_file(directory)), "controller"]
    command += ["--csi-endpoint", f"unix://{socket}", "--listen", "127.0.0.1:0"]
    with (directory / "program.log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until(socket.exists, 30, "the socket is there")
            with grpc.insecure_channel(f"unix:{socket}") as channel:
                yield Served(csi_pb2_grpc.ControllerStub(channel), process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    """Serve until standard input ends; with a log, as the program has one."""
    logs.set_up(0)
    told = json.loads(sys.argv[1])
    ceph = Ceph(**{**told, "directory": Path(told["directory"]), "monitors": tuple(told["monitors"])})
    with running(ceph, Path(sys.argv[2])) as driver:
        print(driver.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
