"""The core over the Ceph store, as a process of ours has it, and what its pools look like to an administrator."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace

import rados
import rbd

from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import ClusterConfig, Clusters
from provisioner.ceph.groups import CephGroups
from provisioner.ceph.places import Places
from provisioner.ceph.reaper import Reap
from provisioner.ceph.registry import PROCESSES
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.ceph.store import CephStore
from provisioner.core.attachments import Attachments
from provisioner.core.errors import ProvisionerError
from provisioner.core.groups import Groups
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, Credentials, Layout, SizeRange, Snapshot, SnapshotRequest, Source, Volume
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from tests.harness.ceph import Ceph
from tests.harness.nursery import born
from tests.harness.waiting import until

GIB = 1 << 30
PLAIN = Layout()


@contextmanager
def at_work(places: Places) -> Iterator[None]:
    """Have a heart beat for the block, as every program of ours has: who is silent is fenced by whoever looks next."""
    stop = threading.Event()
    heart = threading.Thread(target=places.heartbeat, args=(stop,), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        places.leave()


class Provisioner:
    """One process of ours, within the test: its own connections, its own use cases, a beating heart."""

    def __init__(self, config: ClusterConfig, *more: ClusterConfig) -> None:
        self.config = config
        self.clusters = Clusters(lambda: {each.name: each for each in (config, *more)})
        self.places = Places(self.clusters)
        self.store = CephStore(self.places)
        self.volumes = Volumes(self.store)
        self.snapshots = Snapshots(CephSnapshots(self.places))
        self.attachments = Attachments(CephAttachments(self.places))
        self.groups = Groups(CephGroups(self.places), CephSnapshots(self.places))
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self.places.heartbeat, args=(self._stop,), daemon=True)
        self._heart.start()

    def create(self, place: Place, name: str, size: int = GIB, layout: Layout = PLAIN, limit: int = 0, **more: object) -> Volume:
        credentials = more.get("credentials")
        assert credentials is None or isinstance(credentials, Credentials)
        return self.volumes.create(CreateRequest(name, place, SizeRange(size, limit), layout, credentials=credentials))

    def clone(self, place: Place, name: str, source: Source, size: int = GIB, layout: Layout = PLAIN) -> Volume:
        return self.volumes.create(CreateRequest(name, place, SizeRange(size), layout, source=source))

    def snapshot(self, place: Place, volume: str, name: str) -> Snapshot:
        return self.snapshots.create(SnapshotRequest(name, VolumeId(place, volume)))

    def delete(self, place: Place, name: str) -> None:
        self.volumes.delete(VolumeId(place, name))

    def abandon(self, place: Place, name: str) -> None:
        self.volumes.abandon(VolumeId(place, name))

    def listed(self, place: Place) -> list[str]:
        return sorted(volume.id.image for volume in self.volumes.volumes(place))

    def purge(self) -> tuple[int, int]:
        """Walk through the trash once; images removed, images kept."""
        walks = [done for _, done in self.store.purge(lambda: True)]
        errors = [done for done in walks if isinstance(done, Exception)]
        assert not errors, errors
        return sum(walk.removed for walk in walks), sum(walk.kept for walk in walks)  # type: ignore[union-attr]

    def reap(self) -> Reap:
        """Tidy up once everywhere; what was done in all places together."""
        walks = [done for _, done in self.store.reap(lambda: True)]
        reaps = [done for done in walks if isinstance(done, Reap)]
        assert len(reaps) == len(walks), walks
        sums = {each.name: sum(getattr(reap, each.name) for reap in reaps) for each in fields(Reap) if each.name != "skipped"}
        return Reap(**sums, skipped=any(reap.skipped for reap in reaps))

    def sweep(self) -> int:
        """Look for orphans once everywhere; objects removed."""
        walks = [done for _, done in self.store.sweep(lambda: True)]
        errors = [done for done in walks if isinstance(done, Exception)]
        assert not errors, errors
        return sum(walk.removed for walk in walks)  # type: ignore[union-attr]

    def flatten(self) -> int:
        """Work off the lists; how many images were flattened."""
        walks = [done for _, done in self.store.flatten(lambda: True, lambda *_: None)]
        errors = [done for done in walks if isinstance(done, Exception)]
        assert not errors, errors
        return sum(walk.flattened for walk in walks)  # type: ignore[union-attr]

    def client(self) -> int:
        """The client id of its connection."""
        with self.clusters.connection(self.config.name) as connection:
            return connection.instance

    def address(self) -> str:
        with self.clusters.connection(self.config.name) as connection:
            return connection.address

    def retuned(self, **changes: object) -> "Provisioner":
        """Another process with the same configuration but for `changes`."""
        return Provisioner(replace(self.config, **changes))  # type: ignore[arg-type]

    def die(self) -> None:
        """Stop beating, without a word to anybody."""
        self._stop.set()
        self._heart.join(10)

    def close(self) -> None:
        self.die()
        self.places.leave()
        self.clusters.close()


def new_place(ceph: Ceph, cluster: str = "dev") -> Place:
    """A RADOS namespace of the test's own."""
    name = f"t{uuid.uuid4().hex[:8]}"
    with ceph.admin_pool() as pool:
        rbd.RBD().namespace_create(pool, name)
    return Place(cluster, ceph.pool, name)


