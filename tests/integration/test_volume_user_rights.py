"""The cephx user of one volume: it does with its image what a node must, and with any other nothing.

What each clause is for was found by leaving it out, on 16.2.15. Data, header and object map carry the image's id. The
header needs `w` for the watch that every opening for writing sets, so its owner can also spoil it. From the name to
the id leads rbd_id, read only: with `x` the user could plant ids under longer names. librbd reads the pool's own
settings from rbd_info, outside any namespace, and fails without; the kernel does not.
"""

import json
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import rados
import rbd

from tests.harness.ceph import Ceph

FEATURES = 61
SIZE = 32 << 20
OBJECT_MAP_INVALID = rbd.RBD_FLAG_OBJECT_MAP_INVALID
HOLD = """
import sys, rados, rbd
conf, name, key, image = sys.argv[1:]
handle = rados.Rados(conffile=conf, name=name, conf={"key": open(key).read(), "keyring": "/dev/null"})
handle.connect()
opened = rbd.Image(handle.open_ioctx("rbd"), image)
opened.write(b"held", 0)
opened.flush()
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Volume:
    """An image with a user of its own, `key` being its secret."""

    name: str
    image_id: str
    namespace: str
    user: str
    key: str


def volume_caps(pool: str, name: str, image_id: str, namespace: str = "", data: str = "") -> str:
    """Rights to one image; `data` is the place and prefix of its data, if that is another pool."""
    own = f"pool={pool} namespace={namespace}" if namespace else f"pool={pool}"
    clauses = [
        f"allow rwx {data or f'{own} object_prefix rbd_data.'}{image_id}.",
        f"allow rwx {own} object_prefix rbd_header.{image_id}",
        f"allow rwx {own} object_prefix rbd_object_map.{image_id}",
        f"allow r class-read {own} object_prefix rbd_id.{name}",
        f"allow class-read pool={pool} object_prefix rbd_info",
    ]
    return ", ".join(clauses)


def ancestor_caps(pool: str, image_id: str) -> str:
    """What reading through to a parent needs on top: librbd looks its name up in the directory."""
    clauses = [
        f"allow r class-read pool={pool} object_prefix rbd_data.{image_id}.",
        f"allow r class-read pool={pool} object_prefix rbd_header.{image_id}",
        f"allow class-read pool={pool} object_prefix rbd_directory",
    ]
    return ", ".join(clauses)


def make_user(ceph: Ceph, osd: str) -> tuple[str, str]:
    """Name and key of a new user with these caps at the OSDs."""
    name = f"client.cp-{uuid.uuid4().hex[:8]}"
    (made,) = ceph.command("auth get-or-create", entity=name, caps=["mon", "profile rbd", "osd", osd])  # type: ignore[misc]
    return name, made["key"]


@contextmanager
def made(ceph: Ceph, namespace: str = "", data_pool: str = "") -> Iterator[Volume]:
    """An image and its user, until the end of the block."""
    name = f"pvc-{uuid.uuid4().hex[:8]}"
    with ceph.admin_pool(namespace=namespace) as pool:
        rbd.RBD().create(pool, name, SIZE, old_format=False, features=FEATURES, data_pool=data_pool or None)
        with rbd.Image(pool, name) as image:
            image_id = image.id()
            image.write(b"first", 0)
        own = f" namespace={namespace}" if namespace else ""
        data = f"pool={data_pool}{own} object_prefix rbd_data.{pool.get_pool_id()}." if data_pool else ""
        user, key = make_user(ceph, volume_caps(ceph.pool, name, image_id, namespace, data))
        try:
            yield Volume(name, image_id, namespace, user, key)
        finally:
            ceph.command("auth rm", entity=user)
            rbd.RBD().remove(pool, name)


@contextmanager
def connected(ceph: Ceph, user: str, key: str, namespace: str = "") -> Iterator[rados.Ioctx]:
    """The pool, as somebody who has the user's key sees it."""
    handle = rados.Rados(conffile=ceph.conf, name=user, conf={"key": key, "keyring": "/dev/null"})
    handle.connect()
    try:
        with handle.open_ioctx(ceph.pool) as context:
            context.set_namespace(namespace)
            yield context
    finally:
        handle.shutdown()


