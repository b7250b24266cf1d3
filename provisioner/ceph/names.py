"""The pieces that make up an image's name: `rbd_id.<name>` holds the id, `rbd_directory` maps both ways, `rbd_trash` the rest.

librbd changes them one after the other, so a killed process leaves some of them. Here each is changed alone, and only
together with the id that it was seen with: a name that was made anew meanwhile stays whole, whoever is slow.
"""

import contextlib
import errno
import struct
import time
from dataclasses import dataclass

import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import errno_of

DIRECTORY = "rbd_directory"
TRASH = "rbd_trash"

NEW = "cp.new."
"""Opens the names of images that are being built: a hash of the request follows."""
DEAD = "cp.dead."
"""Opens the names of deleted volumes whose snapshots are kept: the image's id follows."""

NORMAL, MOVING, REMOVING, RESTORING = range(4)
"""States of an entry in the trash; librbd removes only what is NORMAL, or was left REMOVING."""

_BY_USER = 0
ID_DIGITS, _RANDOM_DIGITS = 14, 8


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """What the trash says of an image: the name that it had, and its state."""

    name: str
    state: int


def read_id(pool: rados.Ioctx, name: str) -> str | None:
    """The id that `rbd_id.<name>` holds."""
    try:
        raw = pool.read(_id_object(name))
    except rados.ObjectNotFound:
        return None
    return wire.text(raw) or None


def write_id(pool: rados.Ioctx, name: str, image_id: str, flags: int = wire.FULL_FORCE) -> bool:
    """Make `rbd_id.<name>`, by default also in a full pool; False if there is one."""
    return wire.write_new(pool, _id_object(name), wire.string(image_id), flags)


def remove_id(pool: rados.Ioctx, name: str, image_id: str) -> bool:
    """Remove `rbd_id.<name>` if it holds this id; tell whether it did."""
    return wire.remove_if_holds(pool, _id_object(name), wire.string(image_id))


def listed_id(pool: rados.Ioctx, name: str) -> str | None:
    """The id that `rbd_directory` lists for the name."""
    return _listed(pool, f"name_{name}")


def listed_name(pool: rados.Ioctx, image_id: str) -> str | None:
    """The name that `rbd_directory` lists for the id."""
    return _listed(pool, f"id_{image_id}")


def enter(pool: rados.Ioctx, name: str, image_id: str) -> None:
    """List the pair in `rbd_directory`; a name or an id that is listed already stays as it is."""
    with contextlib.suppress(rados.ObjectExists):
        wire.call(pool, DIRECTORY, "dir_add_image", wire.string(name) + wire.string(image_id))


def enlist(pool: rados.Ioctx, name: str, image_id: str) -> bool:
    """List a new pair; False if the name or the id is listed already."""
    with rados.WriteOpCtx() as operation:
        operation.execute("rbd", "dir_add_image", wire.string(name) + wire.string(image_id))
        try:
            pool.operate_write_op(operation, DIRECTORY)
        except rados.Error as error:
            if errno_of(error) in (errno.EEXIST, errno.EBADF):  # of the name, of the id
                return False
            raise
    return True


def unlist(pool: rados.Ioctx, name: str, image_id: str) -> None:
    """Take the pair off `rbd_directory`; a pair that isn't there is fine, another pair stays."""
    with contextlib.suppress(rados.ObjectNotFound):
        wire.call(pool, DIRECTORY, "dir_remove_image", wire.string(name) + wire.string(image_id))


def is_reserved(name: str) -> bool:
    """Tell whether the name is one that no request's image bears, but our own half-way houses."""
    return name.startswith((NEW, DEAD))


def rename(pool: rados.Ioctx, old: str, new: str, image_id: str) -> bool:
    """Give the image another name; False, and nothing changed, if that is taken. Gone on with where a killed one stopped.

    librbd's order: new id object, old id object gone, directory in one step. Each is done only with this id, so that doing
    it twice, or late, harms nobody. Raises ObjectExists if the directory lists another image under the new name.
    """
    if not write_id(pool, new, image_id) and read_id(pool, new) != image_id:
        return False
    remove_id(pool, old, image_id)
    with contextlib.suppress(rados.ObjectNotFound):  # listed under the new name already
        wire.call(pool, DIRECTORY, "dir_rename_image", wire.string(old) + wire.string(new) + wire.string(image_id))
    return True


