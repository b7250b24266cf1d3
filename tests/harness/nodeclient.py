"""A node's Ceph client: a process with an image open through librbd, whose writes stay in its memory until they are flushed.

`python -m tests.harness.nodeclient CONF POOL NAMESPACE IMAGE` says its address, then answers each line of its input:

write TEXT    puts the text at the image's first byte, in memory, and says `written`
flush         sends what is in memory, and says `flushed`, or `failed` and the errno
read          says what Ceph has at the image's first bytes, or `failed` and the errno
close         closes the image, ends the client, and says `closed`
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import rados
import rbd

from provisioner.core.ids import Place
from tests.harness.ceph import Ceph

LENGTH = 16


class NodeClient:
    """The process, seen from a test."""

    def __init__(self, ceph: Ceph, place: Place, image: str) -> None:
        command = [sys.executable, "-m", "tests.harness.nodeclient", ceph.conf, place.pool, place.namespace, image]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._told = self._process.stdin, self._process.stdout
        self.address = self._told.readline().strip()

    def ask(self, line: str) -> str:
        self._input.write(line + "\n")
        self._input.flush()
        return self._told.readline().strip()

    def stop(self) -> None:
        """As a partition does: nothing arrives, nothing leaves, nothing is forgotten."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._input.close()
        self._told.close()


def main(conf: str, pool: str, namespace: str, image: str) -> None:
    # written data stay in memory: no write-through until the first flush, and no age at which they leave by themselves
    cached = {
        "rbd_cache": "true",
        "rbd_cache_policy": "writeback",
        "rbd_cache_writethrough_until_flush": "false",
        "rbd_cache_max_dirty_age": "3600",
    }
    handle = rados.Rados(conffile=conf, name="client.admin", conf={**cached, "log_to_stderr": "false"})
    handle.connect()
    with handle.open_ioctx(pool) as context:
        context.set_namespace(namespace)
        opened = rbd.Image(context, image)
        _say(handle.get_addrs())
        for line in sys.stdin:
            word, _, text = line.strip().partition(" ")
            _say(_do(opened, word, text))


def _do(opened: rbd.Image, word: str, text: str) -> str:
    try:
        if word == "write":
            opened.write(text.encode().ljust(LENGTH, b"."), 0)
            return "written"
        if word == "flush":
            opened.flush()
            return "flushed"
        if word == "close":
            opened.close()
            return "closed"
        return str(opened.read(0, LENGTH).decode())
    except rbd.Error as error:
        return f"failed {error.errno}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
