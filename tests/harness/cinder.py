"""A real Cinder, seen with its administrator's eyes: what there is behind the provisioner's back."""

import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cinder.http import NoAnswerError, call
from tests.harness.ceph import Ceph
from tests.harness.waiting import until

HACK = Path(__file__).parents[2] / "hack"
CLOUD = "openstack"
"""The name of the Cinder in config files."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Cinder:
    """One Cinder of hack/dev-cinder, with the volume types `rbd` and `iscsi`."""

    directory: Path
    endpoint: str
    token: str
    pool: str
    user: str
    keyring: str

    def config_file(self, directory: Path, ceph: Ceph, *, key: bool = True, **cloud: object) -> Path:
        """Write a config file that knows the Ceph as `dev`, again as Cinder's user if `key`, and this Cinder as CLOUD."""
        clusters = {"dev": {"conf": ceph.conf, "user": ceph.user, "keyring": ceph.keyring}}
        if key:
            clusters["volumes"] = {"monitors": list(ceph.monitors), "user": self.user, "keyring": self.keyring}  # type: ignore[dict-item]
        path = directory / "config.yaml"
        path.write_text(json.dumps({"clusters": clusters, "clouds": {CLOUD: cloud or {"endpoint": self.endpoint}}}))
        return path

    def call(self, method: str, path: str, body: object = None) -> Any:
        return call(method, self.endpoint + path, self.token, body)

    def volumes(self) -> list[Record]:
        """Every volume of every project, oldest first."""
        found: list[Record] = self.call("GET", "/volumes/detail?all_tenants=1&sort=created_at:asc")["volumes"]
        return found

    def volume(self, name: str) -> Record | None:
        return next((volume for volume in self.volumes() if volume["name"] == name), None)

    def named(self, name: str) -> list[Record]:
        return [volume for volume in self.volumes() if volume["name"] == name]

    def act(self, volume: str, action: str, **body: object) -> Any:
        return self.call("POST", f"/volumes/{volume}/action", {action: body})

    def make_volume(self, name: str, **fields: object) -> Record:
        """A volume as somebody else makes it, ready to use."""
        made = self.call("POST", "/volumes", {"volume": {"name": name, "size": 1, **fields}})["volume"]
        return self.wait_status(made["id"], "available")

    def wait_status(self, volume: str, status: str, seconds: float = 60) -> Record:
        def there() -> Record | None:
            found: Record = self.call("GET", f"/volumes/{volume}")["volume"]
            return found if found["status"] == status else None

        return until(there, seconds, f"volume {volume} is {status}", lambda: str(self.call("GET", f"/volumes/{volume}")))

    def wait_nothing_left(self, ceph: Ceph, *names: str, seconds: float = 60) -> None:
        """Wait until neither Cinder nor its pool knows anything of the volumes."""
        until(lambda: not any(self.volume(name) for name in names), seconds, f"no volume {names}", lambda: str(self.volumes()))
        known = {f"volume-{volume['id']}" for volume in self.volumes()}
        until(
            lambda: all(image in known for image in ceph.images(self.pool)),
            seconds,
            "no image without a volume",
            lambda: str(ceph.images(self.pool)),
        )

    def take_snapshot(self, volume: str, name: str) -> str:
        """A snapshot that is whole; gives its uuid."""
        wanted = {"snapshot": {"volume_id": volume, "name": name, "force": True}}
        taken: str = self.call("POST", "/snapshots", wanted)["snapshot"]["id"]
        until(lambda: self.call("GET", f"/snapshots/{taken}")["snapshot"]["status"] == "available", 120, f"snapshot {name}")
        return taken

    def remove_snapshot(self, snapshot: str) -> None:
        self.call("DELETE", f"/snapshots/{snapshot}")

        def gone() -> bool:
            return all(each["id"] != snapshot for each in self.call("GET", "/snapshots?all_tenants=1")["snapshots"])

        until(gone, 120, f"snapshot {snapshot} is gone")

    def ensure_type(self, name: str, **extra_specs: str) -> None:
        """Have a volume type; there already is fine."""
        with contextlib.suppress(NoAnswerError):
            self.call("POST", "/types", {"volume_type": {"name": name, "extra_specs": extra_specs}})

    def targets(self) -> str:
        """What tgt exports."""
        socket = f"TGT_IPC_SOCKET={self.directory / 'tgtd.sock'}"
        command = ["env", socket, "tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def remove(self, volume: str) -> None:
        """Take a volume away, whatever state it is in."""
        with contextlib.suppress(NoAnswerError):
            self.act(volume, "os-force_detach")
        try:
            self.act(volume, "os-force_delete")
        except NoAnswerError:
            return
        until(lambda: all(each["id"] != volume for each in self.volumes()), 120, f"volume {volume} is gone")

    def empty(self) -> None:
        for volume in self.volumes():
            self.remove(volume["id"])


def start(directory: Path, ceph: Ceph) -> Cinder:
    command = [HACK / "dev-cinder", "start", str(directory), "--ceph", str(ceph.directory), "--iscsi"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return Cinder(directory.resolve(), **{key: told[key] for key in ("endpoint", "token", "pool", "user", "keyring")})


def start_keystone(cinder: Cinder) -> Path:
    """Have a Keystone beside the Cinder; gives a clouds.yaml with a cloud `dev` behind it."""
    command = [HACK / "dev-cinder", "start", str(cinder.directory), "--keystone"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(done.stdout.splitlines()[-1])["clouds"])


def stop(directory: Path) -> None:
    subprocess.run([HACK / "dev-cinder", "stop", str(directory), "--purge"], check=True)
