"""Exclusive locks of images that librbd took without knowing: it no longer waited for the answer when the OSD did as asked.

librbd breaks the lock of a client that does not watch the image, but its own client's it can't: from then on it refuses, with
EROFS, whatever needs the lock, as long as this process lives. So where it does, such a lock is broken here, and the asker who
comes again succeeds.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from provisioner.ceph import headers, wire

log = logging.getLogger(__name__)

_LOCK, _COOKIE = "rbd_lock", "auto "
"""The lock's name on an image's header, and what opens its cookie; the cookie of the owner's watch follows."""


@contextmanager
def opened(instance: int, pool: rados.Ioctx, image_id: str) -> Iterator[rbd.Image]:
    """The image, to be written, for the block; `instance` is our client's id.

    Lets a refusal out, but breaks a lost lock of ours before. Raises rbd.ImageNotFound, and whatever librbd raises in the block.
    """
    try:
        with rbd.Image(pool, image_id=image_id) as image:
            yield image
    except rbd.ReadOnlyImage:
        break_lost(instance, pool, image_id)
        raise


def break_lost(instance: int, pool: rados.Ioctx, image_id: str) -> bool:
    """Break the image's lock if the client `instance` has it and does not watch by it; tell whether it did."""
    header = headers.header_object(image_id)
    for name, owner, cookie in wire.lockers(pool, header):
        if (name, owner) == (_LOCK, instance) and cookie not in _watching(instance, pool, image_id):
            log.warning("image %s was locked by this very process, without its knowledge: the lock is broken", image_id)
            wire.break_lock(pool, header, name, owner, cookie)
            return True
    return False


def _watching(instance: int, pool: rados.Ioctx, image_id: str) -> set[str]:
    """Cookies of locks that threads of ours may have on the image, and know of."""
    try:
        with rbd.Image(pool, image_id=image_id, read_only=True) as image:
            watchers = list(image.watchers_list())
    except rbd.ImageNotFound:
        return set()
    return {f"{_COOKIE}{watcher['cookie']}" for watcher in watchers if watcher["id"] == instance}
