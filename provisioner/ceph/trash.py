"""The trash: out of the pool in the background, and never somebody else's data.

`removal` takes an image off its name, at a cost that does not depend on its size. The purge walks the trash under a RADOS
lock, takes only images that bear our mark of dying, and lets a client that still has one open finish: Ceph refuses to
remove a watched image, and one that clones need stays until the last is gone or flattened. It needs no manager daemon, and
goes on where a killed one stopped.
"""

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import rados
import rbd

from provisioner.ceph import headers, marks, names, removal
from provisioner.ceph.errors import BROKEN, errno_of, explained
from provisioner.ceph.headers import Header
from provisioner.ceph.lost_locks import break_lost
from provisioner.ceph.registry import PURGE, Registry
from provisioner.ceph.snapshot_headers import Album, read_album

_PAGE = 64
_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Purge:
    """What one walk through a pool's trash did: images removed, and images left because somebody needs them."""

    removed: int
    kept: int
    skipped: bool = False


class Bystanders:
    """Images in the trash that are somebody else's: of thousands, each is looked at once in ten minutes, not at every walk."""

    def __init__(self, seconds: float = 600.0) -> None:
        self._seconds = seconds
        self._seen: dict[str, float] = {}

    def note(self, image_id: str) -> None:
        """Remember that the image is not ours."""
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        self._seen[image_id] = time.monotonic()

    def is_one(self, image_id: str) -> bool:
        """Tell whether it was not ours lately."""
        return time.monotonic() - self._seen.get(image_id, -self._seconds) < self._seconds


@dataclass(frozen=True, slots=True)
class Chores:
    """What a purge has others do: `withdraw` the user of an image that was handed out, look whether a snapshot `is_claimed`."""

    withdraw: Callable[[Header], None]
    is_claimed: removal.Claimed


def purge(pool: rados.Ioctx, registry: Registry, bystanders: Bystanders, pace: Callable[[], bool], chores: Chores) -> Purge:
    """Remove our dying images from the trash, unless another process is at it. `pace` waits between two, False ends the walk.

    Whoever walks also buries the dead among our processes, whose watches would keep images for half a minute.
    """
    with explained("purging the trash"), registry.turn(pool, PURGE) as turn:
        if turn is None:
            return Purge(0, 0, skipped=True)
        registry.others_alive(pool)
        renew = turn.renew
        return _walk(pool, registry, bystanders, lambda: pace() and renew(), chores)


def _walk(pool: rados.Ioctx, registry: Registry, bystanders: Bystanders, may_go_on: Callable[[], bool], chores: Chores) -> Purge:
    removed = kept = 0
    for image_id, entry, header in _dying(pool, bystanders):
        album = read_album(pool, image_id) if header is not None and header.snap_seq else None
        if header is not None and header.metadata.get(marks.PUBLISHED) == image_id:
            chores.withdraw(header)
            headers.change_metadata(pool, image_id, {}, remove=[marks.PUBLISHED])
        if album is not None and any(each.children for each in album.snapshots):
            kept += 1
            continue
        if not may_go_on():
            break
        if _remove(pool, registry, image_id, entry, album, chores):
            removed += 1
        else:
            kept += 1
    return Purge(removed, kept)


def backlog(pool: rados.Ioctx) -> int:
    """How many of our images wait in the trash."""
    with explained("counting the trash"):
        return sum(1 for _ in _dying(pool, Bystanders()))


def _dying(pool: rados.Ioctx, bystanders: Bystanders) -> Iterator[tuple[str, names.TrashEntry, Header | None]]:
    after = ""
    while page := names.trash_page(pool, after, _PAGE):
        for image_id, entry in page.items():
            if bystanders.is_one(image_id):
                continue
            header = marks.read_header(pool, image_id)
            # without a header the data is gone already: only the entry of a killed removal is left
            if header is None or marks.is_dying(header):
                yield image_id, entry, header
            else:
                bystanders.note(image_id)
        after = max(page)


def _remove(
    pool: rados.Ioctx, registry: Registry, image_id: str, entry: names.TrashEntry, album: Album | None, chores: Chores
) -> bool:
    """Finish what a killed move left, then let librbd remove the image; False if it has to stay for now."""
    if entry.state == names.RESTORING:
        return False  # an administrator takes it back; finishing that is theirs
    if names.listed_name(pool, image_id) == entry.name:
        names.move_to_trash(pool, entry.name, image_id)
    elif entry.state == names.MOVING:
        names.settle_trash(pool, image_id)
    try:
        if album is not None:
            removal.clear(pool, registry.instance, album, chores.is_claimed)
        _trash_remove(pool, registry, image_id)
    except rbd.ImageNotFound:
        return True
    except rbd.Error as error:
        if errno_of(error) in (BROKEN, errno.ETIMEDOUT):
            raise
        break_lost(registry.instance, pool, image_id)
        return False  # watched, with snapshots, or damaged: it must not keep the others waiting
    return True


def _trash_remove(pool: rados.Ioctx, registry: Registry, image_id: str) -> None:
    try:
        rbd.RBD().trash_remove(pool, image_id)
    except rbd.ImageBusy:
        with rbd.Image(pool, image_id=image_id, read_only=True) as image:
            watchers = [watcher["addr"] for watcher in image.watchers_list()]
        if not watchers or registry.without_fenced(watchers):
            raise
        headers.shake_off_watchers(pool, image_id)
        rbd.RBD().trash_remove(pool, image_id)
