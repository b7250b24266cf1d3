"""Deleting: off its name at once, out of the pool in the background, and never somebody else's data.

A volume is marked as dying, then moved to the trash: neither depends on its size. The purge walks the trash under a RADOS
lock, takes only images that bear our mark of dying, and lets a client that still has one open finish: Ceph refuses to
remove a watched image. It needs no manager daemon, and goes on where a killed one stopped.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import rados
import rbd

from provisioner.ceph import headers, marks
from provisioner.ceph.errors import explained
from provisioner.ceph.registry import Registry, Standing
from provisioner.core.errors import Conflict, HasDependants, InUse
from provisioner.core.ids import VolumeId

_LOCK_OBJECT, _LOCK, _LOCK_SECONDS = "ceph-provisioner.purge", "purge", 60
_MAY_RENEW = 1
_PAGE = 256


def discard(pool: rados.Ioctx, registry: Registry, volume: VolumeId, image_id: str) -> None:
    """Move the image to the trash if nobody uses it. InUse names the clients, HasDependants the snapshots."""
    with explained(f"deleting image {volume}"):
        _refuse_if_needed(pool, registry, volume, image_id)
        headers.write_metadata(pool, image_id, {marks.DELETING: image_id})
        rbd.RBD().trash_move(pool, volume.image, 0)


def _refuse_if_needed(pool: rados.Ioctx, registry: Registry, volume: VolumeId, image_id: str) -> None:
    try:
        image = rbd.Image(pool, image_id=image_id, read_only=True)
    except rbd.ImageNotFound:
        return
    with image:
        watchers = list(image.watchers_list())
        snapshots = [snapshot["name"] for snapshot in image.list_snaps()]
    standings = {watcher["addr"]: registry.judge(pool, watcher["id"]) for watcher in watchers}
    if foreign := [address for address, standing in standings.items() if standing is Standing.FOREIGN]:
        raise InUse(f"image {volume}", foreign)
    if any(standing in (Standing.ALIVE, Standing.SELF) for standing in standings.values()):
        raise Conflict(f"image {volume}", "a process of ours has it open")
    if snapshots:
        raise HasDependants(f"image {volume}", [f"snapshot {name}" for name in snapshots])


@dataclass(frozen=True, slots=True)
class Purge:
    """What one walk through a pool's trash did: images removed, and images left because somebody needs them."""

    removed: int
    kept: int
    skipped: bool = False


def purge(pool: rados.Ioctx, cookie: str, pace: Callable[[], bool]) -> Purge:
    """Remove our dying images from the trash, unless another process is at it. `pace` waits between two, False ends the walk."""
    with explained("purging the trash"):
        if not _lock(pool, cookie):
            return Purge(0, 0, skipped=True)
        try:
            return _walk(pool, cookie, pace)
        finally:
            _unlock(pool, cookie)


def _walk(pool: rados.Ioctx, cookie: str, pace: Callable[[], bool]) -> Purge:
    removed = kept = 0
    for image_id in _dying(pool):
        if not pace() or not _lock(pool, cookie):
            break
        if _remove(pool, image_id):
            removed += 1
        else:
            kept += 1
    return Purge(removed, kept)


def backlog(pool: rados.Ioctx) -> int:
    """How many of our images wait in the trash."""
    with explained("counting the trash"):
        return sum(1 for _ in _dying(pool))


def _dying(pool: rados.Ioctx) -> Iterator[str]:
    after = ""
    while page := headers.omap_page(pool, headers.TRASH, after, "id_", _PAGE):
        for key in page:
            image_id = key.removeprefix("id_")
            header = headers.read_header(pool, image_id)
            # without a header the data is gone already: only the entry of a killed removal is left
            if header is None or marks.is_dying(header):
                yield image_id
        after = max(page)


def _remove(pool: rados.Ioctx, image_id: str) -> bool:
    try:
        rbd.RBD().trash_remove(pool, image_id)
    except (rbd.ImageBusy, rbd.ImageHasSnapshots):
        return False
    except rbd.ImageNotFound:
        return True
    return True


def _lock(pool: rados.Ioctx, cookie: str) -> bool:
    try:
        pool.lock_exclusive(_LOCK_OBJECT, _LOCK, cookie, "purging the trash", _LOCK_SECONDS, _MAY_RENEW)
    except rados.ObjectBusy:
        return False
    return True


def _unlock(pool: rados.Ioctx, cookie: str) -> None:
    with suppress(rados.ObjectNotFound):  # it lapsed during a long removal
        pool.unlock(_LOCK_OBJECT, _LOCK, cookie)
