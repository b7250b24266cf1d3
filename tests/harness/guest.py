"""The node service inside a virtual machine whose kernel has rbd, with a client out here."""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.krbd.machine import Machine, machine
from tests.harness.ceph import Ceph
from tests.harness.node import NodeCalls
from tests.harness.program import PROGRAM
from tests.harness.waiting import until

ROOT = Path(__file__).parents[2]
NODE = "guest"
_PORT = 7777


class GuestNode(NodeCalls):
    """`ceph-provisioner node` in the guest, by way of a port of the host. Paths are the guest's."""

    def __init__(self, guest: Machine, ceph: Ceph, port: int, directory: Path) -> None:
        super().__init__(f"127.0.0.1:{port}", Path("/run/staging"), Path("/run/targets"), seconds=240)
        self.guest, self.ceph, self._config = guest, ceph, ceph.config_file(directory, timeout=60)

    def start(self) -> "GuestNode":
        self.guest.check("mkdir -p /run/csi /run/staging /run/targets; modprobe rbd")
        self.start_service()
        self.guest.background(["socat", f"TCP-LISTEN:{_PORT},fork,reuseaddr", "UNIX-CONNECT:/run/csi/csi.sock"], "/run/socat.log")
        until(self.answers, 600, "the node in the guest answers", self.log, every=1)
        return self

    def start_service(self) -> None:
        words = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", str(PROGRAM), "--config", str(self._config), "node"]
        words += ["--csi-endpoint", "unix:///run/csi/csi.sock", "--node-id", NODE, "--listen", "127.0.0.2:9872"]
        self.guest.background(words, "/run/node.log")

    def log(self) -> str:
        return self.guest.run("tail -c 2000 /run/node.log").output

    def run(self, command: str) -> str:
        return self.guest.check(command, 240)

    def traces(self, volume: str) -> list[str]:
        """What the guest's kernel still has."""
        name = volume.rpartition("/")[2]
        left = self.guest.run("cat /sys/bus/rbd/devices/*/name 2>/dev/null").output.split()
        mounts = [line.split()[1] for line in self.run("cat /proc/mounts").splitlines() if name in line]
        return [f"mapping {each}" for each in left if each == name] + [f"mount {each}" for each in mounts]


@contextmanager
def guest_node(ceph: Ceph, directory: Path) -> Iterator[GuestNode]:
    """A guest for the block, its service answering."""
    port = _free_port()
    with machine(forward=[(port, _PORT)]) as guest:
        node = GuestNode(guest, ceph, port, directory)
        try:
            yield node.start()
        finally:
            if os.environ.get("CEPH_PROVISIONER_TEST_VERBOSE"):
                with contextlib.suppress(Exception):
                    print(node.log(), f"the machine took {guest.cpu_seconds():.0f} s of CPU")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