@pytest.fixture(scope="module")
def places(ceph: Ceph) -> Iterator[dict[str, dict[str, str]]]:
    """Where an image can lie."""
    ceph.make_pool("volume-data")
    with ceph.admin_pool() as pool:
        rbd.RBD().namespace_create(pool, "team-a")
        yield {
            "plain": {},
            "data pool": {"data_pool": "volume-data"},
            "namespace": {"namespace": "team-a"},
            "both": {"data_pool": "volume-data", "namespace": "team-a"},
        }
        rbd.RBD().namespace_remove(pool, "team-a")
    ceph.drop_pool("volume-data")


@pytest.fixture
def volume(ceph: Ceph) -> Iterator[Volume]:
    with made(ceph) as one:
        yield one


@pytest.fixture
def other(ceph: Ceph) -> Iterator[Volume]:
    with made(ceph) as one:
        yield one


@pytest.fixture
def pool(ceph: Ceph, volume: Volume) -> Iterator[rados.Ioctx]:
    with connected(ceph, volume.user, volume.key) as context:
        yield context


@pytest.mark.parametrize("place", ["plain", "data pool", "namespace", "both"])
def test_it_reads_and_writes_its_image(ceph: Ceph, places: dict[str, dict[str, str]], place: str) -> None:
    with (
        made(ceph, **places[place]) as volume,
        connected(ceph, volume.user, volume.key, volume.namespace) as pool,
        rbd.Image(pool, volume.name) as image,
    ):
        image.write(b"second", 8)
        image.flush()
        assert image.read(0, 14) == b"first\0\0\0second"


def lock(image: rbd.Image) -> None:
    image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)


def resize(image: rbd.Image) -> None:
    image.resize(2 * SIZE)


def discard(image: rbd.Image) -> None:
    image.discard(0, 4 << 20)


def watchers(image: rbd.Image) -> None:
    assert len(list(image.watchers_list())) == 1


def statistics(image: rbd.Image) -> None:
    image.diff_iterate(0, SIZE, None, lambda *_: None)


@pytest.mark.parametrize("work", [lock, resize, discard, watchers, statistics])
def test_it_does_what_a_node_must(pool: rados.Ioctx, volume: Volume, work: Callable[[rbd.Image], None]) -> None:
    with rbd.Image(pool, volume.name) as image:
        work(image)


def test_its_writes_keep_the_object_map_valid(ceph: Ceph, pool: rados.Ioctx, volume: Volume) -> None:
    with rbd.Image(pool, volume.name) as image:
        image.write(b"second", 8 << 20)
        image.resize(2 * SIZE)
    with ceph.admin_pool() as admin, rbd.Image(admin, volume.name) as image:
        assert not image.flags() & OBJECT_MAP_INVALID


