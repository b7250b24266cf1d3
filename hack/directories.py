"""What the development services' commands share: a directory for each, changed by one command at a time."""

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

from hack.kubernetes.processes import Process

Say = Callable[[str], None]


class Service(Protocol):
    """Daemons that live in a directory."""

    def stop(self) -> None:
        """End them."""


def say(text: str) -> None:
    """Tell the person in front of it."""
    print(text, file=sys.stderr, flush=True)


def leave(*_: object) -> NoReturn:
    """Answer SIGTERM as Ctrl-C is answered: what a start began is ended."""
    raise SystemExit(143)


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """One command at a time for the block."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(lock: Path, doing: str, say: Say) -> Iterator[None]:
    """The same for what takes minutes: who has to wait is told for whom."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process {doing} already: waiting for it ({lock})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(lock: Path, refused: type[Exception]) -> None:
    """Make the lock's directory, unless it is one of ours; never move into somebody else's."""
    home = lock.parent
    if home.exists() and any(home.iterdir()) and not lock.exists():
        raise refused(f"{home} is not empty and holds no cluster")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


def stop(service: Service, lock: Path, *, purge: bool) -> int:
    """End a service, and remove its directory if asked to."""
    with locked(lock):
        service.stop()
        if purge:
            shutil.rmtree(lock.parent)
    return 0


def tell(processes: Mapping[str, Process | None]) -> int:
    """A line per daemon; the exit status says whether all run."""
    for name, process in processes.items():
        if process:
            print(f"{name}: pid {process.pid}, rss {process.resident >> 20} MiB, cpu {process.cpu_seconds:.1f} s")
        else:
            print(f"{name}: not running")
    return 0 if all(processes.values()) else 1