def at_home(ceph: Ceph, place: Place) -> ClusterConfig:
    """A configuration that has the place for the cluster's home, so that a test finds everything in it."""
    return replace(ceph.config(), pools=(f"{place.pool}/{place.namespace}",))


@contextmanager
def at(ceph: Ceph, place: Place) -> Iterator[rados.Ioctx]:
    """The place, with the administrator's rights."""
    with ceph.admin_pool(place.pool, place.namespace) as pool:
        yield pool


def objects(pool: rados.Ioctx) -> set[str]:
    """Names of all RADOS objects of the place."""
    return {item.key for item in pool.list_objects()}


def omap(pool: rados.Ioctx, obj: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        values, _ = pool.get_omap_vals(operation, "", "", 1000)
        try:
            pool.operate_read_op(operation, obj)
        except rados.ObjectNotFound:
            return {}
        return dict(values)


def drop_omap(pool: rados.Ioctx, obj: str, *keys: str) -> None:
    with rados.WriteOpCtx() as operation:
        pool.remove_omap_keys(operation, keys)
        pool.operate_write_op(operation, obj)


def set_omap(pool: rados.Ioctx, obj: str, values: Mapping[str, bytes]) -> None:
    with rados.WriteOpCtx() as operation:
        pool.set_omap(operation, tuple(values), tuple(values.values()))
        pool.operate_write_op(operation, obj)


def index(pool: rados.Ioctx) -> dict[str, bytes]:
    """The index of snapshot names that is kept in the place."""
    shards = [omap(pool, f"ceph-provisioner.snapshots.{digit:x}") for digit in range(16)]
    return {name: value for shard in shards for name, value in shard.items()}


def lose_index(pool: rados.Ioctx) -> None:
    for digit in range(16):
        with suppress(rados.ObjectNotFound):
            pool.remove_object(f"ceph-provisioner.snapshots.{digit:x}")


def image_id(pool: rados.Ioctx, name: str) -> str:
    return pool.read(f"rbd_id.{name}")[4:].decode()


def processes(pool: rados.Ioctx) -> set[int]:
    """Client ids on the list of provisioner processes."""
    return {int(key) for key in omap(pool, PROCESSES)}


def unexplained(pool: rados.Ioctx) -> set[str]:
    """What lies in the place though no image, trashed image or machinery of RBD or ours accounts for it; "" for all well."""
    found = objects(pool)
    directory, trash = omap(pool, "rbd_directory"), omap(pool, "rbd_trash")
    named = {key.removeprefix("name_"): value[4:].decode() for key, value in directory.items() if key.startswith("name_")}
    listed = {key.removeprefix("id_"): value[4:].decode() for key, value in directory.items() if key.startswith("id_")}
    trashed = {key.removeprefix("id_") for key in trash}
    known = {
        "rbd_directory",
        "rbd_trash",
        "rbd_info",
        "rbd_children",
        "ceph-provisioner.builds",
        "ceph-provisioner.flatten",
        "ceph-provisioner.groups",
        "ceph-provisioner.suspects",
        PROCESSES,
    }
    known |= {f"ceph-provisioner.snapshots.{digit:x}" for digit in range(16)}
    known |= {f"rbd_id.{name}" for name in named}
    for each in set(listed) | trashed:
        known |= {f"rbd_header.{each}", f"rbd_object_map.{each}"}
        snapshots = (key.removeprefix("snapshot_") for key in omap(pool, f"rbd_header.{each}") if key.startswith("snapshot_"))
        known |= {f"rbd_object_map.{each}.{number}" for number in snapshots}
    strange = {name for name in found if name not in known and not _is_data(name, set(listed) | trashed)}
    strange |= {f"directory: name {name}" for name, each in named.items() if listed.get(each) != name}
    strange |= {f"directory: id {each}" for each, name in listed.items() if named.get(name) != each}
    strange |= {f"no id object: {name}" for name in named if f"rbd_id.{name}" not in found}
    strange |= {f"no header: {each}" for each in listed if f"rbd_header.{each}" not in found}
    return strange


def _is_data(name: str, ids: set[str]) -> bool:
    return name.startswith("rbd_data.") and name.split(".")[1] in ids


def blocklisted(ceph: Ceph) -> set[str]:
    """Addresses of the clients that are fenced."""
    with ceph.admin() as handle:
        _, out, _ = handle.mon_command(json.dumps({"prefix": "osd blocklist ls", "format": "json"}), b"")
    listed, _ = json.JSONDecoder().raw_decode(out.decode())  # ranges follow, in a document of their own
    return {entry["addr"] for entry in listed}


@contextmanager
def quota(ceph: Ceph, pool: str, size: int) -> Iterator[None]:
    """Limit the pool to so many bytes, which it holds already, and wait until Ceph says that it is full."""
    ceph.command("osd pool set-quota", pool=pool, field="max_bytes", val=str(size))
    try:
        until(lambda: "full_quota" in flags(ceph, pool), 120, f"pool {pool} has reached its quota", lambda: flags(ceph, pool))
        yield
    finally:
        ceph.command("osd pool set-quota", pool=pool, field="max_bytes", val="0")
        until(lambda: "full" not in flags(ceph, pool), 120, f"pool {pool} takes writes", lambda: flags(ceph, pool))


def flags(ceph: Ceph, pool: str) -> str:
    listed = ceph.command("osd pool ls", detail="detail")
    return next(str(entry["flags_names"]) for entry in listed if entry["pool_name"] == pool)  # type: ignore[union-attr]


def write(ceph: Ceph, place: Place, image: str, data: bytes, at_byte: int = 0) -> None:
    with at(ceph, place) as pool, rbd.Image(pool, image) as opened:
        opened.write(data, at_byte)


def read(ceph: Ceph, place: Place, image: str, length: int, at_byte: int = 0) -> bytes:
    with at(ceph, place) as pool, rbd.Image(pool, image, read_only=True) as opened:
        content: bytes = opened.read(at_byte, length)
        return content


def rbd_snapshots(ceph: Ceph, place: Place, image: str) -> list[str]:
    """Names of an image's snapshots, as `rbd snap ls` has them."""
    with at(ceph, place) as pool, rbd.Image(pool, image, read_only=True) as opened:
        return sorted(snapshot["name"] for snapshot in opened.list_snaps())


def snapshot_marks(ceph: Ceph, place: Place, made: str) -> list[str]:
    """Keys of our marks of snapshots on the image with the internal id `made`."""
    with at(ceph, place) as pool:
        return [key for key in omap(pool, f"rbd_header.{made}") if key.startswith("metadata_ceph-provisioner.snapshot.")]


def succeeds(unless: type[ProvisionerError] | tuple[type[ProvisionerError], ...], act: Callable[[], object]) -> bool:
    """Whether it ends well; an error other than these is the test's end."""
    try:
        act()
    except unless:
        return False
    return True


class Victim:
    """A process of ours that does as told and is then killed: see `tests.harness.victim`."""

    def __init__(self, ceph: Ceph, place: Place, *words: str, module: str = "tests.harness.victim") -> None:
        config = {"conf": ceph.conf, "user": ceph.user, "keyring": ceph.keyring, "pool": place.pool, "namespace": place.namespace}
        self._process = born(module, [json.dumps(config), *words])

    def line(self) -> str:
        """The next line that it says; "" at the end."""
        return self._process.says.readline().rstrip("\n")

    def go(self) -> None:
        """Give it the line that it waits for."""
        self._process.told.write("\n")
        self._process.told.flush()

    def kill(self) -> list[str]:
        """SIGKILL; gives what it said until then, whole lines only."""
        return self._process.kill()
