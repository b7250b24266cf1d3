"""What a killed create, rename, restore or move to the trash left under a name, and how it is finished or undone.

librbd's steps, in their order: create = id object, directory, header, object map; move to the trash = trash entry, id object
gone, directory gone; rename = new id object, directory, old id object gone; restore = id object, directory, trash entry gone.
A piece is only ever removed together with the id that it was seen with, so a name that was made anew meanwhile stays whole.
"""

import threading
import time

import rados

from provisioner.ceph import headers, images, trash
from provisioner.ceph.errors import explained
from provisioner.ceph.registry import Registry
from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.model import Wreck

_PATIENCE = 3.0
"""Seconds to wait for a living author to finish before the asker is told to come again."""
_ABANDONED = 90.0
"""Seconds after which no call of a living author can still be under way: several times the bound on each of them."""


def salvage(pool: rados.Ioctx, registry: Registry, wreck: Wreck) -> None:
    """Clear the name. Unavailable while somebody may still be at work on it, AlreadyExists for what can't be explained."""
    with explained(f"clearing what is left of image {wreck.id}"):
        if not wreck.dying and not _is_abandoned(pool, registry, wreck):
            raise Unavailable(f"image {wreck.id} is being made by another process of ours")
        _clear(pool, registry, wreck)


def _is_abandoned(pool: rados.Ioctx, registry: Registry, wreck: Wreck) -> bool:
    deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
    while not registry.alone(pool) and _age(pool, wreck) < _ABANDONED:
        if images.find(pool, wreck.id) != wreck:
            return True
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True


def _age(pool: rados.Ioctx, wreck: Wreck) -> float:
    try:
        _, modified = pool.stat(headers.id_object(wreck.id.image))
    except rados.ObjectNotFound:
        return 0.0
    return time.time() - time.mktime(modified)


def _clear(pool: rados.Ioctx, registry: Registry, wreck: Wreck) -> None:
    name = wreck.id.image
    image_id, listed = headers.read_id(pool, name), headers.listed_id(pool, name)
    if image_id is not None and listed is None:
        headers.remove_id(pool, name, image_id)  # first step of a create or restore, or a rename's last one missing
    elif image_id is None and listed is not None:
        _finish_removal(pool, wreck, listed)
    elif image_id is not None and listed is not None:
        _clear_listed(pool, registry, wreck, image_id, listed)


def _clear_listed(pool: rados.Ioctx, registry: Registry, wreck: Wreck, image_id: str, listed: str) -> None:
    name = wreck.id.image
    if image_id != listed:
        if headers.listed_name(pool, image_id) == name:
            raise AlreadyExists(f"image {wreck.id}", [f"directory and id object disagree ({listed}, {image_id})"])
        headers.remove_id(pool, name, image_id)
    elif headers.read_header(pool, image_id) is None:
        headers.unlist(pool, name, image_id)
        headers.remove_id(pool, name, image_id)
    elif wreck.dying:
        trash.discard(pool, registry, wreck.id, image_id)


def _finish_removal(pool: rados.Ioctx, wreck: Wreck, listed: str) -> None:
    if headers.read_header(pool, listed) is not None and not headers.in_trash(pool, listed):
        raise AlreadyExists(f"image {wreck.id}", [f"its id object is missing though image {listed} has a header"])
    headers.unlist(pool, wreck.id.image, listed)