def test_a_node_that_knows_only_monitors_and_key_sees_its_watchers(ceph: Ceph, volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(volume.key)
    command = ["rbd", "--conf", "/dev/null", "-m", ",".join(ceph.monitors), "--id", volume.user.removeprefix("client.")]
    command += ["--keyfile", str(tmp_path / "key"), "status", "--format", "json", f"{ceph.pool}/{volume.name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(done.stdout)["watchers"] == []


def test_it_takes_the_lock_of_a_dead_node_over(ceph: Ceph, volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(volume.key)
    ceph.command("config set", who="osd", name="osd_client_watch_timeout", value="5")
    words = [sys.executable, "-c", HOLD, ceph.conf, volume.user, str(tmp_path / "key"), volume.name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout
        node.stdout.readline()
        node.kill()
    with connected(ceph, volume.user, volume.key) as pool, rbd.Image(pool, volume.name) as image:
        image.write(b"mine", 0)
        image.flush()
        owners = list(image.lock_get_owners())
    ceph.command("config rm", who="osd", name="osd_client_watch_timeout")
    assert len(owners) == 1


def test_a_clones_user_reads_what_its_parent_holds_and_writes_over_it(ceph: Ceph, volume: Volume) -> None:
    child = f"{volume.name}-clone"
    with ceph.admin_pool() as admin:
        with rbd.Image(admin, volume.name) as parent:
            parent.create_snap("s")
            parent.protect_snap("s")
        rbd.RBD().clone(admin, volume.name, "s", admin, child, features=FEATURES)
        with rbd.Image(admin, child) as image:
            osd = f"{volume_caps(ceph.pool, child, image.id())}, {ancestor_caps(ceph.pool, volume.image_id)}"
        user, key = make_user(ceph, osd)
        with connected(ceph, user, key) as pool, rbd.Image(pool, child) as image:
            image.write(b"S", 2)
            image.flush()
            found = image.read(0, 5)
        ceph.command("auth rm", entity=user)
        rbd.RBD().remove(admin, child)
        with rbd.Image(admin, volume.name) as parent:
            parent.unprotect_snap("s")
            parent.remove_snap("s")
    assert found == b"fiSst"


# With any other image, nothing.

Misdeed = Callable[[rados.Ioctx, Volume, Volume], object]


def text(word: str) -> bytes:
    return struct.pack("<I", len(word)) + word.encode()


def read_omap(pool: rados.Ioctx, name: str) -> None:
    with rados.ReadOpCtx() as operation:
        pool.get_omap_vals(operation, "", "", 10)
        pool.operate_read_op(operation, name)


def write_omap(pool: rados.Ioctx, name: str) -> None:
    with rados.WriteOpCtx() as operation:
        pool.set_omap(operation, ("key",), (b"value",))
        pool.operate_write_op(operation, name)


def first_object(volume: Volume) -> str:
    return f"rbd_data.{volume.image_id}.{0:016x}"


MISDEEDS: dict[str, Misdeed] = {
    "open": lambda pool, _, other: rbd.Image(pool, other.name),
    "open to read": lambda pool, _, other: rbd.Image(pool, other.name, read_only=True),
    "open by id": lambda pool, _, other: rbd.Image(pool, image_id=other.image_id, read_only=True),
    "read its id": lambda pool, _, other: pool.read(f"rbd_id.{other.name}"),
    "read its header": lambda pool, _, other: read_omap(pool, f"rbd_header.{other.image_id}"),
    "write its header": lambda pool, _, other: write_omap(pool, f"rbd_header.{other.image_id}"),
    "ask its header": lambda pool, _, other: pool.execute(
        f"rbd_header.{other.image_id}", "rbd", "get_size", struct.pack("<Q", 2**64 - 2)
    ),
    "read its data": lambda pool, _, other: pool.read(first_object(other)),
    "write its data": lambda pool, _, other: pool.write(first_object(other), b"x"),
    "remove it": lambda pool, _, other: rbd.RBD().remove(pool, other.name),
    "list names": lambda pool, *_: rbd.RBD().list(pool),
    "list the trash": lambda pool, *_: list(rbd.RBD().trash_list(pool)),
    "write the directory": lambda pool, *_: write_omap(pool, "rbd_directory"),
    "change the pool's settings": lambda pool, *_: pool.execute(
        "rbd_info", "rbd", "metadata_set", struct.pack("<I", 1) + text("conf_rbd_cache") + text("false")
    ),
    "make an image": lambda pool, *_: rbd.RBD().create(pool, "mine", 1 << 20, old_format=False),
    "plant an id under a longer name": lambda pool, own, _: pool.execute(f"rbd_id.{own.name}x", "rbd", "set_id", text("1")),
    "take its own name away": lambda pool, own, _: pool.remove_object(f"rbd_id.{own.name}"),
    "rename its own": lambda pool, own, _: rbd.RBD().rename(pool, own.name, "mine"),
    "remove its own": lambda pool, own, _: rbd.RBD().remove(pool, own.name),
    "move its own to the trash": lambda pool, own, _: rbd.RBD().trash_move(pool, own.name),
}


@pytest.mark.parametrize("misdeed", MISDEEDS.values(), ids=MISDEEDS)
def test_it_cannot(pool: rados.Ioctx, volume: Volume, other: Volume, misdeed: Misdeed) -> None:
    with pytest.raises((rados.PermissionError, rbd.PermissionError)):
        misdeed(pool, volume, other)
