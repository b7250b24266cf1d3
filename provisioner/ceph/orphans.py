"""The sweep: headers and object maps that no name, no entry in the trash and no image leads to.

Only librbd knew their ids, so they can be found by looking at the names of all of a place's objects alone. That is done when
`suspects` says that there may be some, after a stall or a death; in steps, and a sixth of the time at most.

What goes: an object map without a header, a header that holds no image, and one of an image that a client on that list began to
make, which bears no metadata, no snapshot, no parent and no data. An image is listed before its header is made, and until its
header is gone; so what is on no list is nobody's, not even work under way.
"""

import contextlib
import errno
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import rados

from provisioner.ceph import headers, names, suspects, wire
from provisioner.ceph.errors import errno_of, explained
from provisioner.ceph.places import Room
from provisioner.ceph.registry import PROCESSES
from provisioner.ceph.salvage import Sightings
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.ids import Place

log = logging.getLogger(__name__)

MayGoOn = Callable[[], bool]
"""Waits between two steps; False ends the walk."""
LOCK = "sweep"
_PAGE = 500
_LOOKS = 20
"""Times that the directory may change while it is compared with the trash."""
_HEADER, _MAP = "rbd_header", "rbd_object_map"
_CHANGED = (errno.ENOENT, errno.EINVAL, errno.ERANGE, errno.EOVERFLOW)
"""What asserting a version of an object says that changed since, or is gone."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one walk did: objects removed."""

    removed: int = 0
    skipped: bool = False


class Sweeper:
    """Looks through one place after the other; remembers since when it knows of a suspect, and when it may look again."""

    def __init__(self, settled: float = 10.0, rest: float = 5.0) -> None:
        """A suspect is looked for `settled` seconds after it was first seen: what it has in flight arrives before.

        After a sweep there is none for `rest` times as long as it took.
        """
        self._settled, self._rest = settled, rest
        self._sightings = Sightings()
        self._rested: dict[Place, float] = {}

    def walk(self, room: Room, place: Place, may_go_on: MayGoOn) -> Sweep:
        """Look through the place if there are suspects. `may_go_on` waits between two steps, False ends the walk."""
        if time.monotonic() < self._rested.get(place, 0.0):
            return Sweep(skipped=True)
        with explained(f"sweeping {place}"):
            if not self._due(room.pool):
                return Sweep()
            with room.registry.turn(room.pool, LOCK) as turn:
                if turn is None:
                    return Sweep(skipped=True)
                began, renew = time.monotonic(), turn.renew
                try:
                    return _swept(room, self._due(room.pool), lambda: may_go_on() and renew())
                finally:
                    now = time.monotonic()
                    self._rested[place] = now + self._rest * (now - began)

    def _due(self, pool: rados.Ioctx) -> dict[int, str]:
        noted = suspects.noted(pool).items()
        return {key: raw for key, raw in noted if self._sightings.since((key, raw)) + self._settled <= time.monotonic()}


def _swept(room: Room, due: Mapping[int, str], may_go_on: MayGoOn) -> Sweep:
    """The suspects stay on their list if not everything was seen."""
    listing, removed = _Listing(room.pool, min(room.registry.timeout / 2, 2.0)), 0
    for page in listing.pages():
        removed += sum(_remove(room, image_id, page[image_id], due) for image_id in _unlisted(room.pool, page))
        if not may_go_on():
            return Sweep(removed)
    if listing.whole:
        for instance, entry in due.items():
            suspects.clear(room.pool, instance, entry)
    return Sweep(removed)


