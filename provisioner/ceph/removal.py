"""Deleting a volume: off its name at once, to the trash; under a tombstone's name while somebody's snapshots need it.

A delete is decided by one write that fails if a snapshot was marked or a node attached since the look before it, so no
snapshot is lost that anybody was told of, and no node loses its volume. What a killed snapshot or clone left on the image was
promised to nobody: it goes, once that is decided.
"""

import threading
import time
from collections.abc import Callable

import rados
import rbd

from provisioner.ceph import flatten, headers, marks, names
from provisioner.ceph.errors import explained
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.registry import Registry, Standing
from provisioner.ceph.snapshot_headers import TRASH, USER, Album, RbdSnapshot, read_album
from provisioner.core.errors import Conflict, HasDependants, InUse
from provisioner.core.ids import HASHED, VolumeId

Claimed = Callable[[str, str], bool]
"""Tells whether the index claims a snapshot: by the image's id and the snapshot's name."""
_ROUNDS = 3
PATIENCE = 2.0
"""Seconds that a request waits for a process of ours to close the image: it opens a parent to remove a dead clone's snapshot."""
_LOOK = 0.1


def discard(
    pool: rados.Ioctx, registry: Registry, volume: VolumeId, image_id: str, is_claimed: Claimed, patience: float = 0.0
) -> None:
    """Take the image off its name if nobody uses it; `patience` is how many seconds a process of ours has to close it.

    InUse names the clients, HasDependants snapshots that aren't ours to keep or remove.
    """
    with explained(f"deleting image {volume}"):
        _refuse_if_used(pool, registry, volume, image_id, patience)
        for _ in range(_ROUNDS):
            if _discarded(pool, registry.instance, volume, image_id, is_claimed):
                return
        raise Conflict(f"image {volume}", "snapshots of it are being taken")


def clear(pool: rados.Ioctx, instance: int, album: Album, is_claimed: Claimed) -> None:
    """Remove from a dying image what only killed operations can have left: unmarked snapshots of ours, and unused ones."""
    unneeded = [each for each in album.snapshots if each.namespace == TRASH and not each.children]
    unneeded += [each for each in _user_snapshots(album) if _is_leftover(album, each, is_claimed)]
    if not unneeded:
        return
    with opened(instance, pool, album.header.image_id) as image:
        for each in unneeded:
            image.remove_snap_by_id(each.number)


def _discarded(pool: rados.Ioctx, instance: int, volume: VolumeId, image_id: str, is_claimed: Claimed) -> bool:
    """One look and the step that follows from it; False if something changed between."""
    album = read_album(pool, image_id)
    if album is None:
        return True
    if album.header.features & rbd.RBD_FEATURE_MIGRATING:
        raise Conflict(f"image {volume}", "an administrator migrates it (rbd migration)")
    if nodes := marks.attached_nodes(album.header):
        raise InUse(f"image {volume}", [f"node {node}" for node in nodes])
    kept = [each for each in _user_snapshots(album) if not _is_leftover(album, each, is_claimed)]
    if strangers := [each for each in kept if album.mark_of(each) is None]:
        raise HasDependants(f"image {volume}", [f"snapshot {each.name}" for each in strangers])
    if kept and not marks.is_dying(album.header):
        return _entombed(pool, volume, album)
    before = {marks.TURN: album.header.metadata.get(marks.TURN, "")}
    if not headers.change_metadata(pool, image_id, {marks.DELETING: image_id}, expected=before):
        return False
    clear(pool, instance, album, is_claimed)
    names.move_to_trash(pool, volume.image, image_id)
    return True


def _entombed(pool: rados.Ioctx, volume: VolumeId, album: Album) -> bool:
    """Give the image its tombstone's name: from there its snapshots can be restored, unlike from the trash."""
    image_id = album.header.image_id
    if volume.image == names.DEAD + image_id:
        return True
    before = {marks.TURN: album.header.metadata.get(marks.TURN, ""), marks.DELETING: ""}
    if not headers.change_metadata(pool, image_id, {marks.TOMBSTONE: image_id}, expected=before):
        return False
    return names.rename(pool, volume.image, names.DEAD + image_id, image_id)


def _user_snapshots(album: Album) -> list[RbdSnapshot]:
    return [each for each in album.snapshots if each.namespace != TRASH]


def _is_leftover(album: Album, snapshot: RbdSnapshot, is_claimed: Claimed) -> bool:
    """Tell that a killed operation of ours left the snapshot, and nobody was ever told of it."""
    if snapshot.namespace != USER or album.mark_of(snapshot) is not None:
        return False
    ours = snapshot in album.steps() or snapshot.name.startswith(HASHED)
    return ours or is_claimed(album.header.image_id, snapshot.name)


def _refuse_if_used(pool: rados.Ioctx, registry: Registry, volume: VolumeId, image_id: str, patience: float) -> None:
    try:
        image = rbd.Image(pool, image_id=image_id, read_only=True)
    except rbd.ImageNotFound:
        return
    with image:
        deadline, pause = time.monotonic() + patience, threading.Event()
        while _ours_at_work(pool, registry, volume, image):
            if flatten.asked(pool, image_id) is not None:
                flatten.cancel(pool, image_id)
                break
            if time.monotonic() >= deadline:
                raise Conflict(f"image {volume}", "a process of ours has it open")
            pause.wait(_LOOK)


def _ours_at_work(pool: rados.Ioctx, registry: Registry, volume: VolumeId, image: rbd.Image) -> bool:
    """Whether a living process of ours, perhaps this one, has the image open. Raises InUse for anybody else's client."""
    standings = {watcher["addr"]: registry.judge(pool, watcher["id"]) for watcher in image.watchers_list()}
    foreign = [address for address, standing in standings.items() if standing is Standing.FOREIGN]
    # an OSD may list the watcher of a dead client for ever; fenced, it uses nothing any more
    if in_use := registry.without_fenced(foreign):
        raise InUse(f"image {volume}", in_use)
    return any(standing in (Standing.ALIVE, Standing.SELF) for standing in standings.values())
