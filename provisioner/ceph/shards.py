"""Entries by a request's name, shared out among sixteen objects by a hash of it: none gets large, and none hot.

`<prefix><hex digit>` are omaps of a cluster's home, or of a class's. Entries are ASCII, and set, replaced and removed only as
they were seen.
"""

import hashlib
import re
from collections.abc import Iterator

import rados

from provisioner.ceph import wire

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Shards:
    """The sixteen objects of one prefix."""

    def __init__(self, prefix: str) -> None:
        self.objects = tuple(f"{prefix}{digit:x}" for digit in range(16))

    def read(self, pool: rados.Ioctx, name: str) -> str:
        """The name's entry; "" if there is none."""
        key = _key(name)
        return _text(wire.omap_values(pool, self.object_of(name), key).get(key, b""))

    def replace(self, pool: rados.Ioctx, name: str, entry: str, over: str, flags: int = 0) -> bool:
        """Set the name's entry if it is `over`, "" for none; tell whether it was."""
        return wire.omap_replace(pool, self.object_of(name), _key(name), entry, over, flags)

    def drop(self, pool: rados.Ioctx, name: str, entry: str) -> bool:
        """Remove the name's entry, also in a full pool, if it is `entry`; tell whether it was."""
        return wire.omap_drop(pool, self.object_of(name), _key(name), entry)

    def entries(self, pool: rados.Ioctx) -> Iterator[str]:
        """All entries, page by page."""
        for obj in self.objects:
            for _, entry in wire.omap_all(pool, obj):
                yield _text(entry)

    def object_of(self, name: str) -> str:
        """The object that a name's entry lies in."""
        return self.objects[int(_hash(name)[0], 16)]


def _key(name: str) -> str:
    """Plain names are keys as they are, since keys are for people, too; others by hash."""
    return name if _PLAIN.fullmatch(name) and not name.startswith("cp-") else f"cp-{_hash(name)[:32]}"


def _text(entry: bytes) -> str:
    """What was garbled by hand equals nothing that is written, so nobody replaces or removes it."""
    return entry.decode(errors="replace")


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
