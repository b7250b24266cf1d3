"""The node service inside a virtual machine whose kernel has rbd, with a client out here."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.krbd.machine import Machine, machine
from provisioner.ceph.places import Places
from provisioner.ceph.store import CephStore
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, SizeRange
from provisioner.core.volumes import Volumes
from tests.contract.driver import MIB, unique
from tests.harness.ceph import HACK, Ceph
from tests.harness.node import NodeCalls
from tests.harness.waiting import until

ROOT = Path(__file__).parents[2]
NODE = "guest"
_PORT = 7777
_SLOW = 600
"""Seconds that a call may take: the guest is emulated, on a machine that has other things to do."""

_CHEAP_KEYS = """#!/bin/sh
# Argon2 as we ask for it takes this processor a minute each time. PBKDF2 stands in for it; all else is cryptsetup's own work.
for word in "$@"; do
    shift
    case $word in
        argon2id) word=pbkdf2 ;;
        --pbkdf-memory | --pbkdf-parallel) drop=yes; continue ;;
        --pbkdf-force-iterations) set -- "$@" "$word" 1000; drop=yes; continue ;;
    esac
    [ "$drop" ] && { drop=; continue; }
    set -- "$@" "$word"
done
exec /usr/sbin/cryptsetup "$@"
"""

_TRAP = """#!/bin/sh
# Kills the service once, before NAME has run or after, or leaves NAME half done, as /run/trap says. Then it is NAME.
# One that is late outlives the service, and does its work when another one runs.
read -r when <"/run/trap/NAME" 2>/dev/null
rm -f /run/trap/NAME
end() { kill -9 $(cat /run/node.pid); }
[ "$when" = before ] && { end; exit 1; }
[ "$when" = late ] && { end; sleep 15; REAL "$@" 2>/run/late.said; echo $? >/run/late; exit; }
for device in "$@"; do :; done
[ "$when" = half ] && { REAL "$@" && dd if=/dev/urandom of="$device" bs=64k count=16 oflag=direct 2>/dev/null; end; exit 1; }
REAL "$@"
code=$?
[ "$when" = after ] && end
exit $code
"""


class GuestNode(NodeCalls):
    """`ceph-provisioner node` in the guest, by way of a port of the host. Paths are the guest's."""

    def __init__(self, guest: Machine, ceph: Ceph, port: int, directory: Path) -> None:
        super().__init__(f"127.0.0.1:{port}", Path("/run/staging"), Path("/run/targets"), seconds=_SLOW)
        self.guest, self.ceph, self._config = guest, ceph, ceph.config_file(directory, timeout=60)

    def start(self) -> "GuestNode":
        self.guest.check("mkdir -p /run/csi /run/staging /run/targets /run/trap; mkfifo /run/cradle; modprobe rbd")
        words = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", sys.executable]
        words += ["-m", "tests.harness.cradle", "/run/cradle", "/run/node.log", "/run/node.pid"]
        self.guest.background(words, "/run/node.log")
        self.start_service()
        self.guest.background(["socat", f"TCP-LISTEN:{_PORT},fork,reuseaddr", "UNIX-CONNECT:/run/csi/csi.sock"], "/run/socat.log")
        self.wait()
        return self

    def start_service(self, *options: str, mortal: bool = False) -> None:
        words = [*(["--mortal"] if mortal else []), "--config", str(self._config), "node", "--node-id", NODE]
        words += ["--csi-endpoint", "unix:///run/csi/csi.sock"]
        line = json.dumps([*words, "--listen", "127.0.0.2:9872", *options])
        self.run(f"echo {shlex.quote(line)} >/run/cradle")

    def wait(self) -> None:
        until(self.answers, 900, "the node in the guest answers", self.log, every=0.5)

    def restart(self, *, mortal: bool = False) -> None:
        """Start the service that was killed, and wait for it; a mortal one dies when it is told to (`die_before`)."""
        self.start_service(mortal=mortal)
        self.wait()

    def restart_with(self, **sections: object) -> None:
        """Restart the service with more sections in its config file; it is another file, since the guest never looks twice."""
        self.kill()
        kept = json.loads(self._config.read_text())
        self._config = self._config.with_name(f"{unique('config-')}.yaml")
        self._config.write_text(json.dumps(kept | sections))
        self.restart()

    def die_before(self, step: int) -> None:
        """Have a mortal service die between two steps of what it does next: before that number of them."""
        self.run(f"rm -f /run/death.steps; echo {step} >/run/death")

    def survived(self) -> bool:
        """Whether there were fewer steps; nobody dies any more then."""
        return self.guest.run("rm /run/death 2>/dev/null").code == 0

    def last_steps(self) -> list[str]:
        """What the service did since, with the step that it did not come to."""
        return self.run("cat /run/death.steps").splitlines()

    def kill(self) -> None:
        """SIGKILL: no time to clear anything away."""
        self.run("kill -9 $(cat /run/node.pid)")

    def trap(self, program: str, when: str) -> None:
        """Have the service killed as it runs a program of the host: `before` it does anything, `after`, `half` way, or `late`.

        Half way is nothing but noise at the start of the device, of which nobody could say what it was to be.
        """
        real = self.run(f"PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v {program}").strip()
        words = _TRAP.replace("NAME", program).replace("REAL", real)
        self._put_before(program, words)
        self.run(f"echo {when} >/run/trap/{program}")

    def untrap(self, program: str) -> None:
        self.run(f"rm -f /usr/local/sbin/{program} /run/trap/{program}")

    def with_cheap_keys(self) -> None:
        """Derive keys from passphrases in a way that an emulated processor can bear."""
        self._put_before("cryptsetup", _CHEAP_KEYS)

    def _put_before(self, program: str, words: str) -> None:
        """Have a program found before the host's own of that name."""
        line = shlex.quote(words.replace("\n", "\\n"))  # a command is one line
        self.run(f"printf %b {line} >/usr/local/sbin/{program}; chmod +x /usr/local/sbin/{program}")

    def cut_off(self) -> None:
        """Drop every packet to Ceph from now on."""
        self.run("ip route replace blackhole 127.0.0.1/32")

    def let_through(self) -> None:
        self.run("ip route replace 127.0.0.1/32 via 10.0.2.2 src 10.0.2.15")

    def log(self) -> str:
        return self.guest.run("tail -c 2000 /run/node.log").output

    def run(self, command: str) -> str:
        return self.guest.check(command, _SLOW)

    def traces(self, volume: str) -> list[str]:
        """What the guest's kernel still has."""
        name = volume.rpartition("/")[2]
        mappings = "cat /sys/bus/rbd/devices/*/name /sys/block/nbd*/backend 2>/dev/null"
        left = self.guest.run(f"{mappings}; ls /dev/mapper; cat /proc/mounts").output.splitlines()
        return [line for line in left if name in line or line.startswith("cp-")]


