"""One Cinder in one directory: how it is brought up, looked at and taken down.

The directory holds everything: settings, databases, pidfiles, logs. A start has the parts be as the settings say, whatever ran
before: it is both the first start and the repair.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.ceph.admin import Admin
from hack.ceph.files import Settings as CephSettings
from hack.ceph.files import write_keyring
from hack.kubernetes.processes import Process, spawn

from .environment import HERE, Environment
from .http import NoAnswerError, call
from .identity import clouds_yaml, register
from .settings import USER, Settings, cinder_conf, keystone_conf

TGTD, KEYSTONE, CINDER = "tgtd", "keystone", "cinder"
PARTS = (TGTD, KEYSTONE, CINDER)
TOKEN = "admin:admin"
"""What the door without Keystone takes as a caller: user and project."""
_PATIENCE = 120.0
_POLL = 0.1
_CEPH_CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{msgr2}/0,v1:127.0.0.1:{msgr1}/0]
keyring = {home}/ceph.$name.keyring
admin_socket =
log_file =
log_to_stderr = false
"""
_TGTADM = """\
#!/bin/sh
# tgt-admin loses the quotes round `conf=..;id=..`, so they are added here
case "$*" in *"--op new --mode logicalunit"*) set -- "$@" --bstype rbd --bsopts "conf={home}/ceph.conf;id={user}";; esac
exec /usr/sbin/tgtadm "$@"
"""

Say = Callable[[str], None]


