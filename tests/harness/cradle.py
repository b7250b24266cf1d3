"""Runs in the guest, has the program's modules loaded, and forks a process of the program for each line of words that it gets.

Loading them takes an emulated processor a quarter of a minute, which is paid once so, however often the program is killed. What
is forked has nothing else from here: this process has one thread, no connection, no file of the program's.

    cradle.py FIFO LOG PIDFILE
"""

import gc
import json
import os
import signal
import sys
from pathlib import Path

import csi.pulse
import csi.registration
import csi.serve_node  # noqa: F401
import provisioner.roles.node
import provisioner.rpc.server  # noqa: F401
from provisioner.main import main
from tests.harness.mortal import become_mortal

MORTAL = "--mortal"


def serve(fifo: str, log: str, pidfile: str) -> None:
    """Read lines, for ever. Each is a JSON list: the words of a command line, MORTAL first for a process of `mortal`'s."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    while True:
        with Path(fifo).open() as lines:
            for line in lines:
                if os.fork() == 0:
                    _become(json.loads(line), log, pidfile)


def _become(words: list[str], log: str, pidfile: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    Path(pidfile).write_text(str(os.getpid()))
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(written, standard)
    if words[0] == MORTAL:
        become_mortal()
        words = words[1:]
    sys.argv = ["ceph-provisioner", *words]
    sys.exit(main())


if __name__ == "__main__":
    serve(*sys.argv[1:])
