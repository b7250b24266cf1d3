"""A real Ceph, seen with the administrator's eyes: what there is behind the provisioner's back."""

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import rados
import rbd

from hack.ceph.caps import provisioner_caps
from provisioner.ceph.cluster import ClusterConfig
from tests.harness.waiting import until

HACK = Path(__file__).parents[2] / "hack"


@dataclass(frozen=True)
class User:
    """A cephx user, without `client.`, and its key."""

    name: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Ceph:
    """One cluster of hack/dev-ceph, and what its administrator can see and do."""

    directory: Path
    conf: str
    keyring: str
    user: str
    pool: str
    monitors: tuple[str, ...]

    def config(self, name: str = "dev", timeout: int = 15) -> ClusterConfig:
        return ClusterConfig(name, conf=self.conf, user=self.user, keyring=self.keyring, timeout=timeout)

    def config_file(self, directory: Path, timeout: int = 15, **more: object) -> Path:
        """Write a config file that knows this cluster as `dev`; what it says `more` of the cluster is config.py's."""
        path = directory / "config.yaml"
        cluster = {"conf": self.conf, "user": self.user, "keyring": self.keyring, "timeout": timeout, **more}
        path.write_text(json.dumps({"clusters": {"dev": cluster}}))
        return path

    @contextmanager
    def admin(self) -> Iterator[rados.Rados]:
        handle = rados.Rados(conffile=self.conf, name="client.admin")
        handle.connect()
        try:
            yield handle
        finally:
            handle.shutdown()

    @contextmanager
    def admin_pool(self, pool: str = "", namespace: str = "") -> Iterator[rados.Ioctx]:
        with self.admin() as handle, handle.open_ioctx(pool or self.pool) as context:
            context.set_namespace(namespace)
            yield context

    def command(self, prefix: str, **arguments: object) -> object:
        """Run a monitor command as administrator; fails the test if it fails."""
        with self.admin() as handle:
            request = json.dumps({"prefix": prefix, "format": "json", **arguments})
            code, out, message = handle.mon_command(request, b"")
        assert code == 0, f"{prefix}: {message}"
        return json.loads(out) if out.strip() else None

    def images(self, pool: str = "", namespace: str = "") -> list[str]:
        with self.admin_pool(pool, namespace) as context:
            return sorted(rbd.RBD().list(context))

    def trash(self, pool: str = "") -> list[str]:
        with self.admin_pool(pool) as context:
            return [entry["name"] for entry in rbd.RBD().trash_list(context)]

    def image_ids(self, pool: str = "") -> dict[str, str]:
        """Internal ids by name, of the images and of those in the trash."""
        with self.admin_pool(pool) as context:
            listed = {entry["name"]: entry["id"] for entry in rbd.RBD().list2(context)}
            return listed | {entry["name"]: entry["id"] for entry in rbd.RBD().trash_list(context)}

    def image_metadata(self, image: str, pool: str = "") -> dict[str, str]:
        with self.open_image(image, pool) as opened:
            return dict(opened.metadata_list())

    def omap(self, obj: str, pool: str = "") -> dict[str, str]:
        with self.admin_pool(pool) as context, rados.ReadOpCtx() as operation:
            pairs, _ = context.get_omap_vals(operation, "", "", 1000)
            context.operate_read_op(operation, obj)
            return {key: value.decode(errors="replace") for key, value in pairs}

    def watchers(self, obj: str, pool: str = "") -> list[str]:
        """Addresses of an object's watchers."""
        command = ["rados", "--conf", self.conf, "--id", "admin", "--pool", pool or self.pool, "listwatchers", obj]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return re.findall(r"watcher=(\S+)", done.stdout)

    def objects(self, pool: str = "") -> list[str]:
        with self.admin_pool(pool) as context:
            return sorted(item.key for item in context.list_objects())

    def users(self) -> list[str]:
        """Entities of the users that were given out."""
        listed = self.command("auth ls")
        return sorted(e["entity"] for e in listed["auth_dump"] if e["entity"].startswith("client.cp-"))  # type: ignore[index]

    def info(self, image: str, pool: str = "") -> dict[str, object]:
        """What `rbd info` says."""
        command = ["rbd", "--conf", self.conf, "--id", "admin", "info", "--format", "json", "--pool", pool or self.pool, image]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def provisioner_caps(self) -> dict[str, str]:
        """The caps of the provisioner's own user."""
        (entry,) = self.command("auth get", entity=f"client.{self.user}")  # type: ignore[misc]
        caps: dict[str, str] = entry["caps"]
        return caps

    def make_user(self, name: str, **caps: str) -> User:
        words = [word for pair in caps.items() for word in pair]
        (entry,) = self.command("auth get-or-create", entity=f"client.{name}", caps=words)  # type: ignore[misc]
        return User(name, entry["key"])

    def make_namespace(self, name: str) -> None:
        with self.admin_pool() as context:
            rbd.RBD().namespace_create(context, name)

    def make_pool(self, name: str, **options: object) -> None:
        self.command("osd pool create", pool=name, pg_num=8, **options)
        with self.admin_pool(name) as context:
            rbd.RBD().pool_init(context, True)

    def drop_pool(self, name: str) -> None:
        self.command("osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True)

    def pool_flags(self, name: str) -> str:
        pools = self.command("osd dump")["pools"]  # type: ignore[index, call-overload]
        return str(next(pool["flags_names"] for pool in pools if pool["pool_name"] == name))

    def let_provision(self, pool: str) -> None:
        """Give the provisioner's own user the same rights in one more pool. Connections that it has don't notice."""
        pools = re.findall("pool=([^ ,]+)", self.provisioner_caps()["osd"])
        self._set_caps(provisioner_caps([*pools, pool], users=True))

    @contextmanager
    def extra_pool(self) -> Iterator[str]:
        """A pool for the block, in which processes of ours that start after it may work."""
        pool, caps = f"pool-{uuid.uuid4().hex[:8]}", self.provisioner_caps()
        self.make_pool(pool)
        self.let_provision(pool)
        try:
            yield pool
        finally:
            self.drop_pool(pool)
            self._set_caps(caps)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have the cluster full for the block: what little is in it already counts as too much."""
        self._set_full_ratios(0.00001)
        until(lambda: "full" in self.pool_flags(self.pool).split(","), 120, "the pool is full")
        try:
            yield
        finally:
            self._set_full_ratios(0.9)
            until(lambda: "full" not in self.pool_flags(self.pool).split(","), 120, "the pool is no longer full")

    def _set_full_ratios(self, lowest: float) -> None:
        for step, kind in enumerate(("nearfull", "backfillfull", "full")):
            self.command(f"osd set-{kind}-ratio", ratio=lowest * (1 + step / 50))

    def empty(self, pool: str = "") -> None:
        """Remove every image and trashed image, whatever it takes."""
        with self.admin_pool(pool) as context:
            for name in rbd.RBD().list(context):
                _remove(context, name)
            for entry in rbd.RBD().trash_list(context):
                rbd.RBD().trash_remove(context, entry["id"], True)
        for entity in self.users():
            self.command("auth del", entity=entity)

    @contextmanager
    def open_image(self, image: str, pool: str = "") -> Iterator[rbd.Image]:
        """Have an image open for the block, as a client that uses it has."""
        with self.admin_pool(pool) as context, rbd.Image(context, image) as opened:
            yield opened

    @contextmanager
    def no_new_users(self) -> Iterator[None]:
        """Take the right to make users away from the provisioner's own user, for the block."""
        caps = self.provisioner_caps()
        self._set_caps({**caps, "mon": "profile rbd"})
        self._have_them_reconnect()
        try:
            yield
        finally:
            self._set_caps(caps)
            self._have_them_reconnect()

    def _have_them_reconnect(self) -> None:
        """The monitor goes by the rights that a connection began with; ours are made anew when the keyring changes."""
        os.utime(self.keyring)

    def _set_caps(self, caps: dict[str, str]) -> None:
        self.command("auth caps", entity=f"client.{self.user}", caps=[word for pair in caps.items() for word in pair])

    def osd_pid(self) -> int:
        """The OSD's process."""
        return int((self.directory / "osd.0.pid").read_text().splitlines()[-1].split()[0])

    @contextmanager
    def frozen_osd(self) -> Iterator[None]:
        """Stop the OSD's process in its tracks for the block."""
        pid = self.osd_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def _remove(context: rados.Ioctx, name: str) -> None:
    with rbd.Image(context, name) as image:
        for snapshot in list(image.list_snaps()):
            image.remove_snap(snapshot["name"])
    rbd.RBD().remove(context, name)


def start(directory: Path, *options: str) -> Ceph:
    done = subprocess.run([HACK / "dev-ceph", "start", str(directory), *options], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    cluster = Ceph(directory.resolve(), told["conf"], told["keyring"], told["user"], told["pool"], tuple(told["monitors"]))
    # An OSD's lease on its reads runs out after 16 s; one without replicas that slept longer never takes it up again (Ceph 16.2).
    cluster.command("config set", who="osd", name="osd_pool_default_read_lease_ratio", value="1000")
    return cluster


@contextmanager
def running(directory: Path, *options: str) -> Iterator[Ceph]:
    """A cluster of its own for the block."""
    try:
        yield start(directory, *options)
    finally:
        stop(directory)


def stop(directory: Path) -> None:
    subprocess.run([HACK / "dev-ceph", "stop", str(directory), "--purge"], check=True)
