"""One cluster in one directory: what it is, and how it is brought up, looked at and taken down.

The directory holds everything: cluster.json, certificates, kubeconfig files, etcd's data, pidfiles, logs. A start makes
the daemons be as the directory says, whatever ran before: it is both the first start and the repair.
"""

import http.client
import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from . import flags, node, pki
from .build import Say
from .node import Node
from .processes import Process, first_ended, spawn

ETCD, APISERVER = "etcd", "kube-apiserver"
CONTROLLER_MANAGER, SCHEDULER = "kube-controller-manager", "kube-scheduler"
CONTAINERD, KUBELET = "containerd", "kubelet"
# Each waits for the ones before it, but etcd and the API server, which waits for etcd by itself, start together.
BATCHES = ((ETCD, APISERVER), (CONTROLLER_MANAGER, SCHEDULER, CONTAINERD), (KUBELET,))
DAEMONS = tuple(name for batch in BATCHES for name in batch)
SECONDS_TO_START = 120.0
SECONDS_TO_STOP = 5.0
SECONDS_BETWEEN_LOOKS = 0.05


class ClusterError(Exception):
    """The cluster cannot be brought up or taken down; the text says what to do or where to look."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cluster is, as cluster.json keeps it. `version` is a minor, `1.30`."""

    version: str
    ports: flags.Ports
    scheduler: bool = True
    apiserver_args: tuple[str, ...] = ()
    controller_manager_args: tuple[str, ...] = ()
    kubelet_port: int = 0
    """0: there is no node."""

    @classmethod
    def load(cls, home: Path) -> "Settings | None":
        """The settings of the cluster in `home`; None if there is none."""
        try:
            kept = json.loads((home / "cluster.json").read_text())
        except FileNotFoundError:
            return None
        return cls(
            version=kept["version"],
            ports=flags.Ports(**kept["ports"]),
            scheduler=kept["scheduler"],
            apiserver_args=tuple(kept["apiserver_args"]),
            controller_manager_args=tuple(kept["controller_manager_args"]),
            kubelet_port=kept.get("kubelet_port", 0),
        )

    def save(self, home: Path) -> None:
        """Keep them in `home`, whole or not at all."""
        (home / "cluster.json.new").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (home / "cluster.json.new").replace(home / "cluster.json")

    @property
    def daemons(self) -> tuple[str, ...]:
        """The daemons' names in the order they start."""
        left_out = {*([] if self.scheduler else [SCHEDULER]), *([] if self.kubelet_port else [CONTAINERD, KUBELET])}
        return tuple(name for name in DAEMONS if name not in left_out)


