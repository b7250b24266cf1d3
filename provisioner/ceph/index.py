"""The index of snapshot names, which are unique in a whole cluster: an index, never the truth.

Sixteen objects `ceph-provisioner.snapshots.<hex digit>` in the cluster's home place, the first of its configured ones, map a
request's name to the volume and the image that the snapshot is of. An entry is set before the snapshot is taken, replaced and
removed only as it was seen, and can be made again from the images, whose headers are the truth.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import rados

from provisioner.ceph import wire
from provisioner.core.errors import NotFound
from provisioner.core.ids import VolumeId
from provisioner.core.model import Entry

SHARDS = tuple(f"ceph-provisioner.snapshots.{digit:x}" for digit in range(16))
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PAGE = 500


class _Value(msgspec.Struct):
    name: str
    volume: str
    image_id: str
    by: int = 0
    stamp: str = ""


def read(pool: rados.Ioctx, name: str) -> Entry | None:
    """What the index says of the name."""
    key = key_of(name)
    raw = wire.omap_values(pool, _shard(name), key).get(key)
    entry = _entry(raw.decode(errors="replace")) if raw else None
    return entry if entry is None or entry.name == name else None


def put(pool: rados.Ioctx, entry: Entry, over: Entry | None) -> Entry | None:
    """Set an entry in place of `over`, or of none; gives it as it is kept, None if another is there by now."""
    value = {"name": entry.name, "volume": str(entry.volume), "image_id": entry.image_id, "by": entry.by}
    raw = json.dumps({**value, "stamp": uuid.uuid4().hex})  # ASCII, as comparisons need
    if not wire.omap_replace(pool, _shard(entry.name), key_of(entry.name), raw, over.raw if over else ""):
        return None
    return replace(entry, raw=raw)


def drop(pool: rados.Ioctx, entry: Entry) -> bool:
    """Remove an entry, if it still is what was read; tell whether it was."""
    return wire.omap_drop(pool, _shard(entry.name), key_of(entry.name), entry.raw)


def entries(pool: rados.Ioctx) -> Iterator[Entry]:
    """All entries, page by page."""
    for shard in SHARDS:
        after = ""
        while page := wire.omap_page(pool, shard, after, "", _PAGE):
            for raw in page.values():
                if entry := _entry(raw.decode(errors="replace")):
                    yield entry
            after = max(page)


def _entry(raw: str) -> Entry | None:
    try:
        value = msgspec.json.decode(raw, type=_Value)
        return Entry(value.name, VolumeId.parse(value.volume), value.image_id, value.by, raw)
    except (msgspec.DecodeError, NotFound):
        return None


def key_of(name: str) -> str:
    """Give the key of a name's entry: plain names as they are, since keys are for people, too; others by hash."""
    return name if _PLAIN.fullmatch(name) and not name.startswith("cp-") else f"cp-{_hash(name)[:32]}"


def digit_of(name: str) -> str:
    """Which of sixteen objects a name's entry lies in, as a hex digit."""
    return _hash(name)[0]


def _shard(name: str) -> str:
    return SHARDS[int(digit_of(name), 16)]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
