"""A cephx user per volume: it opens that image and no other, and bears the image's internal id in its name.

The caps name whole object prefixes. Data objects end their id with a dot, so no longer id can match; headers and object maps
do not, hence a volume whose id begins another listed id, or is begun by one, is made again before it is handed out: ids are not
all of one length, and among 100,000 images of one connection about two pairs are so alike.

A clone's user reads its ancestors, too: those that the clone was made with, also when it is flat since, because a key that is
in use can't be given other rights. So it reads what is written to them later; whoever must not know that gets no clone.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import rados

from provisioner.ceph import ancestry, headers
from provisioner.ceph.ancestry import Ancestor
from provisioner.ceph.cluster import Connection
from provisioner.core.errors import InvalidRequest, NotFound, Unsupported
from provisioner.core.model import Credentials, Volume

PREFIX = "cp-"
"""Opens the name of every user that we give out; our own rights to mint and remove users end at this prefix."""
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_OTHER_CAPS = ["mon", "profile rbd", "mgr", "allow command none", "mds", "allow r fsname=none"]
"""What any RBD client needs of the monitors; nothing of the others, said in words that our own rights to mint demand."""


def user_name(volume: Volume, pool_id: int) -> str:
    """Name the user of a volume (without `client.`): readable, and never again the same for a re-made image."""
    return f"{PREFIX}{_UNFIT.sub('_', volume.id.image)}.{pool_id:x}-{volume.image_id}"


def osd_caps(volume: Volume, pool_id: int, ancestors: Sequence[Ancestor] = ()) -> str:
    """What the user may do with objects: all of its own image, the way from the name to the id, a clone's ancestors to read."""
    place, image_id = volume.id.place, volume.image_id
    own = _where(place.pool, place.namespace)
    data = _where(volume.data_pool or place.pool, place.namespace)
    clauses = [
        f"allow rwx {data} object_prefix rbd_data.{f'{pool_id}.' if volume.data_pool else ''}{image_id}.",
        f"allow rwx {own} object_prefix rbd_header.{image_id}",
        f"allow rwx {own} object_prefix rbd_object_map.{image_id}",
        f"allow r class-read {own} object_prefix rbd_id.{volume.id.image}",
        # the pool's own settings for images, which librbd reads outside any namespace and fails without
        f"allow class-read pool={place.pool} object_prefix rbd_info",
    ]
    return ", ".join(clauses + [clause for each in ancestors for clause in _ancestor_caps(each)])


def grant(connection: Connection, pool: rados.Ioctx, volume: Volume) -> Credentials:
    """Make the volume's user, or give the one made before. A few milliseconds of the monitor's time."""
    if _UNFIT.search(volume.id.image):
        raise Unsupported(f"{volume.id} was renamed to what caps can't name: rename it to letters, digits, '.', '_' and '-'")
    header = headers.read_header(pool, volume.image_id, ancestry.MARK)
    ancestors = ancestry.kept(header) if header is not None else []
    if foreign := [each for each in ancestors if not each.ours]:
        raise Unsupported(f"{volume.id} is a clone of image {foreign[0].image_id} of somebody else: flatten it first")
    user = user_name(volume, pool.get_pool_id())
    caps = ["osd", osd_caps(volume, pool.get_pool_id(), ancestors), *_OTHER_CAPS]
    answer = connection.command("auth get-or-create", entity=f"client.{user}", caps=caps)
    (entry,) = msgspec.json.decode(answer, type=list[dict[str, Any]])
    return Credentials(user, entry["key"])


def revoke(connection: Connection, user: str) -> None:
    """Remove a user that we gave out; gone already is fine."""
    if not user.startswith(PREFIX):
        raise InvalidRequest("user", user, f"only users that begin with {PREFIX} are ours to remove")
    try:
        connection.command("auth rm", entity=f"client.{user}")
    except NotFound:
        return


def monitors(connection: Connection) -> list[str]:
    """Addresses of the monitors as "host:port", of the protocol that every kernel client speaks (v1) where there is one."""
    monmap = msgspec.json.decode(connection.command("mon dump"))
    return [_address(mon["public_addrs"]["addrvec"]) for mon in monmap["mons"]]


def _address(vector: Sequence[dict[str, Any]]) -> str:
    by_type = {entry["type"]: str(entry["addr"]) for entry in vector}
    return by_type.get("v1") or next(iter(by_type.values()))


def _ancestor_caps(ancestor: Ancestor) -> list[str]:
    """Reading through to an ancestor; librbd looks its name up in the directory."""
    own, data = _where(ancestor.pool, ancestor.namespace), _where(ancestor.data_pool, ancestor.namespace)
    return [
        f"allow r class-read {data} object_prefix {ancestor.data}",
        f"allow r class-read {own} object_prefix rbd_header.{ancestor.image_id}",
        f"allow r class-read {own} object_prefix rbd_object_map.{ancestor.image_id}",
        f"allow class-read {own} object_prefix rbd_directory",
    ]


def _where(pool: str, namespace: str) -> str:
    return f"pool={pool} namespace={namespace}" if namespace else f"pool={pool}"
