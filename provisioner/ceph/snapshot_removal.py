"""How a snapshot goes: one that was asked for by name, and one that a killed process left without its mark.

Of the latter, the asker may be alive after all, or another come to ask for the same, and mark it at any moment. So it is
condemned first: a key beside its mark's says by its number that it goes, written in one operation that fails if anything was
marked since it was seen unmarked; and a mark is written only if it is there and not condemned (but for `unopened`, where it is
born so). Then, by one thread of all our
processes at a time, it is removed by its number, and the key after it. Whoever finds it condemned does that, too, and takes it
anew.
"""

import contextlib
import uuid
from collections.abc import Iterator

import rados
import rbd

from provisioner.ceph import headers, marks
from provisioner.ceph.closing import closing
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.places import Room
from provisioner.ceph.registry import task_for
from provisioner.ceph.snapshot_headers import Album, RbdSnapshot, read_album
from provisioner.core.errors import Unavailable

_GOING = marks.PREFIX + "going."
_LAST = marks.PREFIX + "last-condemned"
_TOLD = 3
"""Times that a client which holds an image's lock is told of a snapshot that it doesn't know."""
_PATIENCE = 10.0
"""Seconds to wait for whoever removes the same leftover."""
_CALLS = 20
"""RADOS calls that removing a snapshot makes, each bounded by the connection's timeout."""
_ROUNDS = 5


def remove(room: Room, image_id: str, name: str) -> None:
    """Have librbd remove the snapshot of that name; Ceph sets it aside while clones need it. Gone already is fine."""
    with removed(room, image_id, name):
        pass


@contextlib.contextmanager
def removed(room: Room, image_id: str, name: str, *, surely: bool = True) -> Iterator[None]:
    """Like `remove`, for what comes after it: the block runs while librbd closes the image.

    Not `surely`, what librbd says is believed, and it is the block's to find out whether the snapshot is gone.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(rbd.ImageNotFound):
            image = stack.enter_context(opened(room.registry.instance, room.pool, image_id))
            if surely:
                remove_from(room.pool, image, image_id, name)
            else:
                image.remove_snap(name)
            stack.enter_context(closing(image))
        yield


def remove_from(pool: rados.Ioctx, image: rbd.Image, image_id: str, name: str, number: int | None = None) -> None:
    """Like `remove`, for who has the image open; with `number`, only the one of that number.

    librbd has the client remove it that holds the image's lock. Where a snapshot's author was killed before it told the others,
    that one doesn't know of the snapshot, and librbd takes that for success: it is told then.
    """
    for _ in range(_TOLD):
        with contextlib.suppress(rbd.ImageNotFound):
            image.remove_snap(name) if number is None else image.remove_snap_by_id(number)
        album = read_album(pool, image_id)
        if album is None or not album.has(name, number):
            return
        headers.tell_watchers(pool, image_id)
    raise Unavailable(f"snapshot {name} of image {image_id} is not seen by the client that has the image locked")


def last(image: rbd.Image) -> str:
    """What tells of the last condemnation; to be asked before a snapshot is taken."""
    try:
        return str(image.metadata_get(_LAST))
    except KeyError:
        return ""


def is_same_since(before: str, album: Album, name: str) -> bool:
    """Tell whether a snapshot that was taken since `last` said `before` is the one that bears its name in this header.

    For another to be there, it was condemned; or somebody marked it and deleted it again, and the mark is the last to go.
    """
    there = album.named(name)
    foreign = there is None or (name in album.marks and album.mark_of(there) is None)
    return not foreign and album.header.metadata.get(_LAST, "") == before


def if_not_condemned(album: Album, snapshot: RbdSnapshot) -> dict[str, str] | None:
    """What the metadata have to be for the snapshot to be marked; None if it is condemned."""
    key = _GOING + snapshot.name
    found = album.header.metadata.get(key, "")
    return None if found == _sentence(album, snapshot) else {key: found}


def sentence_of(image_id: str, number: int, name: str) -> dict[str, str]:
    """The metadata that condemn a snapshot. They are bound to the image, so that a copy condemns nothing."""
    return {_GOING + name: f"{image_id}/{number}"}


def take_away(room: Room, image_id: str, name: str) -> bool:
    """Remove the snapshot of that name if it bears no mark; gone already is fine. False if it bears one.

    Raises Conflict while another removes it, Unavailable, and InUse if it is protected.
    """
    for _ in range(_ROUNDS):
        album = read_album(room.pool, image_id)
        there = album.named(name) if album is not None else None
        if album is None or (there is None and _GOING + name not in album.header.metadata):
            return True
        if there is not None and album.mark_of(there) is not None:
            return False
        if there is None or _condemned(room.pool, album, there):
            finish(room, image_id, name)
            return True
    raise Unavailable(f"image {image_id} kept changing while its snapshot {name} was to go")


def finish(room: Room, image_id: str, name: str) -> None:
    """Remove a condemned snapshot, and what says so; nothing there is fine. Raises what `take_away` raises."""
    key, pool = _GOING + name, room.pool
    what, mine = f"snapshot {name} of image {image_id}", task_for("snapshot", f"{image_id}/{name}")
    with room.registry.alone(pool, mine, what, _CALLS * room.registry.timeout, _PATIENCE):
        album = read_album(pool, image_id)
        sentence = album.header.metadata.get(key) if album is not None else None
        if album is None or sentence is None:
            return
        there = album.named(name)
        if there is not None and sentence == _sentence(album, there):
            _assume_the_worst(pool, album, there)
            with opened(room.registry.instance, pool, image_id) as image:
                remove_from(pool, image, image_id, name, there.number)
        headers.change_metadata(pool, image_id, {}, [key], {key: sentence})


def _assume_the_worst(pool: rados.Ioctx, album: Album, leftover: RbdSnapshot) -> None:
    """If the leftover has no object map, make one by which everything changed.

    Where a snapshot is removed, librbd has the next one's map, or the image's, take over what its map says of changes, and
    forgets that where there is none. So what a snapshot before this one said may be lost, and changes with it.
    """
    if album.header.features & rbd.RBD_FEATURE_FAST_DIFF:
        objects = -(-leftover.size >> album.header.order)
        headers.make_cautious_map(pool, album.header.image_id, leftover.number, objects)


def _condemned(pool: rados.Ioctx, album: Album, snapshot: RbdSnapshot) -> bool:
    """Condemn a snapshot that was seen unmarked; False if something was marked since."""
    before = {marks.TURN: album.header.metadata.get(marks.TURN, "")}
    told = {**sentence_of(album.header.image_id, snapshot.number, snapshot.name), _LAST: uuid.uuid4().hex}
    return headers.change_metadata(pool, album.header.image_id, told, expected=before)


def _sentence(album: Album, snapshot: RbdSnapshot) -> str:
    return sentence_of(album.header.image_id, snapshot.number, snapshot.name)[_GOING + snapshot.name]
