"""The cluster as its administrator sees it, through librados: no `ceph` command, which costs half a second of CPU each."""

import json
from pathlib import Path
from typing import Any

import rados
import rbd

_PATIENCE = "30"


class CommandError(Exception):
    """A monitor refused a command; the text is its own."""


class Admin:
    """A connection as client.admin. Every call ends within 30 s."""

    def __init__(self, home: Path) -> None:
        limits = {
            "client_mount_timeout": _PATIENCE,
            "rados_mon_op_timeout": _PATIENCE,
            "rados_osd_op_timeout": _PATIENCE,
        }
        self._rados = rados.Rados(conffile=str(home / "ceph.conf"), name="client.admin", conf=limits)
        self._rados.connect()

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, *_: object) -> None:
        self._rados.shutdown()

    def command(self, prefix: str, inbuf: bytes = b"", **arguments: object) -> Any:
        """What a monitor answers to a command, parsed; None for an empty answer."""
        request = json.dumps({"prefix": prefix, "format": "json"} | arguments)
        code, out, message = self._rados.mon_command(request, inbuf)
        if code:
            raise CommandError(f"{prefix}: {message or code}")
        return json.loads(out) if out.strip() else None

    def osds_up(self) -> int:
        """How many OSDs the monitors know as running."""
        return int(self.command("osd stat")["num_up_osds"])

    def pools(self) -> list[str]:
        """The names of all pools."""
        return [str(name) for name in self.command("osd pool ls")]

    def space_is_known(self, pools: tuple[str, ...]) -> bool:
        """Whether `df` tells room for the pools: the active manager has reported to the monitors."""
        room = {entry["name"]: entry["stats"]["max_avail"] for entry in self.command("df")["pools"]}
        return all(room.get(pool) for pool in pools)

    def initialize(self, pool: str) -> None:
        """Make a pool RBD's own. Returns when its placement groups take writes."""
        with self._rados.open_ioctx(pool) as context:
            rbd.RBD().pool_init(context, True)

    def ensure_caps(self, entity: str, caps: dict[str, str]) -> None:
        """Give an existing user these caps and no others."""
        (known,) = self.command("auth get", entity=entity)
        if known["caps"] != caps:
            flat = [word for pair in caps.items() for word in pair]
            self.command("auth caps", entity=entity, caps=flat)