class ServiceError(Exception):
    """A part can't be started or does not answer; the text says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Service:
    """The Cinder of one directory."""

    home: Path
    settings: Settings

    @property
    def parts(self) -> tuple[str, ...]:
        """Its processes, in the order of their start."""
        wanted = {TGTD: self.settings.iscsi, KEYSTONE: self.settings.with_keystone, CINDER: True}
        return tuple(part for part in PARTS if wanted[part])

    def client(self) -> dict[str, object]:
        """What a client needs."""
        known: dict[str, object] = {
            "endpoint": f"http://127.0.0.1:{self.settings.noauth}/v3",
            "token": TOKEN,
            "pool": self.settings.pool,
            "user": USER,
            "keyring": str(self._keyring),
            "types": list(self.settings.backends),
        }
        if self.settings.with_keystone:
            known["auth_url"] = f"http://127.0.0.1:{self.settings.keystone}/v3"
            known["clouds"] = str(self.home / "clouds.yaml")
        return known

    def process(self, part: str) -> Process | None:
        """The part's process, if it runs."""
        process = Process.from_file(self._pidfile(part))
        return process if process and process.alive else None

    def start(self, environment: Environment, say: Say) -> None:
        """Start what does not run, and return when volumes can be made."""
        for name in ("log", "state/volumes", "state/lock", "state/coordination", "bin"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        self._prepare_ceph(say)
        self._write_files(environment)
        for part in self.parts:
            if self.process(part) is None:
                self._spawn(part, environment)
                say(f"{part} started")
        if self.settings.with_keystone:
            self._await(KEYSTONE, lambda: self._answers(self.settings.keystone, "/v3"))
            register(self.settings)
            say("Keystone knows Cinder")
        self._await("Cinder's services", self._is_usable)
        self._make_types()

    def stop(self) -> None:
        """End every part, Cinder first so that nothing of tgt's goes from under it."""
        for part in reversed(PARTS):
            if process := self.process(part):
                process.end(0.5 if part == TGTD else 10.0)  # tgtd stays while it has targets
            self._pidfile(part).unlink(missing_ok=True)

    @property
    def _keyring(self) -> Path:
        return self.home / f"ceph.client.{USER}.keyring"

    def _pidfile(self, part: str) -> Path:
        return self.home / f"{part}.pid"

    def _prepare_ceph(self, say: Say) -> None:
        """Have the pool, and a user that can work in it and nowhere else."""
        ceph, pool = Path(self.settings.ceph), self.settings.pool
        known = CephSettings.load(ceph)
        if known is None:
            raise ServiceError(f"{ceph} holds no cluster of hack/dev-ceph")
        conf = _CEPH_CONF.format(fsid=known.fsid, msgr1=known.msgr1, msgr2=known.msgr2, home=self.home)
        (self.home / "ceph.conf").write_text(conf)
        with Admin(ceph) as admin:
            if pool not in admin.pools():
                admin.command("osd pool create", pool=pool, pg_num=8)
                admin.initialize(pool)
                say(f"pool {pool} made")
            caps = {"mon": "profile rbd", "osd": f"profile rbd pool={pool}", "mgr": f"profile rbd pool={pool}"}
            words = [word for pair in caps.items() for word in pair]
            (entry,) = admin.command("auth get-or-create", entity=f"client.{USER}", caps=words)
            admin.command("auth caps", entity=f"client.{USER}", caps=words)
        write_keyring(self._keyring, {f"client.{USER}": (entry["key"], {})})

    def _write_files(self, environment: Environment) -> None:
        (self.home / "cinder.conf").write_text(cinder_conf(self.home, environment.etc, self.settings))
        self._copy(environment.fresh_database(CINDER))
        if self.settings.with_keystone:
            (self.home / "keystone.conf").write_text(keystone_conf(self.home))
            self._copy(environment.fresh_database(KEYSTONE))
            for keys in ("fernet-keys", "credential-keys"):
                shutil.copytree(environment.home / "fresh" / keys, self.home / keys, dirs_exist_ok=True)
            (self.home / "clouds.yaml").write_text(clouds_yaml(self.settings))
        if self.settings.iscsi:
            self._script("tgt-admin", f'#!/bin/sh\nexec /usr/sbin/tgt-admin -c {self.home}/targets.conf "$@"\n')
            self._script("tgtadm", _TGTADM.format(home=self.home, user=USER))
            (self.home / "targets.conf").write_text(f"include {self.home}/state/volumes/*\n")

    def _copy(self, database: Path) -> None:
        if not (self.home / database.name).exists():
            shutil.copyfile(database, self.home / f"{database.name}.new")
            os.replace(self.home / f"{database.name}.new", self.home / database.name)

    def _script(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def _spawn(self, part: str, environment: Environment) -> None:
        if part == CINDER:
            (self.home / "ready").unlink(missing_ok=True)
        paths = f"PATH={self.home}/bin:{HERE}/inside:{environment.home}/bin:{os.environ['PATH']}"
        env = ["env", paths, f"TGT_IPC_SOCKET={self.home}/tgtd.sock", "PYTHONWARNINGS=ignore", f"PYTHONPATH={HERE}/inside"]
        settings, python = self.settings, str(environment.python)
        commands = {
            TGTD: ["/usr/sbin/tgtd", "-f", "--iscsi", f"portal=127.0.0.1:{settings.iscsi}"],
            KEYSTONE: [python, f"{HERE}/inside/identity.py", str(settings.keystone), f"{self.home}/keystone.conf"],
            CINDER: [
                *(python, f"{HERE}/inside/server.py", "--config-file", f"{self.home}/cinder.conf"),
                *(f"{self.home}/ready", str(settings.authenticated)),
            ],
        }
        log = self.home / "log" / f"{part}.out"
        process = spawn([*env, *commands[part]], home=self.home, pidfile=self._pidfile(part), log=log)
        if process is None:
            raise ServiceError(f"{part} ended at once: see {log}")

    def _is_usable(self) -> bool:
        """Whether every service is up, and the scheduler has heard of every backend."""
        if not (self.home / "ready").exists():
            return False
        try:
            services = self._call("GET", "/os-services")["services"]
            pools = self._call("GET", "/scheduler-stats/get_pools")["pools"]
        except NoAnswerError:
            return False
        volumes = [each for each in services if each["binary"] == "cinder-volume" and each["state"] == "up"]
        return len(volumes) == len(pools) == len(self.settings.backends)

    def _make_types(self) -> None:
        known = {each["name"] for each in self._call("GET", "/types")["volume_types"]}
        for name in self.settings.backends:
            if name not in known:
                self._call("POST", "/types", {"volume_type": {"name": name, "extra_specs": {"volume_backend_name": name}}})

    def _call(self, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
        return call(method, f"http://127.0.0.1:{self.settings.noauth}/v3{path}", TOKEN, body)

    def _answers(self, port: int, path: str) -> bool:
        try:
            call("GET", f"http://127.0.0.1:{port}{path}", "")
        except NoAnswerError:
            return False
        return True

    def _await(self, what: str, is_there: Callable[[], bool]) -> None:
        """Wait until `is_there()`; an error at the deadline, or as soon as one of the parts ends."""
        deadline = time.monotonic() + _PATIENCE
        while not is_there():
            self._fail_if_one_ended(self.parts)
            if time.monotonic() > deadline:
                raise ServiceError(f"{what}: not there after {_PATIENCE:.0f} s, see {self.home / 'log'}")
            time.sleep(_POLL)

    def _fail_if_one_ended(self, parts: Iterable[str]) -> None:
        for part in parts:
            if self.process(part) is None:
                log = self.home / "log" / f"{part}.out"
                words = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
                raise ServiceError(f"{part} ended; {log} ends with\n{words}")