@contextmanager
def guest_node(ceph: Ceph, directory: Path) -> Iterator[GuestNode]:
    """A guest for the block, its service answering."""
    # what the guest would have to compile each time, and keeps nowhere
    compiled = [ROOT / "provisioner", ROOT / "csi", ROOT / "tests/harness"]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *map(str, compiled)], check=True)
    port = _free_port()
    with machine(forward=[(port, _PORT)]) as guest:
        node = GuestNode(guest, ceph, port, directory)
        try:
            yield node.start()
        finally:
            if os.environ.get("CEPH_PROVISIONER_TEST_VERBOSE"):
                with contextlib.suppress(Exception):
                    print(node.log(), f"the machine took {guest.cpu_seconds():.0f} s of CPU")


def new_volume(ceph: Ceph, places: Places, size: int = 64 * MIB) -> VolumeId:
    """A volume of ours, empty, which may be attached to nodes."""
    request = CreateRequest(unique("krbd-"), Place("dev", ceph.pool), SizeRange(size))
    return Volumes(CephStore(places)).create(request).id


@contextmanager
def ceph_killed(ceph: Ceph) -> Iterator[None]:
    """End monitor and OSD as a power cut would, and start them after the block."""
    for daemon in ("mon.a", "osd.0"):
        pid = int((ceph.directory / f"{daemon}.pid").read_text().splitlines()[-1].split()[0])
        os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        subprocess.run([HACK / "dev-ceph", "start", ceph.directory], stdout=subprocess.PIPE, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
