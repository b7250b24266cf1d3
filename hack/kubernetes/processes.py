"""Daemons that outlive the command that started them.

A pid alone names nobody: it is used again after its process ended. So a pidfile holds the boot and the start time too,
a process counts as ours only if all three agree, and signals go through a pidfd, which cannot come to mean another.
"""

import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
# The daemon's own process writes the file before it becomes the daemon: no kill of the starter leaves a nameless one.
REGISTER_AND_EXEC = 'cat /proc/sys/kernel/random/boot_id "/proc/$$/stat" >"$0" && exec "$@"'

_POLL = 0.01
"""Seconds between two looks at a file that a process is about to write."""


class StillRunningError(Exception):
    """A process survived SIGKILL (it hangs in the kernel)."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, for as long as it lives. `born` is in clock ticks after the boot `boot`."""

    pid: int
    boot: str
    born: int

    @classmethod
    def with_pid(cls, pid: int) -> "Process | None":
        """The process that has this pid now; None if none does or it only waits to be reaped."""
        try:
            fields = _after_name(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, BOOT.read_text().strip(), int(fields[19]))

    @classmethod
    def from_file(cls, path: Path) -> "Process | None":
        """The process a pidfile names, whether it lives or not; None without a whole file."""
        try:
            boot, stat = path.read_text().splitlines()
            return cls(int(stat.split()[0]), boot, int(_after_name(stat)[19]))
        except (FileNotFoundError, ValueError, IndexError):
            return None

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        return Process.with_pid(self.pid) == self

    @property
    def command(self) -> tuple[str, ...]:
        """Its command line."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="surrogateescape")
        except (FileNotFoundError, ProcessLookupError):
            return ()
        return tuple(words.split("\0")[:-1])

    @property
    def resident(self) -> int:
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        """User and system time it has used."""
        fields = _after_name(Path(f"/proc/{self.pid}/stat").read_text())
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, patience: float) -> None:
        """Send TERM, and KILL if it still runs after `patience` seconds; returns when it has ended."""
        with _handles([self]) as handles:
            for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
                if not handles:
                    return
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handles[0], number)
                if _ready(handles, seconds):
                    return
        raise StillRunningError(f"pid {self.pid} is still there after SIGKILL")


def spawn(command: Sequence[str], *, home: Path, pidfile: Path, log: Path) -> Process | None:
    """Start a daemon in its own session and directory, its output appended to `log`; None if it ended at once.

    Until its own process has written the pidfile, nobody else could tell that it runs: so long this waits, and whoever is told to
    end meanwhile takes the daemon along.
    """
    with ExitStack() as unregistered:
        with _undisturbed(), log.open("ab") as output:
            child = subprocess.Popen(
                ["sh", "-c", REGISTER_AND_EXEC, str(pidfile), *command],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            unregistered.callback(child.wait)
            unregistered.callback(child.kill)
        process = Process.with_pid(child.pid)
        while process and Process.from_file(pidfile) != process:
            if first_ended([process], _POLL):
                process = None
        unregistered.pop_all()
    return process


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Have what tells this process to end come to it after the block: within, a child may be there that nobody knows yet."""
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield
        return
    told: list[int] = []
    before = {number: signal.signal(number, lambda which, _: told.append(which)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in told:
            signal.raise_signal(number)


def first_ended(processes: Iterable[Process], seconds: float) -> Process | None:
    """Wait until one of them ends, at most `seconds`; None if all still run."""
    processes = list(processes)
    with _handles(processes) as handles:
        if len(handles) == len(processes):
            _ready(handles, seconds)
    return next((one for one in processes if not one.alive), None)


def _after_name(stat: str) -> list[str]:
    """The fields of a /proc/PID/stat line from the state on: the name before may hold spaces and brackets."""
    return stat.rpartition(")")[2].split()


@contextmanager
def _handles(processes: Iterable[Process]) -> Iterator[list[int]]:
    """Pidfds of those that run. Opened first and checked after, so that each is surely its process'."""
    with ExitStack() as stack:
        found = []
        for process in processes:
            try:
                handle = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, handle)
            if process.alive:
                found.append(handle)
        yield found


def _ready(handles: Iterable[int], seconds: float) -> bool:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
