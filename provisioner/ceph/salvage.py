"""What a killed create, rename, restore or move to the trash left under a name, and how it is finished or undone.

librbd's steps, in their order: create = directory, id object (before Octopus the other way round), header, striping, object
map (ours, in `moulds`: the map before the header); move to the trash = trash entry, id object gone, directory gone; rename =
new id object, directory, old id object gone; restore = id object, directory, trash entry gone; remove = header gone, id object
gone, directory gone.

Renames of our own, from a reserved name and to a tombstone's, are told by the image's marks, and finished at once.

Nobody writes down who is at work on a name. So pieces are touched only when their author can't be at work any more: a delete
of ours was decided (each of its steps is safe to do twice), or no other process of ours that is alive can have made the
image's id and nothing moved for a moment, or nothing moved for longer than any living author's calls can take.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

import rados

from provisioner.ceph import clones, headers, images, marks, moulds, names, removal
from provisioner.ceph.errors import explained
from provisioner.ceph.registry import Registry
from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.model import Wreck

_QUIET = 1.0
"""Seconds without a change after which pieces are nobody's, if no living process of ours made it: an administrator's
`rbd` takes milliseconds between its steps."""
_PATIENCE = 3.0
"""Seconds to wait for a living author to finish before the asker is told to come again."""
_CALLS = 8
"""RADOS calls in librbd's longest way from a first piece to a last, each bounded by the connection's timeout."""
_REMEMBERED = 10_000


class Sightings:
    """Since when this process has seen which pieces: by its own clock, since nobody else's can be trusted. Thread-safe."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def since(self, pieces: Hashable) -> float:
        """When they were first seen, on the monotonic clock; now, if this is the first time."""
        with self._lock:
            first = self._seen.setdefault(pieces, time.monotonic())
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return first


def salvage(pool: rados.Ioctx, registry: Registry, wreck: Wreck, sightings: Sightings, is_claimed: removal.Claimed) -> None:
    """Clear the name. Unavailable while somebody may still be at work on it, AlreadyExists for what can't be explained."""
    with explained(f"clearing what is left of image {wreck.id}"):
        if wreck.dying:
            removal.discard(pool, registry, wreck.id, wreck.image_id, is_claimed, removal.PATIENCE)
        elif clones.finish(pool, wreck.id, wreck.image_id):
            return
        elif _is_abandoned(pool, registry, wreck, sightings.since(wreck)):
            _clear(pool, wreck)
            if images.find(pool, wreck.id) == wreck:
                raise AlreadyExists(f"image {wreck.id}", ["its name, id and directory entry contradict each other"])


def _is_abandoned(pool: rados.Ioctx, registry: Registry, wreck: Wreck, first_seen: float) -> bool:
    """Wait until the author can't be at work any more; False if the pieces changed meanwhile."""
    began, pause = time.monotonic(), threading.Event()
    while images.find(pool, wreck.id) == wreck:
        now = time.monotonic()
        if now - first_seen > _CALLS * registry.timeout or (
            now - began > _QUIET and not _has_living_author(pool, registry, wreck)
        ):
            return True
        if now - began > _PATIENCE:
            raise Unavailable(f"image {wreck.id} is being made or taken away by another process of ours")
        pause.wait(0.1)
    return False


def _has_living_author(pool: rados.Ioctx, registry: Registry, wreck: Wreck) -> bool:
    """Tell whether a living process of ours may have made the image's id: librbd puts its client id into it."""
    return any(names.is_made_by(wreck.image_id, instance) for instance in registry.others_alive(pool))


def _clear(pool: rados.Ioctx, wreck: Wreck) -> None:
    name = wreck.id.image
    image_id, listed = names.read_id(pool, name), names.listed_id(pool, name)
    if image_id is not None and listed is not None and clones.claims(pool, wreck.id, image_id):
        names.unlist(pool, name, listed)  # of a create that came to nothing, since the name was taken
    elif image_id is not None and image_id != listed:
        _clear_id(pool, wreck, image_id)
    elif image_id is None and listed is not None:
        _clear_listing(pool, wreck, listed)
    elif image_id is not None and headers.read_header(pool, image_id) is None:
        moulds.undo(pool, name, image_id)


def _clear_id(pool: rados.Ioctx, wreck: Wreck, image_id: str) -> None:
    """The id object alone: a create, rename or restore that began, or a rename that lacks its last step."""
    if _is_lost(pool, image_id):
        names.enter(pool, wreck.id.image, image_id)
        if names.listed_name(pool, image_id) is None:
            raise AlreadyExists(f"image {wreck.id}", [f"image {image_id} bears the name, too, and is on no list"])
    else:
        names.remove_id(pool, wreck.id.image, image_id)


def _clear_listing(pool: rados.Ioctx, wreck: Wreck, listed: str) -> None:
    """The directory alone: a removal or a move to the trash that lacks its last step, or an id object that got lost."""
    name, header = wreck.id.image, headers.read_header(pool, listed)
    if header is None or names.trash_entry(pool, listed) is not None:
        if header is None:
            headers.remove_map(pool, listed)
        names.unlist(pool, name, listed)
    else:
        names.write_id(pool, name, listed)


def _is_lost(pool: rados.Ioctx, image_id: str) -> bool:
    """Tell whether an image has nothing but this id object to find it by."""
    exists = marks.read_header(pool, image_id) is not None
    return exists and names.listed_name(pool, image_id) is None and names.trash_entry(pool, image_id) is None
