"""Snapshots: one RBD snapshot each, on the image itself. The Ceph side of `core.snapshots`.

Taking one: claim the name in the index, take it (`unopened`, or else librbd), mark it in one atomic step that an image about to
be deleted refuses. A process killed between leaves a claim, or a claim and a snapshot without its mark: the retry takes it anew.
Deleting one: the snapshot (Ceph keeps what clones need), the index entry, the mark, which is what a retry finds the way by.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import rados
import rbd

from provisioner.ceph import headers, index, marks, names, snapshot_headers, snapshot_removal, unopened, wire
from provisioner.ceph.closing import closing
from provisioner.ceph.errors import explained
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.places import Places, Room
from provisioner.ceph.registry import Standing
from provisioner.ceph.snapshot_headers import Album, SnapshotMark, read_album
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Credentials, Entry, Origin, Snapshot, SnapshotPage

_LOOKED_AT = 1000
"""Images that one page of snapshots looks at."""
_ROUNDS = 5
_MARKED_WITHIN = 1.0
"""Seconds from a snapshot to its mark, where neither Ceph nor the process stands still."""


class CephSnapshots:
    """Implements `core.ports.SnapshotStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def entry(self, cluster: str, name: str, credentials: Credentials | None) -> Entry | None:
        """What the index says of the name."""
        with self._home(cluster, credentials) as room, explained(f"looking for snapshot {name}"):
            return index.read(room.pool, name)

    def claim(self, entry: Entry, over: Entry | None, credentials: Credentials | None) -> Entry | None:
        """Set the name's entry."""
        with self._home(entry.volume.place.cluster, credentials) as room, explained(f"claiming snapshot {entry.name}"):
            return index.put(room.pool, replace(entry, by=room.connection.instance), over)

    def unclaim(self, entry: Entry, credentials: Credentials | None) -> None:
        """Take the entry away."""
        with self._home(entry.volume.place.cluster, credentials) as room, explained(f"giving up snapshot {entry.name}"):
            index.drop(room.pool, entry)

    def is_stale(self, entry: Entry, credentials: Credentials | None) -> bool:
        """Tell that nobody can be making what the entry stands for."""
        with self._places.at(entry.volume.place, credentials) as (_, pool), explained(f"looking for image {entry.volume}"):
            header = marks.read_header(pool, entry.image_id)
        if header is None or marks.is_dying(header):
            return True
        with self._home(entry.volume.place.cluster, credentials) as room, explained("judging the author of a claim"):
            return room.registry.judge(room.pool, entry.by) in (Standing.DEAD, Standing.FOREIGN)

    def image_id(self, volume: VolumeId, credentials: Credentials | None) -> str | None:
        """The image that bears the name now."""
        with self._places.at(volume.place, credentials) as (_, pool), explained(f"looking up image {volume}"):
            return names.read_id(pool, volume.image)

    def origin(self, volume: VolumeId, credentials: Credentials | None) -> Origin | None:
        """The volume's image with its snapshots."""
        with self._places.at(volume.place, credentials) as (_, pool), explained(f"looking up image {volume}"):
            album = _album_of(pool, volume)
        if album is None:
            return None
        known = {each.name: album.find(volume.place, each.name) for each in album.users()}
        return Origin(volume, album.header.image_id, known, len(album.snapshots))

    def take(self, entry: Entry, credentials: Credentials | None) -> Snapshot:
        """Take and mark the snapshot."""
        with (
            self._places.enrolled(entry.volume.place, credentials) as room,
            explained(f"taking snapshot {entry.name} of image {entry.volume}"),
        ):
            if (made := _taken_unopened(room, entry)) is not None:
                return made
            for _ in range(_ROUNDS):
                taken, made = _taken_and_marked(room, entry)
                if not taken and not _is_marked_soon(room, entry):
                    snapshot_removal.take_away(room, entry.image_id, entry.id.snapshot)
                    continue
                made = made if taken else commit(room, entry)
                if made is not None:
                    return made
                snapshot_removal.finish(room, entry.image_id, entry.id.snapshot)  # a leftover: it is taken anew
        raise Unavailable(f"snapshot {entry.name} of {entry.volume} was taken away {_ROUNDS} times while it was made")

    def scrap(self, entry: Entry, credentials: Credentials | None) -> bool:
        """Take away what a killed process left of a snapshot, and its entry; False if it is whole, or was asked for again."""
        with self._places.enrolled(entry.volume.place, credentials) as room, explained(f"scrapping snapshot {entry.name}"):
            if not snapshot_removal.take_away(room, entry.image_id, entry.id.snapshot):
                return False
        with self._home(entry.volume.place.cluster, credentials) as room, explained(f"giving up snapshot {entry.name}"):
            return index.drop(room.pool, entry)

    def find(self, snapshot: SnapshotId, credentials: Credentials | None) -> Snapshot | None:
        """The snapshot, by its image's internal id."""
        place = snapshot.volume.place
        with self._places.at(place, credentials) as (_, pool), explained(f"looking up snapshot {snapshot}"):
            album = read_album(pool, snapshot.image_id)
        return album.find(place, snapshot.snapshot) if album is not None and _is_whole(album) else None

    def remove(self, snapshot: SnapshotId, permit: Callable[[Snapshot], None], credentials: Credentials | None) -> None:
        """Remove the snapshot, its entry and its mark."""
        place, name = snapshot.volume.place, snapshot.snapshot
        with self._places.enrolled(place, credentials) as room, explained(f"deleting snapshot {snapshot}"):
            album = read_album(room.pool, snapshot.image_id)
            mark = album.marks.get(name) if album is not None else None
            found = album.find(place, name) if album is not None else None
            if album is not None and found is not None and _is_whole(album):
                permit(found)
            lone = _number_without_clones(album, name) if found else None
            with snapshot_removal.removed(room, snapshot.image_id, name, surely=lone is None) if found else nullcontext():
                self._forget(snapshot, mark or SnapshotMark(name, snapshot.volume.image, snapshot.image_id, 0), credentials)
                clean = mark is None or _unmark(room, snapshot, lone)
            if not clean and lone is not None:  # whoever has the image locked did not know of the snapshot
                snapshot_removal.remove(room, snapshot.image_id, name)
                _unmark(room, snapshot)

    def of(self, volume: VolumeId, credentials: Credentials | None) -> list[Snapshot]:
        """The snapshots of the image that bears the name."""
        with self._places.at(volume.place, credentials) as (_, pool), explained(f"listing snapshots of {volume}"):
            album = _album_of(pool, volume)
            return [] if album is None else album.ours(volume.place)

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> SnapshotPage:
        """List our snapshots of a place: behind `<image id>` or `<image id>/<number>`, in order of both."""
        with self._places.at(place, credentials) as (_, pool), explained(f"listing snapshots of {place}"):
            found: list[Snapshot] = []
            for here, snapshot in _walk(pool, place, after):
                if snapshot is not None:
                    found.append(snapshot)
                if snapshot is None or len(found) == limit:
                    return SnapshotPage(found, here)
            return SnapshotPage(found, "")

    @contextmanager
    def _home(self, cluster: str, credentials: Credentials | None) -> Iterator[Room]:
        key = self._places.home_key(cluster, credentials)
        with self._places.enrolled(self._places.home(cluster), key) as room:
            yield room

    def _forget(self, snapshot: SnapshotId, mark: SnapshotMark, credentials: Credentials | None) -> None:
        cluster, name, place = snapshot.volume.place.cluster, mark.name, snapshot.volume.place
        with self._home(cluster, credentials) as room, explained(f"deleting the index entry of snapshot {name}"):
            # the mark tells what the entry was when the snapshot was taken: most likely it still is that
            if mark.stamp and index.drop(room.pool, _claim_of(place, mark)):
                return
            entry = index.read(room.pool, name)
            if entry and entry.is_of(place, snapshot.image_id):
                index.drop(room.pool, entry)


def commit(room: Room, entry: Entry, group: str = "", taken: Album | None = None, version: int | None = None) -> Snapshot | None:
    """Mark a snapshot that was just taken, the one in the header `taken` if that is told; None if it is a condemned leftover.

    With `version`, it was born condemned, and is pardoned; but None if the header is not of that version any more.
    NotFound, and no snapshot, if its volume was deleted meanwhile.
    """
    pool, name = room.pool, entry.id.snapshot
    album = taken or read_album(pool, entry.image_id)
    number = _number(taken, name)
    for _ in range(_ROUNDS):
        there = album.named(name) if album is not None else None
        if album is None or there is None:
            raise Unavailable(f"snapshot {entry.name} of {entry.volume} was taken away while it was made")
        if (mark := album.mark_of(there)) is not None:
            return snapshot_headers.as_snapshot(entry.volume.place, there, mark)
        if marks.DELETING in album.header.metadata:
            snapshot_removal.remove(room, entry.image_id, name)
            raise NotFound(f"volume {entry.volume}")
        before = snapshot_removal.if_not_condemned(album, there)
        if version is not None:
            before = snapshot_removal.sentence_of(entry.image_id, there.number, name)
        if number not in (None, there.number) or before is None:
            return None
        by, stamp = index.origin_of(entry)
        mark = SnapshotMark(entry.name, entry.volume.image, entry.image_id, there.number, group, entry.labels, by, stamp)
        told = {**snapshot_headers.mark_values(name, mark), **marks.turn()}
        stale = [key for key, value in before.items() if value]
        if headers.change_metadata(pool, entry.image_id, told, stale, {marks.DELETING: "", **before}, there.number, version):
            return snapshot_headers.as_snapshot(entry.volume.place, there, mark)
        if version is not None:
            return None
        album = read_album(pool, entry.image_id)
    raise Unavailable(f"image {entry.volume} kept changing while its snapshot {entry.name} was marked")


def _taken_unopened(room: Room, entry: Entry) -> Snapshot | None:
    """Take and mark it without opening the image; None, and it is not there, if librbd has to."""
    taken = unopened.take(room, entry.image_id, entry.id.snapshot)
    if taken is None:
        return None
    made = commit(room, entry, taken=taken.album, version=taken.version)
    if made is None:
        snapshot_removal.take_away(room, entry.image_id, entry.id.snapshot)
    return made


def _taken_and_marked(room: Room, entry: Entry) -> tuple[bool, Snapshot | None]:
    """Take the snapshot, tell whether it surely was, and mark it while librbd closes the image; None if it was condemned."""
    try:
        with opened(room.registry.instance, room.pool, entry.image_id) as image:
            taken = _create(room, image, entry)
            with closing(image):
                return taken is not None, commit(room, entry, taken=taken) if taken is not None else None
    except rbd.ImageNotFound:
        raise NotFound(f"volume {entry.volume}") from None


def _create(room: Room, image: rbd.Image, entry: Entry) -> Album | None:
    """Take the snapshot, and give the header that has it; None if one is there that may be another, or not whole.

    Clients that can stand still for it are asked to, if there are any. One that is there without our mark was left by an attempt
    whose end nobody saw: where Ceph did not answer librbd in time, that gave the number back and let it stand in the header, and
    the content that it should keep is lost. librbd may even find a leftover once it has the lock, and call it a success.

    librbd would read half the image anew to tell the number of the one that it took; but as long as none was condemned
    meanwhile, the one there is that one.
    """
    name, began = entry.id.snapshot, time.monotonic()
    alone, before = len(list(image.watchers_list())) <= 1, snapshot_removal.last(image)
    try:
        image.create_snap(name, rbd.RBD_SNAP_CREATE_SKIP_QUIESCE if alone else 0)
    except (rbd.ImageExists, rbd.ImageNotFound):  # one is there, or was taken away at once: an asker of the same is at it
        return None
    album = read_album(room.pool, entry.image_id)
    number = _number(album, name)
    if album is None or number is None or not snapshot_removal.is_same_since(before, album, name):
        return None
    in_time = album.header.features & rbd.RBD_FEATURE_OBJECT_MAP or time.monotonic() - began < room.registry.timeout
    return album if in_time and snapshot_headers.is_whole(room.pool, album, number) else None


def _number(album: Album | None, name: str) -> int | None:
    there = album.named(name) if album is not None else None
    return there.number if there is not None else None


def _is_marked_soon(room: Room, entry: Entry) -> bool:
    """Tell whether the snapshot is marked, as soon as whoever may just be at it has had the time."""
    deadline, pause = time.monotonic() + _MARKED_WITHIN, threading.Event()
    while True:
        album = read_album(room.pool, entry.image_id)
        there = album.named(entry.id.snapshot) if album is not None else None
        if album is None or there is None:
            return False
        if album.mark_of(there) is not None:
            return True
        if time.monotonic() > deadline or not room.registry.others_alive(room.pool):
            return False
        pause.wait(0.1)


def _number_without_clones(album: Album | None, name: str) -> int | None:
    """The snapshot's number if nothing stays of it when it is removed; Ceph keeps what clones need."""
    there = album.named(name) if album is not None else None
    return there.number if there is not None and not there.children else None


def _unmark(room: Room, snapshot: SnapshotId, gone: int | None = None) -> bool:
    """Take the mark away, with `gone` only if there is no snapshot of that number any more; tell whether it was done."""
    return headers.change_metadata(room.pool, snapshot.image_id, {}, [snapshot_headers.MARK + snapshot.snapshot], without=gone)


def _claim_of(place: Place, mark: SnapshotMark) -> Entry:
    """The index entry that the snapshot was taken under."""
    entry = Entry(mark.name, VolumeId(place, mark.volume), mark.image_id, mark.by)
    return replace(entry, raw=index.raw_of(entry, mark.stamp))


def _album_of(pool: rados.Ioctx, volume: VolumeId) -> Album | None:
    """The album of the image that bears the name, if that is a volume of ours, and the name its own."""
    image_id = names.read_id(pool, volume.image)
    album = read_album(pool, image_id) if image_id is not None else None
    if album is None or not _is_whole(album):
        return None
    return album if marks.volume_for(volume.place, album.header) == volume else None


def _is_whole(album: Album) -> bool:
    return marks.is_ours(album.header) and not marks.is_dying(album.header)


def _walk(pool: rados.Ioctx, place: Place, after: str) -> Iterator[tuple[str, Snapshot | None]]:
    """Our snapshots behind `after`, each with where to go on; None after so many images that the page must end."""
    begin, _, number = after.partition("/")
    if number.isdecimal():
        yield from _in_image(pool, place, begin, int(number))
    for looked_at, image in enumerate(_images(pool, begin), start=1):
        yield from _in_image(pool, place, image)
        if looked_at == _LOOKED_AT:
            yield image, None
            return


def _images(pool: rados.Ioctx, after: str) -> Iterator[str]:
    while page := names.page(pool, after, wire.PAGE):
        yield from page
        after = max(page)


def _in_image(pool: rados.Ioctx, place: Place, image_id: str, after: int = 0) -> Iterator[tuple[str, Snapshot]]:
    album = read_album(pool, image_id)
    if album is not None and _is_whole(album):
        for number, snapshot in album.numbered(place):
            if number > after:
                yield f"{image_id}/{number}", snapshot
