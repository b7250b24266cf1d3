"""What a cluster's directory holds before its daemons run: settings, ceph.conf, keyrings."""

import base64
import json
import os
import random
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = "dev-ceph.json"
_AES = 1
_KEY_BYTES = 16
_SUBSYSTEMS = (
    *("asok", "auth", "bdev", "bluefs", "bluestore", "buffer", "client", "context", "crush", "filer", "finisher"),
    *("heartbeatmap", "journaler", "leveldb", "memdb", "mgrc", "monc", "ms", "objclass", "objectcacher", "objecter"),
    *("optracker", "osd", "paxos", "perfcounter", "rados", "rbd", "rocksdb", "striper", "throttle", "timer", "tp"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a directory's cluster is, kept in it. `size` is an OSD's in bytes; `gateway` the radosgw's port or 0.

    `users` tells whether client.provisioner may make cephx users.
    """

    fsid: str
    msgr2: int
    msgr1: int
    gateway: int
    size: int
    pools: tuple[str, ...]
    users: bool
    osds: int = 1

    @classmethod
    def load(cls, home: Path) -> "Settings | None":
        """Those of the cluster in `home`, if it holds one."""
        try:
            kept = json.loads((home / SETTINGS).read_text())
        except FileNotFoundError:
            return None
        return cls(**kept | {"pools": tuple(kept["pools"])})

    def save(self, home: Path) -> None:
        """Write them whole or not at all."""
        draft = home / f"{SETTINGS}.new"
        draft.write_text(json.dumps(asdict(self)))
        os.replace(draft, home / SETTINGS)


def free_port() -> int:
    """A port that nobody listens on, below those the kernel gives out and above those that Ceph's daemons choose."""
    candidates = random.SystemRandom()
    while True:
        port = candidates.randrange(12000, 32000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def ceph_conf(home: Path, settings: Settings) -> str:
    """The text of ceph.conf."""
    levels = dict.fromkeys(_SUBSYSTEMS, "0/0") | {"mon": "0/1", "mgr": "0/1"}
    template = (HERE / "ceph.conf.template").read_text()
    return template.format(
        home=home,
        fsid=settings.fsid,
        msgr2=settings.msgr2,
        msgr1=settings.msgr1,
        size=settings.size,
        debug="\n".join(f"debug_{name} = {level}" for name, level in levels.items()),
    )


def new_key() -> str:
    """A cephx secret as ceph-authtool makes it: type, time of birth, length, random bytes."""
    head = struct.pack("<HIIH", _AES, int(time.time()), 0, _KEY_BYTES)
    return base64.b64encode(head + os.urandom(_KEY_BYTES)).decode()


def write_keyring(path: Path, entities: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
    """Write keys with their caps, {entity: (key, {service: cap})}, readable by the owner only."""
    lines = []
    for entity, (key, caps) in entities.items():
        lines += [f"[{entity}]", f"\tkey = {key}"]
        lines += [f'\tcaps {service} = "{cap}"' for service, cap in caps.items()]
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