class _Listing:
    """The headers and object maps of a place.

    A listing that Ceph does not answer in time, or does not allow, ends without a word.
    """

    def __init__(self, pool: rados.Ioctx, promptly: float) -> None:
        self._pool, self._promptly = pool, promptly
        self._prompt, self._begun = True, False

    @property
    def whole(self) -> bool:
        """Tell, after the last page, that it had all: never slow, as in a stall, and with an object that surely is there."""
        return self._prompt and self._begun

    def pages(self) -> Iterator[dict[str, list[str]]]:
        """Objects by the image's id. Pages are of as many objects as were looked at, of whatever kind."""
        page, asked = defaultdict[str, list[str]](list), time.monotonic()
        for number, each in enumerate(self._pool.list_objects(), 1):
            self._note(asked)
            self._begun = self._begun or each.key == PROCESSES
            kind, _, rest = each.key.partition(".")
            if kind in (_HEADER, _MAP):
                page[rest.partition(".")[0]].append(each.key)
            if number % _PAGE == 0:
                yield page
                page = defaultdict(list)
            asked = time.monotonic()
        self._note(asked)
        yield page

    def _note(self, asked: float) -> None:
        self._prompt = self._prompt and time.monotonic() - asked < self._promptly


def _unlisted(pool: rados.Ioctx, image_ids: Collection[str]) -> set[str]:
    """Those that neither the directory nor the trash lists. Raises Unavailable where that can't be told.

    The directory has to be the same before and after the look into the trash: what is moved to and fro would be missed in
    both. One that is lost says nothing of any image: it is made before the first header is.
    """
    keys = {f"id_{each}" for each in image_ids}
    for _ in range(_LOOKS if keys else 0):
        keys -= wire.omap_values(pool, names.DIRECTORY, *keys).keys()
        version = pool.get_last_version()
        for listed in (names.TRASH, names.DIRECTORY):
            if not keys:
                return set()
            keys -= wire.omap_values(pool, listed, *keys).keys()
        if version and version == pool.get_last_version():
            return {key.removeprefix("id_") for key in keys}
    if keys:
        raise Unavailable(f"{names.DIRECTORY} is lost, or changes all the time")
    return set()


def _remove(room: Room, image_id: str, objects: Collection[str], makers: Collection[int]) -> int:
    """Remove what of these objects of an unlisted image is nobody's; how many."""
    pool, obj = room.pool, headers.header_object(image_id)
    header = headers.read_fields(pool, image_id)
    version = pool.get_last_version()
    if header is not None and not _is_torso(room, header, makers):
        return 0
    going = [each for each in objects if each != obj]
    if obj in objects:
        if not _removed_as_seen(pool, obj, version):
            return 0
        log.warning("%s was on no list, and is removed: Ceph did not answer its create in time", obj)
    for each in going:
        with contextlib.suppress(rados.ObjectNotFound):  # an image that was removed meanwhile
            pool.remove_object(each)
            log.warning("%s had no image, and is removed", each)
    return len(objects)


def _is_torso(room: Room, header: headers.Header, makers: Collection[int]) -> bool:
    """Tell that the image was never more than begun, by one of these clients.

    An id can seem to be of a client whose number begins another's: so nothing that bears metadata, or that was written to
    from its beginning on, is taken for one.
    """
    if header.parent is not None or header.snap_seq or not any(names.is_made_by(header.image_id, maker) for maker in makers):
        return False
    return not headers.has_metadata(room.pool, header.image_id) and not _is_written(room, header)


def _is_written(room: Room, header: headers.Header) -> bool:
    """Tell whether the first object of the image's data is there; also if there is no such pool to look into any more."""
    first = f"{header.image_id}.{0:016x}"
    try:
        if header.data_pool_id == headers.NO_DATA_POOL:
            room.pool.stat(f"rbd_data.{first}")
        else:
            with room.connection.pool_by_id(header.data_pool_id, room.pool.get_namespace()) as data:
                data.stat(f"rbd_data.{room.pool.get_pool_id()}.{first}")
    except rados.ObjectNotFound:
        return False
    except NotFound:
        return True
    return True


def _removed_as_seen(pool: rados.Ioctx, obj: str, version: int) -> bool:
    with rados.WriteOpCtx() as operation:
        operation.assert_version(version)
        operation.remove()
        try:
            pool.operate_write_op(operation, obj, flags=wire.FULL_FORCE)
        except rados.Error as error:
            if errno_of(error) in _CHANGED:
                return False
            raise
    return True
