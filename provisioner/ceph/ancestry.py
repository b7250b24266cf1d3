"""What a clone reads through: its parents, theirs, and so on, by their headers alone.

The kernel follows sixteen of them. A clone's user has to read each; who they were is kept on the clone from when it was
made, since a user's rights can't change with every flattening.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from provisioner.ceph import marks
from provisioner.ceph.cluster import Connection
from provisioner.ceph.headers import NO_DATA_POOL, Header, Parent

MARK = marks.PREFIX + "ancestors"
DEEPEST = 15
"""Ancestors that an image may have and still be cloned: the kernel maps no image with more than 16."""
DEEP = 4
"""Ancestors from which on an image that is cloned is flattened in the background."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One image that a clone reads through; `data` is the prefix of its data objects in the pool `data_pool`."""

    pool: str
    namespace: str
    image_id: str
    data_pool: str
    data: str
    ours: bool


class _Mark(msgspec.Struct):
    image_id: str
    ancestors: list[Ancestor]


def ancestors(connection: Connection, header: Header, *, of_snapshots: bool = True) -> list[Ancestor]:
    """The image's ancestors, nearest first.

    An image that was flattened may have older snapshots that still need its parents; these count unless told otherwise.
    """
    found: list[Ancestor] = []
    parent = header.parent if header.parent and (header.parent.attached or of_snapshots) else None
    while parent is not None and len(found) <= DEEPEST + 1:
        ancestor, parent = _ancestor(connection, parent)
        found.append(ancestor)
    return found


def themselves(connection: Connection, header: Header, pool_id: int, namespace: str) -> Ancestor:
    """The image as an ancestor of its clones."""
    pool = connection.pool_name(pool_id)
    ours = marks.is_ours(header)
    if header.data_pool_id == NO_DATA_POOL:
        return Ancestor(pool, namespace, header.image_id, pool, f"rbd_data.{header.image_id}.", ours)
    data_pool = connection.pool_name(header.data_pool_id)
    return Ancestor(pool, namespace, header.image_id, data_pool, f"rbd_data.{pool_id}.{header.image_id}.", ours)


def told(image_id: str, known: Sequence[Ancestor]) -> dict[str, str]:
    """The metadata that keeps a clone's ancestors."""
    return {MARK: msgspec.json.encode(_Mark(image_id, list(known))).decode()}


def kept(header: Header) -> list[Ancestor]:
    """The ancestors that the image was made with; none for one that wasn't cloned by us."""
    try:
        mark = msgspec.json.decode(header.metadata.get(MARK, ""), type=_Mark)
    except msgspec.DecodeError:
        return []
    return mark.ancestors if mark.image_id == header.image_id else []


def _ancestor(connection: Connection, parent: Parent) -> tuple[Ancestor, Parent | None]:
    with connection.pool_by_id(parent.pool_id, parent.namespace) as pool:
        header = marks.read_header(pool, parent.image_id)
    if header is None:  # half removed by hand: still an ancestor, and nobody's
        name = connection.pool_name(parent.pool_id)
        return Ancestor(name, parent.namespace, parent.image_id, name, f"rbd_data.{parent.image_id}.", False), None
    return themselves(connection, header, parent.pool_id, parent.namespace), header.parent
