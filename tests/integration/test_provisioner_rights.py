"""What client.provisioner may do, and what whoever holds its key may not: asked of a real monitor, OSD and manager.

The caps under test are hack/ceph/caps.py's, which operators are told to give. About 10 s.
"""

import errno
import json
import shlex
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import rados
import rbd

from hack.ceph.caps import operator_command, provisioner_caps
from tests.harness import ceph as ceph_harness
from tests.harness.ceph import Ceph

DENIED = -errno.EACCES
NOTHING = ("mgr", "allow command none", "mds", "allow r fsname=none")
OBJECTS = ", ".join(
    [
        "allow rwx pool=rbd object_prefix rbd_data.10226b8b4567.",
        "allow rwx pool=rbd object_prefix rbd_header.10226b8b4567",
        "allow rwx pool=rbd object_prefix rbd_object_map.10226b8b4567",
        "allow r class-read pool=rbd object_prefix rbd_id.pvc-1",
        "allow class-read pool=rbd object_prefix rbd_info",
    ]
)
ALL = ("mon", "allow *", "osd", "allow *", "mgr", "allow *", "mds", "allow *")


def caps(mon: str = "profile rbd", osd: str = OBJECTS, rest: tuple[str, ...] = NOTHING) -> list[str]:
    """The `caps` of a volume's user, as we ask for it."""
    return ["mon", mon, "osd", osd, *rest]


def ask(handle: rados.Rados, prefix: str, inbuf: bytes = b"", **arguments: object) -> int:
    """The monitor's return code: 0, or a negative errno."""
    code: int = handle.mon_command(json.dumps({"prefix": prefix} | arguments), inbuf)[0]
    return code


