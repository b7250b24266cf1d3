"""One cluster in one directory: a monitor, a manager, OSDs on sparse files, and a radosgw on request."""

import fcntl
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from hack.kubernetes.processes import Process, first_ended, spawn

from .admin import Admin
from .caps import provisioner_caps
from .files import Settings, ceph_conf, new_key, write_keyring
from .manager import write_modules

USER = "provisioner"
MONITOR, MANAGER, GATEWAY = "mon.a", "mgr.x", "client.rgw.x"
EVERYTHING = "allow *"
_PATIENCE = 60.0
_GOODBYE = 15.0
_POLL = 0.01

Say = Callable[[str], None]


class ClusterError(Exception):
    """A cluster cannot be started or used; the text says which daemon or step failed, and where its log is."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster of one directory; `settings` say what it is, the directory holds the rest."""

    home: Path
    settings: Settings

    @property
    def daemons(self) -> tuple[str, ...]:
        """The names of its daemons, in the order of their start."""
        gateway = (GATEWAY,) if self.settings.gateway else ()
        return (MONITOR, MANAGER, *self.osds, *gateway)

    @property
    def osds(self) -> tuple[str, ...]:
        """The names of its OSDs, in the order of their numbers."""
        return tuple(f"osd.{number}" for number in range(self.settings.osds))

    def process(self, daemon: str) -> Process | None:
        """The daemon's process, if it runs."""
        process = Process.from_file(self._pidfile(daemon))
        return process if process and process.alive else None

    def client(self) -> dict[str, object]:
        """What a client needs.

        The monitors are told by their v1 addresses, bare: the kernel speaks v1 unless `ms_mode` says otherwise, and
        librados tries both protocols at a port that is neither's own.
        """
        known: dict[str, object] = {
            "conf": str(self.home / "ceph.conf"),
            "keyring": str(self._keyring(f"client.{USER}")),
            "user": USER,
            "pool": self.settings.pools[0],
            "fsid": self.settings.fsid,
            "monitors": [f"127.0.0.1:{self.settings.msgr1}"],
        }
        if self.settings.gateway:
            known["gateway"] = f"http://127.0.0.1:{self.settings.gateway}"
        return known

    def start(self, say: Say) -> None:
        """Make the cluster if it isn't made, start what doesn't run, and return when a client can use it."""
        (self.home / "ceph.conf").write_text(ceph_conf(self.home, self.settings))
        if not self._made.exists():
            self._make(say)
        self._forget_the_dead()
        self._ensure(MONITOR, say)
        self._ensure(MANAGER, say)
        self._await_port(self.settings.msgr1, MONITOR)
        with Admin(self.home) as admin:
            for osd in self.osds:
                self._ensure_osd(osd, admin, say)
            self._await("the OSDs to be up", lambda: admin.osds_up() == len(self.osds))
            say("OSD up")
            self._make_pools(admin, say)
            admin.ensure_caps(f"client.{USER}", self._caps)
            if self.settings.gateway:
                self._ensure(GATEWAY, say)
                self._await_port(self.settings.gateway, GATEWAY)
            self._await("the manager to report", lambda: admin.space_is_known(self.settings.pools))
        say("usable")

    def stop(self) -> None:
        """End every daemon, the monitor last so that the others can say goodbye."""
        for daemon in reversed(self.daemons):
            if process := self.process(daemon):
                process.end(_GOODBYE)
            self._pidfile(daemon).unlink(missing_ok=True)

    def restart(self, daemon: str, say: Say) -> None:
        """End one daemon if it runs, and start it."""
        if process := self.process(daemon):
            process.end(_GOODBYE)
        if daemon in self.osds and self.process(MONITOR):
            with Admin(self.home) as admin:
                self._ensure_osd(daemon, admin, say)
        else:
            self._ensure(daemon, say)

    def _forget_the_dead(self) -> None:
        # who died before this start is no sign that something goes wrong in it
        for daemon in self.daemons:
            if not self.process(daemon):
                self._pidfile(daemon).unlink(missing_ok=True)

    @property
    def _made(self) -> Path:
        return self.home / "made"

    @property
    def _caps(self) -> dict[str, str]:
        return provisioner_caps(self.settings.pools, users=self.settings.users)

    def _pidfile(self, daemon: str) -> Path:
        return self.home / f"{daemon}.pid"

    def _keyring(self, entity: str) -> Path:
        return self.home / f"ceph.{entity}.keyring"

    def _ensure(self, daemon: str, say: Say) -> None:
        if self.process(daemon):
            return
        kind, _, name = daemon.rpartition(".")
        command = [f"ceph-{kind}", "-f", "-i", name]
        if daemon == GATEWAY:
            endpoint = f"beast endpoint=127.0.0.1:{self.settings.gateway}"
            command = ["radosgw", "-f", "-n", daemon, f"--rgw_frontends={endpoint}"]
        log = self.home / "log" / f"{daemon}.out"
        command += ["-c", str(self.home / "ceph.conf")]
        process = spawn(command, home=self.home, pidfile=self._pidfile(daemon), log=log)
        if process is None:
            raise ClusterError(f"{daemon} ended at once: see {log}")
        say(f"{daemon} started")

    def _ensure_osd(self, osd: str, admin: Admin, say: Say) -> None:
        if not self.process(osd):
            # One that was killed counts as up; a new one would be let in after 15 s of doubt.
            admin.command("osd down", ids=[osd.removeprefix("osd.")])
            self._ensure(osd, say)

    def _make(self, say: Say) -> None:
        """Write keys and stores. What can run beside the monitor's start does: 0.6 s saved on two cores."""
        self._clear()
        born = {osd: (str(uuid4()), new_key()) for osd in self.osds}
        self._write_keys({osd: key for osd, (_, key) in born.items()})
        self._run("monmaptool", "--create", "--fsid", self.settings.fsid, "--addv", "a", self._addresses, self._monmap)
        with ThreadPoolExecutor() as beside:
            modules = beside.submit(write_modules, self.home / "mgr-modules")
            stores = [beside.submit(self._make_osd, osd, uuid) for osd, (uuid, _) in born.items()]
            self._make_monitor()
            self._ensure(MONITOR, say)
            self._await_port(self.settings.msgr1, MONITOR)
            with Admin(self.home) as admin:
                for uuid, key in born.values():
                    admin.command("osd new", json.dumps({"cephx_secret": key}).encode(), uuid=uuid)
            say("monitor answers")
            # The manager takes the longest to come up: not to wait for the OSD's store.
            modules.result()
            self._ensure(MANAGER, say)
            for store in stores:
                store.result()
        self._made.touch()

    def _clear(self) -> None:
        """Remove what a killed start left, and make empty directories."""
        self.stop()
        with self._tools.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the last tool of the killed start is gone
        shutil.rmtree(self.home / "mgr-modules", ignore_errors=True)
        Path(self._monmap).unlink(missing_ok=True)
        for name in (MONITOR, MANAGER, *self.osds, "log", "run", "crash/posted"):
            shutil.rmtree(self.home / name, ignore_errors=True)
            (self.home / name).mkdir(parents=True)

    def _write_keys(self, osd_keys: Mapping[str, str]) -> None:
        """Make all keys. The monitor's mkfs imports the users with their caps: no `auth` commands after."""
        manager_key = new_key()
        users = {
            "client.admin": dict.fromkeys(("mon", "osd", "mgr", "mds"), EVERYTHING),
            f"client.{USER}": self._caps,
            GATEWAY: {"mon": "allow rw", "osd": "allow rwx"},
        }
        keyed = {name: (new_key(), caps) for name, caps in users.items()}
        for name, entry in keyed.items():
            write_keyring(self._keyring(name), {name: entry})
        for osd, key in osd_keys.items():
            write_keyring(self.home / osd / "keyring", {osd: (key, {})})
        write_keyring(self.home / MANAGER / "keyring", {MANAGER: (manager_key, {})})
        daemons = {
            "mon.": (new_key(), {"mon": EVERYTHING}),
            MANAGER: (manager_key, {"mon": "allow profile mgr", "osd": EVERYTHING, "mds": EVERYTHING}),
        }
        write_keyring(self._initial, daemons | keyed)

    def _make_monitor(self) -> None:
        conf = str(self.home / "ceph.conf")
        keys = str(self._initial)
        self._run("ceph-mon", "--mkfs", "-i", "a", "-c", conf, "--monmap", self._monmap, "--keyring", keys)
        self._initial.unlink()

    def _make_osd(self, osd: str, uuid: str) -> None:
        # --no-mon-config: or it would wait for a monitor to ask for its options.
        conf = str(self.home / "ceph.conf")
        given = ("-c", conf, "--no-mon-config", "--monmap", self._monmap, "--osd-uuid", uuid)
        self._run("ceph-osd", "--mkfs", "-i", osd.removeprefix("osd."), *given)

    def _make_pools(self, admin: Admin, say: Say) -> None:
        existing = admin.pools()
        for pool in self.settings.pools:
            if pool not in existing:
                admin.command("osd pool create", pool=pool)
                say(f"pool {pool} created")
            admin.initialize(pool)

    @property
    def _tools(self) -> Path:
        return self.home / "tools.lock"

    @property
    def _initial(self) -> Path:
        return self.home / "initial.keyring"

    @property
    def _monmap(self) -> str:
        return str(self.home / "monmap")

    @property
    def _addresses(self) -> str:
        return f"[v2:127.0.0.1:{self.settings.msgr2},v1:127.0.0.1:{self.settings.msgr1}]"

    def _run(self, *command: str) -> None:
        # If this start is killed, its tools must not go on writing below the next one: they end with it, all but one that
        # was about to ask for that; hence the lock, which the tool itself holds.
        tied = ("setpriv", "--pdeathsig", "KILL", *command)
        with self._tools.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            done = subprocess.run(
                tied, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(lock.fileno(),)
            )
        if done.returncode:
            text = done.stdout.decode(errors="replace")[-2000:]
            raise ClusterError(f"{command[0]} failed with {done.returncode}:\n{text}")

    def _await_port(self, port: int, daemon: str) -> None:
        self._await(f"{daemon} to listen", lambda: _listens(port))

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; a daemon's end or a minute without it is an error."""
        deadline = time.monotonic() + _PATIENCE
        known = {daemon: Process.from_file(self._pidfile(daemon)) for daemon in self.daemons}
        running = {process: daemon for daemon, process in known.items() if process}
        while not condition():
            if ended := first_ended(running, _POLL):
                raise ClusterError(f"{running[ended]} ended while waiting for {what}: see {self.home / 'log'}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {_PATIENCE:.0f} s for {what}: see {self.home / 'log'}")


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
