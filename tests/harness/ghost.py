"""A watcher that outlives its client for ever.

An OSD that gets a watch and then loses the connection before it executes it writes the watcher down, but keeps no timer for
it (Ceph 16.2): no time-out and no fence takes it off again, only the placement group's next peering or the object's removal.
A process killed while it opens an image may leave one.

Run as a program: CONF POOL OBJECT; it says its address, and watches the object after a line on stdin.
"""

import os
import signal
import subprocess
import sys
import threading

import rados

from tests.harness.ceph import Ceph
from tests.harness.waiting import until

_TRIES = 20
"""Which of the two the OSD does first, drop the connection or execute the watch, is a matter of luck: even odds here."""


def leave_watcher(ceph: Ceph, pool: str, obj: str) -> str:
    """Have a client die at the wrong moment, until the object has a watcher without a client; gives its address."""
    for _ in range(_TRIES):
        address = _die_watching(ceph, pool, obj)
        if address in ceph.watchers(obj, pool):
            return address
    raise AssertionError(f"{_TRIES} clients died, and none left a watcher")


def _die_watching(ceph: Ceph, pool: str, obj: str) -> str:
    command = [sys.executable, "-m", "tests.harness.ghost", ceph.conf, pool, obj]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    assert client.stdout is not None
    address = client.stdout.readline().strip()
    with ceph.frozen_osd():
        client.stdin.write("watch\n")
        client.stdin.flush()
        client.stdout.readline()
        threading.Event().wait(0.3)  # for the request to be on its way: nothing tells when it is
        os.kill(client.pid, signal.SIGKILL)
        client.wait(10)
        threading.Event().wait(0.05)
    until(lambda: ceph.objects(pool), 120, "the OSD answers again")
    return address


def main(conf: str, pool: str, obj: str) -> None:
    handle = rados.Rados(conffile=conf, name="client.admin")
    handle.connect()
    with handle.open_ioctx(pool) as context:
        context.stat(obj)
        print(handle.get_addrs(), flush=True)
        sys.stdin.readline()
        print("watching", flush=True)
        context.watch(obj, lambda *_: None)
        threading.Event().wait(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
