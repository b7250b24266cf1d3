"""Processes of ours without their second of start: forks of one that has imported everything and never used librados.

`born(MODULE, WORDS)` is a process in which the module's `main` runs, as `python -m MODULE WORDS...` would have it.
"""

import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Born:
    """A process, seen from outside: what it is told, and what it says."""

    pidfd: int
    told: TextIO
    says: TextIO

    def kill(self) -> list[str]:
        """SIGKILL; gives what it said and nobody read yet, whole lines only."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        said = self.says.read().split("\n")[:-1]  # to the end, which comes with the last of its threads
        for each in (self.told, self.says):
            each.close()
        os.close(self.pidfd)
        return said


def born(module: str, words: Sequence[str]) -> Born:
    """Start a process."""
    nursery = _nursery()
    (told_out, told_in), (says_out, says_in) = os.pipe(), os.pipe()
    socket.send_fds(nursery, [json.dumps([module, *words]).encode()], [told_out, says_in])
    _, (pidfd,), _, _ = socket.recv_fds(nursery, 1, 1)
    os.close(told_out)
    os.close(says_in)
    return Born(pidfd, os.fdopen(told_in, "w"), os.fdopen(says_out))


@functools.cache
def _nursery() -> socket.socket:
    """The process to fork, until this one ends."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.harness.nursery", str(its.fileno())]
    subprocess.Popen(command, pass_fds=[its.fileno()], cwd=Path(__file__).parents[2])
    its.close()
    return ours


def main(number: str) -> None:
    asked = socket.socket(fileno=int(number))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    while True:
        order, streams, _, _ = socket.recv_fds(asked, 1 << 16, 2)
        if not order:
            return
        module, *words = json.loads(order)
        run = importlib.import_module(module).main
        child = os.fork()
        if not child:
            asked.close()
            _live(run, [module, *words], *streams)
        pidfd = os.pidfd_open(child)
        socket.send_fds(asked, [b"."], [pidfd])
        for each in (pidfd, *streams):
            os.close(each)


def _live(run: object, words: list[str], told: int, says: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(told, 0)
    os.dup2(says, 1)
    for each in (told, says):
        os.close(each)
    sys.stdin, sys.stdout, sys.argv = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False), words
    try:
        run()  # type: ignore[operator]
    except BaseException:  # noqa: BLE001 - the traceback is for whoever reads the tests' output; it ends here
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
