"""Which clients are ours, and which of them are dead: so that a watcher or a half-made image can be judged by exact client id.

Each process writes its client id and address into `ceph-provisioner.processes` of every pool it works in, and keeps a lock
with a duration on an object of its own. Whoever can take that lock knows that the process is dead, or so stalled that it
must count as dead; it is then fenced by its full address, so that nothing it still has in flight can arrive.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec
import rados

from provisioner.ceph import headers
from provisioner.ceph.cluster import Connection
from provisioner.ceph.errors import explained

PROCESSES = "ceph-provisioner.processes"
_LOCK = "alive"
_MAY_RENEW = 1
LAPSE = 15
"""Seconds without a renewal after which a process counts as dead."""


@dataclass(frozen=True, slots=True)
class Process:
    """One entry: `address` is what a fence names; `identity`, `pid`, `started` tell a successor on the same host."""

    address: str
    identity: str
    pid: int
    started: str
    pid_namespace: str


class Standing(Enum):
    """What a client id turns out to be."""

    SELF = "this very client"
    ALIVE = "another process of ours"
    DEAD = "a dead process of ours, fenced by now"
    FOREIGN = "a client of somebody else"


def this_process(address: str) -> Process:
    """Describe the calling process. In a pod the identity is the pod's: of one pod only one container of a kind runs."""
    pod = os.environ.get("POD_UID", "")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    identity = f"pod/{pod}" if pod else f"{socket.gethostname()}/{boot}"
    return Process(address, identity, os.getpid(), _started(os.getpid()), os.readlink("/proc/self/ns/pid"))


def surely_dead(other: Process, mine: Process) -> bool:
    """Tell from here, without waiting for its lock to lapse, that a process of the same host or pod is gone."""
    if other.identity != mine.identity:
        return False
    if other.pid_namespace != mine.pid_namespace:
        return mine.identity.startswith("pod/")
    return _started(other.pid) != other.started


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


class Registry:
    """Our side of the list in one pool, for one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._me = str(connection.instance)
        self._mine = this_process(connection.address)

    def enrol(self, pool: rados.Ioctx) -> None:
        """Write this client down, and fence predecessors that are surely dead."""
        with explained("enrolling in the list of provisioner processes"):
            self._renew(pool)
            _set(pool, PROCESSES, self._me, msgspec.json.encode(self._mine))
            for instance, process in self._others(pool):
                if surely_dead(process, self._mine):
                    self._bury(pool, instance, process)

    def renew(self, pool: rados.Ioctx) -> None:
        """Say that this process is alive; at least every LAPSE seconds."""
        with explained("renewing the lock that says this process is alive"):
            self._renew(pool)

    def leave(self, pool: rados.Ioctx) -> None:
        """Take this client off the list."""
        with explained("leaving the list of provisioner processes"):
            _forget(pool, self._me)

    def alone(self, pool: rados.Ioctx) -> bool:
        """Tell whether no other process of ours is alive; those found dead are fenced on the way."""
        return all(self._is_dead(pool, instance, process) for instance, process in self._others(pool))

    def judge(self, pool: rados.Ioctx, instance: int) -> Standing:
        """Tell what a watcher's client id is. A dead process of ours is fenced before this returns."""
        if str(instance) == self._me:
            return Standing.SELF
        for other, process in self._others(pool):
            if other == str(instance):
                return Standing.DEAD if self._is_dead(pool, other, process) else Standing.ALIVE
        return Standing.FOREIGN

    def _others(self, pool: rados.Ioctx) -> Iterator[tuple[str, Process]]:
        for instance, value in headers.omap_page(pool, PROCESSES, "", "", 1000).items():
            if instance != self._me:
                yield instance, msgspec.json.decode(value, type=Process)

    def _is_dead(self, pool: rados.Ioctx, instance: str, process: Process) -> bool:
        if not surely_dead(process, self._mine):
            try:
                pool.lock_exclusive(_lock_object(instance), _LOCK, self._me, "burial", LAPSE, 0)
            except rados.ObjectBusy:
                return False
        self._bury(pool, instance, process)
        return True

    def _bury(self, pool: rados.Ioctx, instance: str, process: Process) -> None:
        self._connection.command("osd blocklist", blocklistop="add", addr=process.address)
        _forget(pool, instance)

    def _renew(self, pool: rados.Ioctx) -> None:
        pool.lock_exclusive(_lock_object(self._me), _LOCK, self._me, self._mine.identity, LAPSE, _MAY_RENEW)


def _lock_object(instance: str) -> str:
    return f"ceph-provisioner.process.{instance}"


def _set(pool: rados.Ioctx, obj: str, key: str, value: bytes) -> None:
    with rados.WriteOpCtx() as operation:
        pool.set_omap(operation, (key,), (value,))
        pool.operate_write_op(operation, obj)


def _forget(pool: rados.Ioctx, instance: str) -> None:
    with rados.WriteOpCtx() as operation:
        pool.remove_omap_keys(operation, (instance,))
        pool.operate_write_op(operation, PROCESSES)
    with contextlib.suppress(rados.ObjectNotFound):
        pool.remove_object(_lock_object(instance))