def reserved(pool: rados.Ioctx, prefix: str, after: str, limit: int) -> dict[str, str]:
    """Listed names that open with `prefix`, behind the name `after`, with their ids, at most `limit`."""
    found = wire.omap_page(pool, DIRECTORY, f"name_{after}" if after else "", f"name_{prefix}", limit)
    return {key.removeprefix("name_"): wire.text(raw) for key, raw in found.items()}


def page(pool: rados.Ioctx, after: str, limit: int) -> dict[str, str]:
    """What `rbd_directory` lists behind the id `after`: names by id, in order of the ids, at most `limit`."""
    found = wire.omap_page(pool, DIRECTORY, f"id_{after}" if after else "", "id_", limit)
    return {key.removeprefix("id_"): wire.text(raw) for key, raw in found.items()}


def ids_alike(pool: rados.Ioctx, image_id: str) -> list[str]:
    """Other listed ids that begin with this one, or that begin it: object_prefix caps can't tell their headers apart."""
    longer = wire.omap_page(pool, DIRECTORY, f"id_{image_id}", f"id_{image_id}", 8)
    shorter = wire.omap_values(pool, DIRECTORY, *(f"id_{image_id[:end]}" for end in range(1, len(image_id))))
    return [key.removeprefix("id_") for key in (*longer, *shorter)]


def trash_entry(pool: rados.Ioctx, image_id: str) -> TrashEntry | None:
    """What the trash says of the image; None if it isn't there."""
    raw = wire.omap_values(pool, TRASH, f"id_{image_id}").get(f"id_{image_id}")
    return None if raw is None else _entry(raw)


def trash_page(pool: rados.Ioctx, after: str, limit: int) -> dict[str, TrashEntry]:
    """Entries of the trash behind the id `after`, at most `limit`, by id."""
    found = wire.omap_page(pool, TRASH, f"id_{after}" if after else "", "id_", limit)
    return {key.removeprefix("id_"): _entry(raw) for key, raw in found.items()}


def enter_trash(pool: rados.Ioctx, name: str, image_id: str) -> None:
    """List the image in the trash, due for removal now; an entry that a killed move or restore left is made good."""
    try:
        wire.call(pool, TRASH, "trash_add", wire.string(image_id) + _new_entry(name))
    except rados.ObjectExists:
        settle_trash(pool, image_id)


def settle_trash(pool: rados.Ioctx, image_id: str) -> None:
    """Give an entry that a killed move or restore left its final state."""
    entry = trash_entry(pool, image_id)
    if entry is not None and entry.state in (MOVING, RESTORING):
        states = bytes((NORMAL, entry.state))
        wire.call(pool, TRASH, "trash_state_set", wire.string(image_id) + states)


def move_to_trash(pool: rados.Ioctx, name: str, image_id: str) -> None:
    """Take the image off its name, in librbd's order.

    librbd's own call takes a name, not an id: slow between looking and moving, it would take what was made under the
    name since. It also costs ten times as much.
    """
    enter_trash(pool, name, image_id)
    remove_id(pool, name, image_id)
    unlist(pool, name, image_id)


def is_made_by(image_id: str, instance: int) -> bool:
    """Tell whether librbd made the id on the connection `instance`: its hex digits, then up to eight random ones.

    No is certain. Yes is all but certain: the digits of another instance may go on where these end.
    """
    begin = f"{instance:x}"
    for digits in range(1, _RANDOM_DIGITS + 1):
        head = image_id[:-digits]
        if head == begin or (len(image_id) == ID_DIGITS and head and begin.endswith(head)):
            return True
    return False


def _id_object(name: str) -> str:
    return f"rbd_id.{name}"


def _listed(pool: rados.Ioctx, key: str) -> str | None:
    value = wire.omap_values(pool, DIRECTORY, key).get(key)
    return None if value is None else wire.text(value) or None


def _entry(raw: bytes) -> TrashEntry:
    name_at, times = 7, 16
    state_at = name_at + 4 + wire.number(raw[name_at : name_at + 4]) + times
    return TrashEntry(wire.text(raw, name_at), wire.number(raw[state_at : state_at + 1]))


def _new_entry(name: str) -> bytes:
    now = struct.pack("<II", int(time.time()), 0)
    body = bytes((_BY_USER,)) + wire.string(name) + now + now + bytes((NORMAL,))
    return struct.pack("<BBI", 2, 1, len(body)) + body
