"""The machine: booted, given commands, stopped. Emulated (seconds become tens of them) unless CEPH_PROVISIONER_KVM is set."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.krbd.kernel import Kernel, kernel

_ACCEPTS = "00010000"
"""The flags of a listening socket in /proc/net/unix."""
_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on "
    "cryptomgr.notests no5lvl audit=0 apparmor=0 net.ifnames=0 rcupdate.rcu_expedited=1"
)
_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
NEEDS = ("qemu-system-x86_64", "busybox", "lz4", "depmod", _VIRTIOFSD)


class MachineError(Exception):
    """The guest did not come up, or stopped answering; the text has its console's last words."""


@dataclass(frozen=True)
class Done:
    """How a command in the guest ended."""

    code: int
    output: str


class Machine:
    """One guest. Its root shows the host's files; what it writes is in its own memory."""

    def __init__(self, directory: Path, memory: int = 1024, forward: Sequence[tuple[int, int]] = ()) -> None:
        """`directory` is where the machine keeps its sockets and console; `memory` in MiB; `forward` are ports (host, guest)."""
        self._directory, self._memory, self._forward = directory, memory, forward
        self._processes: list[subprocess.Popen[bytes]] = []
        self._control: socket.socket | None = None
        self._number = 0

    def start(self, say: Callable[[str], None] = print, seconds: float = 900) -> "Machine":
        """Boot, and wait until the guest takes commands."""
        booted = kernel(say)
        self._start_sharing()
        self._start_machine(booted)
        self._control = self._connect("control", seconds)
        self._lines = self._control.makefile("rb")
        if self._read_line() != "ready":
            raise MachineError(self.console())
        return self

    def run(self, command: str, seconds: float = 120) -> Done:
        """Run a line of sh in the guest, one at a time."""
        assert self._control is not None
        self._number += 1
        self._control.settimeout(seconds)
        try:
            self._control.sendall(f"{self._number} {command}\n".encode())
            while True:  # answers to commands that were given up are passed over
                number, code, length = (int(word) for word in self._read_line().split())
                output = self._lines.read(length).decode(errors="replace")
                if number == self._number:
                    return Done(code, output)
        except (TimeoutError, OSError, ValueError) as error:
            raise MachineError(f"{command!r} in the guest: {error}; console:\n{self.console()}") from error

    def check(self, command: str, seconds: float = 120) -> str:
        """Run a command that has to end well; gives what it wrote."""
        done = self.run(command, seconds)
        if done.code:
            raise MachineError(f"{command!r} in the guest ended with {done.code}:\n{done.output}\n{self.console()[-1500:]}")
        return done.output

    def background(self, words: Sequence[str], log: str) -> None:
        """Start a program that stays."""
        self.check(f"setsid {shlex.join(words)} >>{shlex.quote(log)} 2>&1 </dev/null &")

    def console(self) -> str:
        """The last that the guest's kernel said."""
        with contextlib.suppress(OSError):
            return (self._directory / "console").read_text(errors="replace")[-3000:]
        return ""

    def cpu_seconds(self) -> float:
        """What the machine has cost the host so far."""
        total = 0
        for process in self._processes:
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Switch it off, as if the plug were pulled."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _start_sharing(self) -> None:
        """Show the host's root to the guest."""
        words = [_VIRTIOFSD, f"--socket-path={self._directory}/share", "-o", "source=/,cache=always,sandbox=chroot"]
        self._start(words, "share.log")
        self._wait_for("share", 10)

    def _start_machine(self, booted: Kernel) -> None:
        # emulated unless asked for otherwise: the KVM that a build machine shows inside another one may not run a kernel
        chosen = os.environ.get("CEPH_PROVISIONER_KVM")
        accelerator = ["-accel", "kvm", "-cpu", "host"] if chosen else ["-accel", "tcg,thread=multi", "-cpu", "max"]
        directory, append = self._directory, f"{_WORDS} guest.kernel={booted.directory}"
        ports = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in self._forward)
        words = ["qemu-system-x86_64", "-M", "pc,memory-backend=memory", *accelerator, "-smp", "1", "-m", str(self._memory)]
        words += ["-object", f"memory-backend-memfd,id=memory,size={self._memory}M,share=on"]
        words += [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            f"file:{self._directory}/console",
        ]
        words += ["-kernel", str(booted.image), "-initrd", str(booted.initramfs), "-append", append]
        words += [
            "-device",
            "virtio-serial-pci",
            "-chardev",
            f"socket,id=control,path={directory}/control,server=on,wait=off",
        ]
        words += ["-device", "virtserialport,chardev=control,name=guest.control", "-device", "virtio-rng-pci"]
        words += [
            "-chardev",
            f"socket,id=share,path={directory}/share",
            "-device",
            "vhost-user-fs-pci,chardev=share,tag=host",
        ]
        words += ["-netdev", f"user,id=net{ports}", "-device", "virtio-net-pci,netdev=net,romfile="]
        self._start(words, "qemu.log")

    def _start(self, words: list[str], log: str) -> None:
        with (self._directory / log).open("wb") as out:
            self._processes.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            )

    def _connect(self, name: str, seconds: float) -> socket.socket:
        self._wait_for(name, 20)
        control = socket.socket(socket.AF_UNIX)
        control.settimeout(seconds)
        control.connect(str(self._directory / name))
        return control

    def _read_line(self) -> str:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MachineError(f"the guest keeps silent; console:\n{self.console()}") from error
        if not line:
            raise MachineError(f"the guest is gone; console:\n{self.console()}{(self._directory / 'qemu.log').read_text()}")
        return line.decode(errors="replace").strip()

    def _wait_for(self, name: str, seconds: float) -> None:
        """Wait for a socket that listens: it has a name before it does."""
        deadline = time.monotonic() + seconds
        while not _listens(self._directory / name):
            if time.monotonic() > deadline or self._processes[-1].poll() is not None:
                logs = "".join(path.read_text(errors="replace") for path in self._directory.glob("*.log"))
                raise MachineError(f"{self._directory / name} does not come to be: {logs}")
            time.sleep(0.02)


def _listens(path: Path) -> bool:
    """As the kernel tells (proc(5)); to try it would be to use up the one connection that some listeners take."""
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(words[3] == _ACCEPTS and words[-1] == str(path) for words in lines if len(words) > 3)


def missing() -> list[str]:
    """Programs that a machine needs and this host lacks."""
    return [name for name in NEEDS if shutil.which(name) is None]


@contextlib.contextmanager
def machine(memory: int = 1024, forward: Sequence[tuple[int, int]] = ()):  # type: ignore[no-untyped-def]
    """A guest for the block, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="krbd-vm-", dir="/tmp") as directory:
        guest = Machine(Path(directory), memory, forward)
        try:
            yield guest.start()
        finally:
            guest.stop()
