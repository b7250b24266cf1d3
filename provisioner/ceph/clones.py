"""Volumes with content: clones of a snapshot, built under a reserved name and renamed when nothing is missing any more.

librbd's clone is five steps, copies the parent's metadata and links parent and child last. So the image is built as
`cp.new.<hash of the request>` under a RADOS lock, and whatever a killed builder left there is scrapped and made again: a
half-linked child never becomes a volume. Marks are the last thing built; then the final name is claimed by its id object.
A volume is cloned from a snapshot that lives for a moment, which Ceph keeps as long as the clone needs it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import rados
import rbd

from provisioner.ceph import ancestry, flatten, headers, images, marks, moulds, names, qos, snapshot_removal, wire
from provisioner.ceph.ancestry import Ancestor
from provisioner.ceph.headers import Header, Parent
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.places import Room
from provisioner.ceph.snapshot_headers import STEP, Album, RbdSnapshot, is_whole, read_album
from provisioner.core.errors import Conflict, InvalidRequest, LimitReached, NotFound, OutOfRange, Unavailable
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Blueprint, Source, Volume
from provisioner.core.snapshots import MOST

BUILDS = "ceph-provisioner.builds"
"""The list, in the source's place, of volumes being cloned: the hash that names the step to the image it is of."""
_INHERITED = (marks.PREFIX, "conf_rbd_")
_PATIENCE = 10.0
"""Seconds to wait for another process that builds the same."""
_CALLS = 20
"""RADOS calls that the longest step of a build makes, each bounded by the connection's timeout."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build: what is made where, and of what. `home` is the room of the target, `origin` that of the source."""

    plan: Blueprint
    source: Source
    home: Room
    origin: Room
    parent_id: str
    ancestors: Sequence[Ancestor]

    @property
    def key(self) -> str:
        """The same for the same request, and for no other."""
        request = f"{self.plan.id}\n{self.source}\n{self.parent_id}"
        return hashlib.sha256(request.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The reserved name that it is built under."""
        return names.NEW + self.key

    @property
    def step(self) -> str:
        """The snapshot that a volume is cloned from."""
        return STEP + self.key


def make(plan: Blueprint, source: Source, home: Room, origin: Room) -> Volume | None:
    """Build the volume that the plan asks for; None if its name was taken meanwhile.

    Raises NotFound for a source that isn't there, OutOfRange for a size below the source's, Conflict while another builds.
    """
    album = source_album(origin.pool, source)
    if isinstance(source, VolumeId) and len(album.snapshots) >= MOST:
        raise LimitReached(f"volume {source} has {len(album.snapshots)} snapshots, those that clones keep included", MOST)
    chain = _ancestors(origin, source, album)
    build = Build(plan, source, home, origin, album.header.image_id, chain)
    with home.registry.alone(home.pool, lock_of(build.name), str(plan.id), _CALLS * home.registry.timeout, _PATIENCE):
        if names.read_id(home.pool, plan.id.image) is not None:
            return None
        scrap(home.pool, plan.id.place, build.name)
        made = _published(build, *_built(build))
    if made is not None and len(chain) > ancestry.DEEP:
        _keep_short(build, album, made)
    return made


@dataclass(frozen=True, slots=True)
class Note:
    """A volume being cloned: the image that bears the momentary snapshot, the client that took it."""

    image_id: str = ""
    by: int = 0


def note_of(raw: bytes) -> Note:
    """Read an entry of the list; what was garbled by hand is nobody's."""
    try:
        return msgspec.json.decode(raw, type=Note)
    except msgspec.DecodeError:
        return Note()


def lock_of(name: str) -> str:
    """The lock of whoever builds under the reserved name."""
    return f"build.{name.removeprefix(names.NEW)}"


def _ancestors(origin: Room, source: Source, album: Album) -> list[Ancestor]:
    """Whom the clone will read through, nearest first. Conflict where the kernel could not follow them."""
    header, pool = album.header, origin.pool
    older = ancestry.ancestors(origin.connection, header, of_snapshots=isinstance(source, SnapshotId))
    if len(older) >= ancestry.DEEPEST:
        flatten.ask(pool, header.image_id, str(source))
        work = flatten.asked(pool, header.image_id)
        raise Conflict(str(source), f"it is a clone {len(older)} times over; {work or 'flattened by now'}")
    parent = ancestry.themselves(origin.connection, header, pool.get_pool_id(), place_of(source).namespace)
    return [parent, *older]


def _keep_short(build: Build, source: Album, made: Volume) -> None:
    """Have the source flattened, or the clone, where flattening the source would leave its snapshots as they are."""
    if source.header.features & rbd.RBD_FEATURE_DEEP_FLATTEN:
        flatten.ask(build.origin.pool, source.header.image_id, str(build.source))
    else:
        flatten.ask(build.home.pool, made.image_id, str(made.id))


def place_of(source: Source) -> Place:
    """Where the content comes from."""
    return source.volume.place if isinstance(source, SnapshotId) else source.place


def source_album(pool: rados.Ioctx, source: Source) -> Album:
    """The header of the image that the content comes from. Raises NotFound unless it is whole, ours, and has the snapshot."""
    if isinstance(source, SnapshotId):
        album = read_album(pool, source.image_id)
        found = album is not None and album.find(source.volume.place, source.snapshot) is not None
        if album is None or not found or marks.is_dying(album.header):
            raise NotFound(f"snapshot {source}")
        return album
    volume = images.glance(pool, source)
    album = read_album(pool, volume.image_id) if volume is not None else None
    if album is None:
        raise NotFound(f"volume {source}")
    return album


def scrap(pool: rados.Ioctx, place: Place, name: str) -> None:
    """Take what lies under a reserved name to the trash; nothing there is fine. For whoever holds the build's lock.

    What got as far as to claim its final name is finished instead. Raises Unavailable if it changes meanwhile: then it has
    another builder.
    """
    image_id = names.read_id(pool, name) or names.listed_id(pool, name)
    if image_id is None:
        return
    header = marks.read_header(pool, image_id)
    if header is None:
        moulds.undo(pool, name, image_id)
        return
    final = _volume_for(place, header)
    if final is not None and names.read_id(pool, final.image) == image_id:
        finish(pool, final, image_id)
        return
    before = {marks.TURN: header.metadata.get(marks.TURN, "")}
    if not headers.change_metadata(pool, image_id, marks.marks_of_death(name, image_id), expected=before):
        raise Unavailable(f"image {name} changed while it was scrapped")
    names.move_to_trash(pool, name, image_id)


def finish(pool: rados.Ioctx, volume: VolumeId, image_id: str) -> bool:
    """Finish the renaming of an image that holds its final name, but is listed under the reserved one; False if it does not."""
    header, listed = marks.read_header(pool, image_id), names.listed_name(pool, image_id)
    if header is None or listed is None or not claims(pool, volume, image_id) or names.listed_id(pool, volume.image):
        return False
    return _keep(pool, image_id, header.metadata.get(marks.TURN, "")) and names.rename(pool, listed, volume.image, image_id)


def claims(pool: rados.Ioctx, volume: VolumeId, image_id: str) -> bool:
    """Tell whether a whole image under a reserved name has taken the volume's name for its own."""
    header, listed = marks.read_header(pool, image_id), names.listed_name(pool, image_id)
    if header is None or listed is None or not listed.startswith(names.NEW):
        return False
    return _volume_for(volume.place, header) == volume and names.read_id(pool, volume.image) == image_id


def _keep(pool: rados.Ioctx, image_id: str, turn: str) -> bool:
    """Have whoever was about to scrap the image notice that it claimed its name; False if it is scrapped already."""
    return headers.change_metadata(pool, image_id, marks.turn(), expected={marks.TURN: turn, marks.DELETING: ""})


def _volume_for(place: Place, header: Header) -> VolumeId | None:
    """What a whole image was built to be; None while it isn't whole."""
    whole = marks.is_ours(header) and not marks.is_leaving(header)
    return marks.volume_for(place, header) if whole else None


def _built(build: Build) -> tuple[str, dict[str, str]]:
    """Clone, grow and mark; gives the image's id and marks."""
    with _snapshot(build) as (album, snapshot):
        if build.plan.size < snapshot.size:
            raise OutOfRange("size", build.plan.size, f"{build.source} has {snapshot.size} bytes")
        image_id = _clone(build, album, snapshot)
    pool = build.home.pool
    child = read_album(pool, image_id)
    namespace = place_of(build.source).namespace
    wanted = Parent(build.origin.pool.get_pool_id(), namespace, album.header.image_id, snapshot.number)
    if child is None or child.header.parent != wanted:
        raise Unavailable(f"{build.source} changed while it was cloned")
    if child.header.size < build.plan.size:
        with opened(build.home.registry.instance, pool, image_id) as image:
            image.resize(build.plan.size, False)
    return image_id, _mark(build, child.header)


@contextmanager
def _snapshot(build: Build) -> Iterator[tuple[Album, RbdSnapshot]]:
    """The snapshot to clone from, with its image's header."""
    if isinstance(build.source, VolumeId):
        with _momentary(build) as taken:
            yield taken
        return
    album = source_album(build.origin.pool, build.source)
    snapshot = album.named(build.source.snapshot)
    if snapshot is None:
        raise NotFound(f"snapshot {build.source}")
    yield album, snapshot


@contextmanager
def _momentary(build: Build) -> Iterator[tuple[Album, RbdSnapshot]]:
    """A snapshot of the source volume for the block; on a list, so that one that a killed builder left is found."""
    pool = build.origin.pool
    note = json.dumps({"image_id": build.parent_id, "by": build.origin.connection.instance})  # ASCII, as comparisons need
    wire.omap_set(pool, BUILDS, build.key, note)
    with opened(build.origin.registry.instance, pool, build.parent_id) as image:
        snapshot_removal.remove_from(pool, image, build.parent_id, build.step)
        image.create_snap(build.step)
        try:
            album = read_album(pool, build.parent_id)
            snapshot = next((each for each in album.steps() if each.name == build.step), None) if album else None
            # librbd calls it a success, too, if it meets what a killed builder's last words in flight have left
            if album is None or snapshot is None or not is_whole(pool, album, snapshot.number):
                raise Unavailable(f"{build.source} changed while it was cloned")
            yield album, snapshot
        finally:
            snapshot_removal.remove_from(pool, image, build.parent_id, build.step)
            wire.omap_drop(pool, BUILDS, build.key, note)


def _clone(build: Build, album: Album, snapshot: RbdSnapshot) -> str:
    layout, pool = build.plan.layout, build.home.pool
    try:
        rbd.RBD().clone(
            build.origin.pool,
            _name_of(build.origin.pool, album.header.image_id),
            snapshot.name,
            pool,
            build.name,
            features=images.features_of(layout),
            order=images.order_of(layout) or None,
            stripe_unit=layout.stripe_unit or None,
            stripe_count=layout.stripe_count or None,
            data_pool=layout.data_pool or None,
        )
    except rbd.ImageExists:
        raise Conflict(str(build.plan.id), "another process builds it") from None
    except rbd.InvalidArgument as error:
        raise images.unfit_data_pool(layout, error) from error
    except rbd.ImageNotFound as error:
        source_album(build.origin.pool, build.source)
        if layout.data_pool:
            raise InvalidRequest("dataPool", layout.data_pool, "the cluster has no such pool") from error
        raise Unavailable(f"{build.source} was renamed while it was cloned") from error
    image_id = names.read_id(pool, build.name)
    if image_id is None or not names.is_made_by(image_id, build.home.connection.instance):
        raise Conflict(str(build.plan.id), "another process builds it")
    return image_id


def _name_of(pool: rados.Ioctx, image_id: str) -> str:
    """The name that librbd finds a parent by: the directory's, whatever a rename has come to."""
    listed = names.listed_name(pool, image_id)
    if listed is None:
        raise Unavailable(f"image {image_id} is being renamed")
    return listed


def _mark(build: Build, child: Header) -> dict[str, str]:
    """Write our marks in place of those that the clone inherited, in one step."""
    told = marks.marks_for(build.plan, child.image_id) | marks.turn() | ancestry.told(child.image_id, build.ancestors)
    inherited = [key for key in child.metadata if key.startswith(_INHERITED) and key not in told]
    before = {key: child.metadata.get(key, "") for key in (marks.TURN, marks.DELETING)}
    if not headers.change_metadata(build.home.pool, child.image_id, told, inherited, before):
        raise Unavailable(f"image {build.name} was taken for abandoned while it was built")
    return told


def _published(build: Build, image_id: str, told: dict[str, str]) -> Volume | None:
    """Claim the final name, then move there. None if it was taken by something else."""
    pool, name, plan = build.home.pool, build.plan.id.image, build.plan
    if not names.write_id(pool, name, image_id):
        scrap(pool, plan.id.place, build.name)
        return None
    if not _keep(pool, image_id, told[marks.TURN]):
        raise Unavailable(f"image {build.name} was taken for abandoned while it was built")
    try:
        names.rename(pool, build.name, name, image_id)
    except rados.ObjectExists:
        raise Unavailable(f"image {plan.id} is being made by another process of ours") from None
    throttle = qos.read(told, image_id)
    return Volume(plan.id, image_id, plan.name, plan.size, plan.asked, dict(plan.labels), told[marks.CREATED], throttle=throttle)
