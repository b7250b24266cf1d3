"""Names and ids: pure functions, so that a request's name is its identity and nothing has to be remembered.

An image is named as the request, if that is a name an image and every id made from it can bear; else by a hash.
A volume id is `<cluster>/<pool>[/<rados namespace>]/<image>`: no part may hold `/` or `@`, so parsing has one answer.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.core.errors import InvalidRequest, NotFound

ID_BYTES = 128
"""The longest id that CSI carries (spec, "Size limits")."""

_SNAPSHOT_ROOM = 48
"""Bytes that `@<snapshot>.<image id>` may need behind a volume id."""

_LONGEST = 1024
"""Bytes of the longest text that is looked at as an id: well below what RADOS takes for an object's name."""

_LONGEST_NAME = 256
"""Bytes of a request's longest name."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PART = re.compile(r"[^/@\x00-\x1f\x7f\ud800-\udfff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
HASHED = "cp-"
"""Opens the image name of a request whose own name can't be one."""
RESERVED = (HASHED, "cp.")
"""Names with these prefixes are ours to give; a request that uses one is named by hash."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where images live: a cluster of the config file, a pool in it, a RADOS namespace in that ("" is the default one)."""

    cluster: str
    pool: str
    namespace: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.cluster, self.pool, self.namespace) if part)


@dataclass(frozen=True, slots=True)
class VolumeId:
    """One image by name: the handle that askers keep."""

    place: Place
    image: str

    def __str__(self) -> str:
        return f"{self.place}/{self.image}"

    @classmethod
    def parse(cls, text: str) -> "VolumeId":
        """Read an id back. Raises NotFound for text that can't name anything."""
        parts = text.split("/")
        readable = len(parts) in (3, 4) and all(_PART.fullmatch(part) for part in parts)
        if not readable or len(text.encode()) > _LONGEST:
            raise NotFound(f"volume {text!r}")
        cluster, pool, *namespace, image = parts
        return cls(Place(cluster, pool, *namespace), image)


@dataclass(frozen=True, slots=True)
class SnapshotId:
    """One snapshot: of the image with this internal id, which bore the name when the snapshot was taken.

    The internal id decides; the name counts only where no image has that id (after a fail-over to a mirror).
    """

    volume: VolumeId
    snapshot: str
    image_id: str

    def __str__(self) -> str:
        return f"{self.volume}@{self.snapshot}.{self.image_id}"

    @classmethod
    def parse(cls, text: str) -> "SnapshotId":
        """Read an id back. Raises NotFound for text that can't name anything."""
        volume, at, rest = text.partition("@")
        snapshot, dot, image_id = rest.rpartition(".")
        readable = at and dot and _PART.fullmatch(snapshot) and _PART.fullmatch(image_id)
        if not readable or len(text.encode()) > _LONGEST:
            raise NotFound(f"snapshot {text!r}")
        try:
            return cls(VolumeId.parse(volume), snapshot, image_id)
        except NotFound:
            raise NotFound(f"snapshot {text!r}") from None


@dataclass(frozen=True, slots=True)
class GroupId:
    """One group snapshot; `place` is where its record lies, not where its members are."""

    place: Place
    name: str

    def __str__(self) -> str:
        return f"{self.place}/@{self.name}"

    @classmethod
    def parse(cls, text: str) -> "GroupId":
        """Read an id back. Raises NotFound for text that can't name anything."""
        place, at, name = text.partition("/@")
        parts = place.split("/")
        readable = at and len(parts) in (2, 3) and all(_PART.fullmatch(part) for part in (*parts, name))
        if not readable or len(text.encode()) > _LONGEST:
            raise NotFound(f"group snapshot {text!r}")
        return cls(Place(*parts), name)


def check_place(place: Place) -> Place:
    """Return `place` if ids can be made from it. Raises InvalidRequest with the offending field."""
    for field, value in (
        ("clusterID", place.cluster),
        ("pool", place.pool),
        ("radosNamespace", place.namespace),
    ):
        if not _PART.fullmatch(value) and (value or field != "radosNamespace"):
            raise InvalidRequest(field, value, "must not be empty nor hold '/', '@' or control characters")
    if len(_id_bytes(place, HASHED + 32 * "x")) + _SNAPSHOT_ROOM > ID_BYTES:
        raise InvalidRequest("pool", place.pool, f"with cluster and namespace leaves no room in ids of {ID_BYTES} bytes")
    return place


def image_name(place: Place, request: str) -> str:
    """Name the image for a request's name: itself where it can be, else `cp-` and 32 hex digits of its hash."""
    return _name(request, 32, lambda name: len(_id_bytes(place, name)) + _SNAPSHOT_ROOM)


def snapshot_name(volume: VolumeId, image_id: str, request: str) -> str:
    """Name the RBD snapshot for a request's name: itself where it can be, else `cp-` and 26 hex digits of its hash."""
    return _name(request, 26, lambda name: len(str(SnapshotId(volume, name, image_id)).encode()))


def group_id(place: Place, request: str) -> GroupId:
    """Name the group snapshot for a request's name: itself where its id can bear it, else `cp-` and 32 hex digits of its hash."""
    return GroupId(place, _name(request, 32, lambda name: len(str(GroupId(place, name)).encode())))


def member_name(group: GroupId, volume: VolumeId) -> str:
    """Name the request for a member of a group snapshot, which no other one of the cluster has."""
    return f"{group.name}.{hashlib.sha256(str(volume).encode()).hexdigest()[:10]}"


def _name(request: str, digits: int, needs: Callable[[str], int]) -> str:
    """The request's own name, if it is plain and no id with it `needs` too many bytes; else so many digits of its hash."""
    _check_request(request)
    plain = _PLAIN.fullmatch(request) and not request.startswith(RESERVED)
    if plain and needs(request) <= ID_BYTES:
        return request
    return HASHED + hashlib.sha256(request.encode()).hexdigest()[:digits]


def _check_request(request: str) -> None:
    if not request:
        raise InvalidRequest("name", request, "must not be empty")
    if _SURROGATE.search(request):
        raise InvalidRequest("name", request, "is not valid Unicode")
    if len(request.encode()) > _LONGEST_NAME:
        raise InvalidRequest("name", request, f"is longer than {_LONGEST_NAME} bytes")


def _id_bytes(place: Place, image: str) -> bytes:
    return str(VolumeId(place, image)).encode()