def stored_caps(ceph: Ceph, user: str) -> dict[str, str]:
    (entry,) = ceph.command("auth get", entity=user)  # type: ignore[misc]
    return dict(entry["caps"])


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A cluster of its own: other tests give the provisioner rights to more pools."""
    with ceph_harness.running(tmp_path_factory.mktemp("ceph") / "c") as made:
        yield made


@pytest.fixture
def user(ceph: Ceph) -> Iterator[str]:
    """A name for a user, gone after the test."""
    name = f"client.cp-{uuid.uuid4().hex[:8]}"
    yield name
    ceph.command("auth rm", entity=name)


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph) -> Iterator[rados.Rados]:
    """A connection with the key of client.provisioner, whoever uses it."""
    handle = rados.Rados(conffile=ceph.conf, name=f"client.{ceph.user}", conf={"keyring": ceph.keyring})
    handle.connect()
    try:
        yield handle
    finally:
        handle.shutdown()


@pytest.fixture
def pool(ceph: Ceph, provisioner: rados.Rados) -> Iterator[rados.Ioctx]:
    with provisioner.open_ioctx(ceph.pool) as context:
        yield context


@pytest.fixture
def image(pool: rados.Ioctx) -> Iterator[str]:
    name = f"pvc-{uuid.uuid4().hex[:8]}"
    rbd.RBD().create(pool, name, 32 << 20, old_format=False, features=61)
    yield name
    rbd.RBD().remove(pool, name)


# What it may.


def clone(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as parent:
        parent.create_snap("s")
        parent.protect_snap("s")
        rbd.RBD().clone(pool, name, "s", pool, f"{name}-clone")
        rbd.RBD().remove(pool, f"{name}-clone")
        parent.unprotect_snap("s")
        parent.remove_snap("s")


def resize(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as opened:
        opened.resize(64 << 20)


def tag(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as opened:
        opened.metadata_set("key", "value")


def trash(pool: rados.Ioctx, name: str) -> None:
    with rbd.Image(pool, name) as opened:
        image_id = opened.id()
    rbd.RBD().trash_move(pool, name)
    assert image_id in [entry["id"] for entry in rbd.RBD().trash_list(pool)]
    rbd.RBD().trash_restore(pool, image_id, name)


def lock(pool: rados.Ioctx, name: str) -> None:
    pool.lock_exclusive(f"lock.{name}", "lock", "cookie", duration=10)
    pool.unlock(f"lock.{name}", "lock", "cookie")
    pool.remove_object(f"lock.{name}")


def namespace(pool: rados.Ioctx, name: str) -> None:
    rbd.RBD().namespace_create(pool, name)
    rbd.RBD().namespace_remove(pool, name)


@pytest.mark.parametrize("work", [clone, resize, tag, trash, lock, namespace])
def test_it_does_what_volumes_need(pool: rados.Ioctx, image: str, work: Callable[[rados.Ioctx, str], None]) -> None:
    work(pool, image)


@pytest.mark.parametrize(
    ("prefix", "arguments"),
    [
        ("df", {}),
        ("mon dump", {}),
        ("osd dump", {}),
        ("osd pool get-quota", {"pool": "rbd"}),
        ("osd pool stats", {}),
        ("osd blocklist ls", {}),
    ],
)
def test_it_reads_what_capacity_and_fencing_need(provisioner: rados.Rados, prefix: str, arguments: Mapping[str, str]) -> None:
    assert ask(provisioner, prefix, **arguments) == 0


def test_it_sets_and_lifts_a_fence(provisioner: rados.Rados) -> None:
    codes = [ask(provisioner, "osd blocklist", blocklistop=op, addr="192.0.2.1:0/7") for op in ("add", "rm")]
    assert codes == [0, 0]


def test_it_makes_a_volumes_user_with_exactly_its_caps(ceph: Ceph, provisioner: rados.Rados, user: str) -> None:
    assert ask(provisioner, "auth get-or-create", entity=user, caps=caps()) == 0
    asked = caps()
    assert stored_caps(ceph, user) == dict(zip(asked[::2], asked[1::2], strict=True))


@pytest.mark.parametrize(
    "osd",
    [
        OBJECTS.replace("pool=rbd", "pool=rbd namespace=team-a"),
        OBJECTS.replace("rbd_data.", "rbd_data.12."),
        f"{OBJECTS}, allow r class-read pool=rbd object_prefix rbd_data.10226b8b4566.",
        f"{OBJECTS}, allow class-read pool=rbd object_prefix rbd_directory",
    ],
    ids=["in a namespace", "with a data pool", "with an ancestor's data", "with the directory"],
)
def test_it_makes_the_users_that_other_volumes_need(provisioner: rados.Rados, user: str, osd: str) -> None:
    assert ask(provisioner, "auth get-or-create", entity=user, caps=caps(osd=osd)) == 0


def test_it_removes_a_user_it_made(ceph: Ceph, provisioner: rados.Rados, user: str) -> None:
    ask(provisioner, "auth get-or-create", entity=user, caps=caps())
    ask(provisioner, "auth rm", entity=user)
    assert user not in ceph.users()


def test_the_command_for_operators_gives_these_very_caps(ceph: Ceph) -> None:
    words = shlex.split(operator_command([ceph.pool], users=True).replace("\\\n", ""))[4:]
    assert dict(zip(words[::2], words[1::2], strict=True)) == stored_caps(ceph, f"client.{ceph.user}")


# What nobody may with its key.

WIDER_CAPS = {
    "mon allow *": caps(mon="allow *"),
    "mon allow r": caps(mon="allow r"),
    "mon with a grant behind": caps(mon="profile rbd, allow *"),
    "mon with a space behind": caps(mon="profile rbd "),
    "mon with a newline behind": caps(mon="profile rbd\n"),
    "mon in capitals": caps(mon="PROFILE RBD"),
    "osd allow *": caps(osd="allow *"),
    "osd without prefix": caps(osd="allow rwx pool=rbd"),
    "osd without pool": caps(osd="allow rwx object_prefix rbd_header.10226b8b4567"),
    "osd by profile": caps(osd="profile rbd pool=rbd"),
    "osd by tag": caps(osd="allow rwx tag rbd *=*"),
    "osd by class": caps(osd="allow class rbd"),
    "osd of another pool": caps(osd=OBJECTS.replace("pool=rbd", "pool=.mgr")),
    "osd of a pool with a longer name": caps(osd=OBJECTS.replace("pool=rbd", "pool=rbd2")),
    "osd with everything before": caps(osd=f"allow *, {OBJECTS}"),
    "osd with everything behind": caps(osd=f"{OBJECTS}, allow *"),
    "osd with everything behind a semicolon": caps(osd=f"{OBJECTS};allow *"),
    "osd with everything on the next line": caps(osd=f"{OBJECTS}\nallow *"),
    "osd with a comma behind": caps(osd=f"{OBJECTS}, "),
    "osd with a tab in it": caps(osd=OBJECTS.replace(" pool", "\tpool")),
    "osd with a quoted prefix": caps(osd='allow rwx pool=rbd object_prefix "rbd_header.10226b8b4567"'),
    "osd with an empty prefix": caps(osd='allow rwx pool=rbd object_prefix ""'),
    "osd with every RBD object": caps(osd="allow rwx pool=rbd object_prefix rbd_"),
    "osd with every header": caps(osd="allow rwx pool=rbd object_prefix rbd_header."),
    "osd with headers that begin alike": caps(osd="allow rwx pool=rbd object_prefix rbd_header.1022"),
    "osd with data of ids that begin alike": caps(osd="allow rwx pool=rbd object_prefix rbd_data.10226b8b4567"),
    "osd writing the directory": caps(osd="allow rwx pool=rbd object_prefix rbd_directory"),
    "osd writing names": caps(osd="allow rwx pool=rbd object_prefix rbd_id.pvc-1"),
    "osd with every namespace": caps(osd=OBJECTS.replace("pool=rbd", "pool=rbd namespace=*")),
    "osd with a network behind": caps(osd=f"{OBJECTS} network 0.0.0.0/0"),
    "mgr allow *": caps(rest=("mgr", "allow *", *NOTHING[2:])),
    "mds allow *": caps(rest=(*NOTHING[:2], "mds", "allow *")),
    "mgr left out": caps(rest=NOTHING[2:]),
    "mds left out": caps(rest=NOTHING[:2]),
    "all left out": [],
    "mon left out": ["osd", OBJECTS, *NOTHING],
    "osd left out": ["mon", "profile rbd", *NOTHING],
    "services in capitals": [word.upper() if word in ("mon", "osd") else word for word in caps()],
    "a word too many": [*caps(), "mon"],
}


@pytest.mark.parametrize("wanted", WIDER_CAPS.values(), ids=WIDER_CAPS)
def test_no_wider_user_can_be_made(provisioner: rados.Rados, user: str, wanted: list[str]) -> None:
    assert ask(provisioner, "auth get-or-create", entity=user, caps=wanted) == DENIED


@pytest.mark.parametrize(
    "entity",
    [
        *("client.admin", "client.provisioner", "client.cp", "client.cp-", "client.CP-a", "client.cpa", "CLIENT.cp-a"),
        *("xclient.cp-a", "client.x.client.cp-a", " client.cp-a", "client.cp-a ", "client.cp-a\n", "client.cp-*"),
        *("client.cp-a]\n[client.b", "mon.cp-a", "mgr.x", "osd.0", "mds.cp-a", "mon.", ""),
    ],
)
@pytest.mark.parametrize("prefix", ["auth get-or-create", "auth rm"])
def test_no_name_but_ours_can_be_made_or_removed(provisioner: rados.Rados, prefix: str, entity: str) -> None:
    assert ask(provisioner, prefix, entity=entity, caps=caps()) == DENIED


def test_a_service_named_twice_gets_what_was_checked(ceph: Ceph, provisioner: rados.Rados, user: str) -> None:
    ask(provisioner, "auth get-or-create", entity=user, caps=["mon", "allow *", "osd", "allow *", *caps()])
    assert (stored_caps(ceph, user)["mon"], stored_caps(ceph, user)["osd"]) == ("profile rbd", OBJECTS)


@dataclass(frozen=True)
class Attempt:
    """One command of somebody who holds the key."""

    prefix: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    inbuf: bytes = b""

    def __str__(self) -> str:
        return " ".join([self.prefix, *map(str, self.arguments.values())])


OWN, ADMIN = {"entity": "client.cp-victim"}, {"entity": "client.admin"}
KEYRING = b'[client.cp-victim]\n\tkey = AQBTJBBkAAAAABAAk8o1x6aTzAeHNCHBkKBS4w==\n\tcaps mon = "allow *"\n'
FORBIDDEN = [
    Attempt("auth get-or-create-key", OWN | {"caps": caps()}),
    Attempt("auth get-or-create-key", ADMIN),
    Attempt("auth add", OWN | {"caps": caps()}),
    Attempt("auth add", OWN, KEYRING),
    Attempt("auth import", {}, KEYRING),
    Attempt("auth caps", OWN | {"caps": list(ALL)}),
    Attempt("auth caps", {"entity": "client.provisioner", "caps": list(ALL)}),
    Attempt("auth del", ADMIN),
    Attempt("auth get", ADMIN),
    Attempt("auth get", OWN),
    Attempt("auth get-key", ADMIN),
    Attempt("auth print-key", ADMIN),
    Attempt("auth export", ADMIN),
    Attempt("auth export"),
    Attempt("auth ls"),
    Attempt("fs authorize", OWN | {"filesystem": "*", "caps": ["/", "rw"]}),
    Attempt("config-key get", {"key": "daemon-private/osd.0"}),
    Attempt("config-key set", {"key": "a", "val": "b"}),
    Attempt("config-key dump"),
    Attempt("config-key ls"),
    Attempt("config set", {"who": "global", "name": "auth_client_required", "value": "none"}),
    Attempt("config rm", {"who": "global", "name": "auth_client_required"}),
    Attempt("config assimilate-conf", {}, b"[global]\nauth_client_required = none\n"),
    Attempt("osd pool create", {"pool": "mine", "pg_num": 1}),
    Attempt("osd pool delete", {"pool": "rbd", "pool2": "rbd", "yes_i_really_really_mean_it": True}),
    Attempt("osd pool rename", {"srcpool": "rbd", "destpool": "gone"}),
    Attempt("osd pool set", {"pool": "rbd", "var": "size", "val": "1"}),
    Attempt("osd pool set-quota", {"pool": "rbd", "field": "max_bytes", "val": "0"}),
    Attempt("osd pool application set", {"pool": "rbd", "app": "rbd", "key": "a", "value": "b"}),
    Attempt("osd new", {"uuid": "5d0f3a2c-7f46-4a4b-8d8b-0d2f5f1d9b11"}, b'{"cephx_secret": "x"}'),
    Attempt("osd purge", {"id": 0, "yes_i_really_mean_it": True}),
    Attempt("osd out", {"ids": ["0"]}),
    Attempt("osd down", {"ids": ["0"]}),
    Attempt("osd set", {"key": "pause"}),
    Attempt("osd blocklist clear"),
    Attempt("mon add", {"name": "b", "addr": "127.0.0.1:1"}),
    Attempt("mon rm", {"name": "a"}),
    Attempt("mgr fail", {"who": "x"}),
    Attempt("mgr module enable", {"module": "restful"}),
    Attempt("log", {"logtext": ["nothing to see"]}),
]


@pytest.mark.parametrize("attempt", FORBIDDEN, ids=str)
def test_the_monitor_refuses(provisioner: rados.Rados, attempt: Attempt) -> None:
    assert ask(provisioner, attempt.prefix, attempt.inbuf, **attempt.arguments) == DENIED


def test_the_osd_takes_no_orders(provisioner: rados.Rados) -> None:
    command = json.dumps({"prefix": "config set", "key": "debug_osd", "value": ["0"]})
    assert provisioner.osd_command(0, command, b"")[0] in (DENIED, -errno.EPERM)


def test_the_manager_takes_no_orders(provisioner: rados.Rados) -> None:
    assert provisioner.mgr_command(json.dumps({"prefix": "rbd task list"}), b"")[0] in (DENIED, -errno.EPERM)


def test_another_pool_stays_closed(ceph: Ceph, provisioner: rados.Rados) -> None:
    ceph.make_pool("foreign")
    try:
        with provisioner.open_ioctx("foreign") as context, pytest.raises(rbd.PermissionError):
            rbd.RBD().list(context)
    finally:
        ceph.drop_pool("foreign")


# What stays open, so that a change of Ceph's is noticed: hack/ceph/caps.py tells what to do about it.

BESIDE = dict(zip([f"caps_{service}" for service in caps()[::2]], caps()[1::2], strict=True))


def test_keys_beside_the_caps_deceive_the_monitor(ceph: Ceph, provisioner: rados.Rados, user: str) -> None:
    ask(provisioner, "auth get-or-create", entity=user, caps=list(ALL), **BESIDE)
    assert stored_caps(ceph, user)["mon"] == "allow *"


def test_without_the_right_to_make_users_nothing_deceives_it(ceph: Ceph, user: str) -> None:
    narrow = [word for pair in provisioner_caps([ceph.pool], users=False).items() for word in pair]
    (made,) = ceph.command("auth get-or-create", entity="client.narrow", caps=narrow)  # type: ignore[misc]
    handle = rados.Rados(conffile=ceph.conf, name="client.narrow", conf={"key": made["key"], "keyring": "/dev/null"})
    handle.connect()
    try:
        code = ask(handle, "auth get-or-create", entity=user, caps=list(ALL), **BESIDE)
    finally:
        handle.shutdown()
        ceph.command("auth rm", entity="client.narrow")
    assert code == DENIED