@dataclass(slots=True)
class Cluster:
    """The cluster in directory `home`, as `settings` say it should be."""

    home: Path
    settings: Settings
    _running: dict[str, Process] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    @property
    def node(self) -> Node:
        """The node, whether there is one or not."""
        return Node(self.home, self.settings.kubelet_port, self.settings.version)

    def process(self, daemon: str) -> Process | None:
        """The daemon's process, if it runs."""
        named = Process.from_file(self._pidfile(daemon))
        return named if named and named.alive else None

    def start(self, programs: flags.Programs, say: Say) -> None:
        """Bring up what does not run as the settings say, and wait for all of it; on failure end what was started."""
        commands = self._commands(programs)
        if KUBELET in commands and (missing := self.node.missing()):
            raise ClusterError(missing)
        self._prepare()
        self._end(name for name in reversed(DAEMONS) if name not in commands)
        if KUBELET not in commands:
            self.node.remains.clear()
        with ExitStack() as undo:
            for batch in BATCHES:
                if KUBELET in batch and KUBELET in commands:
                    undo.callback(self.node.remains.clear)
                    self.node.offer_image()
                self._bring_up({name: commands[name] for name in batch if name in commands}, undo, say)
            self._wait("the default service account", self._has_default_account)
            undo.pop_all()

    def restart(self, daemon: str, programs: flags.Programs, say: Say) -> None:
        """End one daemon if it runs, start it, and wait until it is ready."""
        command = self._commands(programs)[daemon]
        self._end([daemon])
        with ExitStack() as undo:
            self._bring_up({daemon: command}, undo, say)
            undo.pop_all()

    def stop(self) -> None:
        """End every daemon, the clients before the servers."""
        self._end((KUBELET, CONTAINERD))
        self.node.remains.clear()
        self._end(reversed(DAEMONS))

    def _prepare(self) -> None:
        for name in ("run", "log"):
            (self.home / name).mkdir(exist_ok=True)
        pki.make(self.home / "pki")
        server = f"https://127.0.0.1:{self.settings.ports.apiserver}"
        pki.write_kubeconfig(self.kubeconfig, "admin", server, self.home / "pki")
        if KUBELET in self.settings.daemons:
            self.node.prepare()
        for user in (CONTROLLER_MANAGER, SCHEDULER, KUBELET):
            pki.write_kubeconfig(self.home / f"{user}.kubeconfig", user, server, self.home / "pki")

    def _commands(self, programs: flags.Programs) -> dict[str, tuple[str, ...]]:
        settings = self.settings
        made = {
            ETCD: flags.etcd(programs),
            APISERVER: flags.apiserver(programs, settings.ports, settings.apiserver_args),
            CONTROLLER_MANAGER: flags.controller_manager(programs, settings.ports, settings.controller_manager_args),
            SCHEDULER: flags.scheduler(programs, settings.ports),
            CONTAINERD: self.node.containerd(),
            KUBELET: self.node.kubelet(programs.hyperkube),
        }
        return {name: made[name] for name in settings.daemons}

    def _bring_up(self, commands: Mapping[str, tuple[str, ...]], undo: ExitStack, say: Say) -> None:
        started = time.monotonic()
        for name, command in commands.items():
            self._ensure(name, command, undo)
        for name in commands:
            self._wait(name, partial(self._is_ready, name))
        if commands:
            say(f"{' and '.join(commands)}: ready in {time.monotonic() - started:.1f} s")

    def _ensure(self, daemon: str, command: tuple[str, ...], undo: ExitStack) -> None:
        """Have the daemon run with this command line."""
        process = self.process(daemon)
        if process is None or process.command != command:
            self._end([daemon])
            process = spawn(command, home=self.home, pidfile=self._pidfile(daemon), log=self._log(daemon))
            if process is None:
                raise ClusterError(f"{daemon} ended at once{self._last_words(daemon)}")
            undo.callback(process.end, SECONDS_TO_STOP)
        self._running[daemon] = process

    def _end(self, daemons: Iterable[str]) -> None:
        for daemon in daemons:
            if process := self.process(daemon):
                process.end(SECONDS_TO_STOP)
            self._pidfile(daemon).unlink(missing_ok=True)

    def _is_ready(self, daemon: str) -> bool:
        ports = self.settings.ports
        if daemon == CONTROLLER_MANAGER:
            return self._get(ports.controller_manager, "/healthz") is not None
        if daemon == SCHEDULER:  # it has no /readyz before 1.31
            return self._get(ports.scheduler, "/healthz") is not None
        if daemon == CONTAINERD:
            return self.node.answers()
        if daemon == KUBELET:
            answers = self._get(self.settings.kubelet_port, "/healthz") is not None
            return answers and _is_ready_node(self._get(ports.apiserver, f"/api/v1/nodes/{node.NAME}"))
        return self._get(ports.apiserver, "/readyz") is not None  # asks etcd too

    def _has_default_account(self) -> bool:
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        return self._get(self.settings.ports.apiserver, path) is not None

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        """Wait until `is_there()`; an error at the deadline, or as soon as one of the daemons ends."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not is_there():
            ended = first_ended(self._running.values(), SECONDS_BETWEEN_LOOKS)
            for name, process in self._running.items():
                if process == ended:
                    raise ClusterError(f"{name} ended{self._last_words(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not there after {SECONDS_TO_START:.0f} s, see {self.home / 'log'}")

    def _get(self, port: int, path: str) -> bytes | None:
        """What a GET as the administrator gives; None without an answer, or with another status than 200."""
        keys = self.home / "pki"
        context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _pidfile(self, daemon: str) -> Path:
        return self.home / "run" / f"{daemon}.pid"

    def _log(self, daemon: str) -> Path:
        return self.home / "log" / f"{daemon}.log"

    def _last_words(self, daemon: str) -> str:
        lines = self._log(daemon).read_text(errors="replace").splitlines()[-8:]
        return "\n".join([f"; {self._log(daemon)} ends with", *lines])


def _is_ready_node(read: bytes | None) -> bool:
    conditions = json.loads(read)["status"].get("conditions", []) if read else []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody holds.

    They lie below the range the kernel takes outgoing ports from: while the API server is down, a client that tries
    again and again could otherwise be given the server's own port, and keep it from coming back.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10000, lowest_outgoing if lowest_outgoing > 12000 else 32768)
    found: list[int] = []
    while len(found) < number:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.choice(candidates)))
            except OSError:
                continue
            found.append(probe.getsockname()[1])
    return found
