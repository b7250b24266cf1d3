"""The index of snapshot names, which are unique in a whole cluster: an index, never the truth.

Sixteen objects `ceph-provisioner.snapshots.<hex digit>` in the cluster's home place, the first of its configured ones, map a
request's name to the volume and the image that the snapshot is of. An entry is set before the snapshot is taken, replaced and
removed only as it was seen, and can be made again from the images, whose headers are the truth.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import rados

from provisioner.ceph.shards import Shards
from provisioner.core.errors import NotFound
from provisioner.core.ids import VolumeId
from provisioner.core.model import Entry

SHARDS = Shards("ceph-provisioner.snapshots.")


class _Value(msgspec.Struct):
    name: str
    volume: str
    image_id: str
    by: int = 0
    stamp: str = ""


def read(pool: rados.Ioctx, name: str) -> Entry | None:
    """What the index says of the name."""
    entry = _entry(SHARDS.read(pool, name))
    return entry if entry is None or entry.name == name else None


def put(pool: rados.Ioctx, entry: Entry, over: Entry | None) -> Entry | None:
    """Set an entry in place of `over`, or of none; gives it as it is kept, None if another is there by now."""
    raw = raw_of(entry, uuid.uuid4().hex)
    if not SHARDS.replace(pool, entry.name, raw, over.raw if over else ""):
        return None
    return replace(entry, raw=raw)


def raw_of(entry: Entry, stamp: str) -> str:
    """The entry as it is kept; ASCII, as comparisons need."""
    value = {"name": entry.name, "volume": str(entry.volume), "image_id": entry.image_id, "by": entry.by}
    return json.dumps({**value, "stamp": stamp})


def origin_of(entry: Entry) -> tuple[int, str]:
    """What `raw_of` needs beside the entry's own values: who set it, and its stamp; (0, "") for one that is not kept."""
    try:
        value = msgspec.json.decode(entry.raw, type=_Value)
    except msgspec.DecodeError:
        return (0, "")
    return (value.by, value.stamp)


def drop(pool: rados.Ioctx, entry: Entry) -> bool:
    """Remove an entry, if it still is what was read; tell whether it was."""
    return SHARDS.drop(pool, entry.name, entry.raw)


def entries(pool: rados.Ioctx) -> Iterator[Entry]:
    """All entries, page by page."""
    return filter(None, map(_entry, SHARDS.entries(pool)))


def _entry(raw: str) -> Entry | None:
    """None for what is no entry of ours."""
    try:
        value = msgspec.json.decode(raw, type=_Value)
        return Entry(value.name, VolumeId.parse(value.volume), value.image_id, value.by, raw)
    except (msgspec.DecodeError, NotFound):
        return None
