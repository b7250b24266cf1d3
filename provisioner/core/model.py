"""The values that front ends and stores exchange with the core. Sizes are bytes; everything is frozen."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provisioner.core.errors import InvalidRequest, OutOfRange
from provisioner.core.ids import Place, SnapshotId, VolumeId, snapshot_name
from provisioner.core.qos import NO_QOS, NO_THROTTLE, Qos, Throttle

MIB = 1 << 20
LARGEST = (1 << 50) - MIB
"""The largest image, in bytes: above a PiB object maps, file systems and the kernel's own limits give out one by one."""


def now() -> str:
    """The time as `Volume.created` tells it: RFC 3339, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A cephx user (without `client.`) and its key. The key never shows in a repr, a log or an error."""

    user: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.user:
            raise InvalidRequest("userID", "", "must not be empty")
        if not self.key:  # librados would look for a key of the host's own
            raise InvalidRequest("userKey", "", "must not be empty")


@dataclass(frozen=True, slots=True)
class SizeRange:
    """What the asker needs: at least `required` bytes and, unless 0, at most `limit` bytes."""

    required: int
    limit: int = 0

    def choose(self) -> int:
        """Give the size to make: `required` rounded up to MiB. Raises OutOfRange where none fits."""
        if self.required <= 0:
            raise OutOfRange("size", self.required, "must be at least 1 byte")
        if self.limit < 0 or 0 < self.limit < self.required:
            raise OutOfRange("limit", self.limit, f"must not be below the size asked for, {self.required} bytes")
        size = -(-self.required // MIB) * MIB
        if size > LARGEST:
            raise OutOfRange("size", self.required, f"the largest image is {LARGEST} bytes")
        if self.limit and size > self.limit:
            raise OutOfRange("size", self.required, f"rounded up to MiB is over the limit of {self.limit} bytes")
        return size

    def admits(self, size: int) -> bool:
        """Tell whether an image of `size` bytes satisfies the asker."""
        return size >= self.required and (not self.limit or size <= self.limit)


FEATURES = ("layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten")
"""Image features that can be asked for: all that the kernel maps. `journaling` it does not."""
_MAPPED = 256_000_000
"""Objects that an object map has room for."""
_NEEDS = {"object-map": "exclusive-lock", "fast-diff": "object-map"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image is laid out in RADOS; zero and "" mean the cluster's default. Units: bytes."""

    features: frozenset[str] = frozenset(FEATURES)
    data_pool: str = ""
    object_size: int = 0
    stripe_unit: int = 0
    stripe_count: int = 0

    def __post_init__(self) -> None:
        self._check_features()
        self._check_striping()

    def _check_features(self) -> None:
        shown = ",".join(sorted(self.features))
        for feature in sorted(self.features):
            if feature == "journaling":
                raise InvalidRequest("imageFeatures", shown, "the kernel can't map an image with journaling")
            if feature not in FEATURES:
                raise InvalidRequest("imageFeatures", shown, f"unknown feature {feature}; known: {', '.join(FEATURES)}")
            if feature in _NEEDS and _NEEDS[feature] not in self.features:
                raise InvalidRequest("imageFeatures", shown, f"{feature} needs {_NEEDS[feature]}")

    def _check_striping(self) -> None:
        size = self.object_size
        if size and (size & (size - 1) or not 4096 <= size <= 32 * MIB):
            raise InvalidRequest("objectSize", size, "must be a power of two between 4096 and 33554432 bytes")
        if bool(self.stripe_unit) != bool(self.stripe_count):
            raise InvalidRequest("stripeUnit", self.stripe_unit, "stripeUnit and stripeCount go together")
        if self.stripe_unit and (self.stripe_unit < 512 or (size or 4 * MIB) % self.stripe_unit):
            raise InvalidRequest("stripeUnit", self.stripe_unit, "must divide objectSize and be 512 bytes or more")
        if not 0 <= self.stripe_count <= 1024:
            raise InvalidRequest("stripeCount", self.stripe_count, "must be between 1 and 1024")

    def check_size(self, size: int) -> None:
        """Raise OutOfRange for a size, in bytes, that an image of this layout can't have."""
        largest = (self.object_size or 4 * MIB) * _MAPPED
        if "object-map" in self.features and size > largest:
            raise OutOfRange("size", size, f"with object-map and this objectSize, the largest image is {largest} bytes")

    def described(self) -> dict[str, str]:
        """Words for comparing and keeping: what was asked for, the defaults left out."""
        told = {
            "imageFeatures": ",".join(sorted(self.features)),
            "dataPool": self.data_pool,
            "objectSize": str(self.object_size or ""),
            "stripeUnit": str(self.stripe_unit or ""),
            "stripeCount": str(self.stripe_count or ""),
        }
        return {key: value for key, value in told.items() if value or key == "imageFeatures"}


Source = SnapshotId | VolumeId
"""What a volume's first content is taken from."""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """One volume to be made, once. `labels` describe it to people and sweeps; they are not part of its identity."""

    name: str
    place: Place
    size: SizeRange
    layout: Layout = Layout()
    labels: Mapping[str, str] = field(default_factory=dict)
    credentials: Credentials | None = None
    source: Source | None = None
    """Content to begin with; an empty volume without it. Part of the volume's identity."""
    home: Place | None = None
    """Where the choice of `place` is reserved, for a class with several pools (see `choices`)."""
    qos: Qos = NO_QOS
    """How fast it may be. Not part of its identity, since it may be changed at any time: of two creates, the last one's word."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A checked request: what the store has to make, and how it knows it again."""

    id: VolumeId
    name: str
    size: int
    layout: Layout
    labels: Mapping[str, str]
    qos: Qos = NO_QOS
    source: Source | None = None
    home: Place | None = None

    @property
    def asked(self) -> dict[str, str]:
        """Words for comparing and keeping: the layout, and where the content comes from."""
        return self.layout.described() | ({"source": str(self.source)} if self.source else {})


@dataclass(frozen=True, slots=True)
class Volume:
    """An image that is ours and complete. `image_id` is Ceph's internal id: it tells a re-made name from its predecessor."""

    id: VolumeId
    image_id: str
    name: str
    size: int
    asked: Mapping[str, str]
    labels: Mapping[str, str]
    created: str
    published: bool = False
    throttle: Throttle = NO_THROTTLE
    nodes: Sequence[str] = ()
    """The nodes that it is attached to."""
    home: Place | None = None

    @property
    def data_pool(self) -> str:
        """The pool of the data objects, "" if it is the image's own."""
        asked = self.asked.get("dataPool", "")
        return "" if asked == self.id.place.pool else asked


@dataclass(frozen=True, slots=True)
class Stranger:
    """An image under the name that bears no mark of ours: made by hand, or by a create that died before its mark."""

    id: VolumeId
    image_id: str


@dataclass(frozen=True, slots=True)
class Wreck:
    """Pieces that a killed create, move to the trash or delete left under the name; `dying` when a delete was meant."""

    id: VolumeId
    image_id: str
    dying: bool


Found = Volume | Stranger | Wreck | None
"""What a store finds under a name."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `after` continues it and is "" at the end."""

    volumes: Sequence[Volume]
    after: str

    @property
    def items(self) -> Sequence[Volume]:
        """What every kind of page has."""
        return self.volumes


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """One snapshot to be taken, once: `name` is unique among all snapshots of a cluster, whatever their volumes."""

    name: str
    source: VolumeId
    credentials: Credentials | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)
    """For people and front ends; not part of its identity."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that is there and whole. `size` is the volume's, in bytes, when it was taken; `created` seconds since 1970."""

    id: SnapshotId
    name: str
    size: int
    created: float
    group: str = ""
    """The group snapshot that it is a part of."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A part of a listing; `after` continues it and is "" at the end."""

    snapshots: Sequence[Snapshot]
    after: str

    @property
    def items(self) -> Sequence[Snapshot]:
        """What every kind of page has."""
        return self.snapshots


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of a snapshot's name: the volume and the image it is taken of, the client that asked last."""

    name: str
    volume: VolumeId
    image_id: str
    by: int = 0
    raw: str = field(default="", repr=False)
    """The entry as it is kept, for comparing."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)
    """What the snapshot is to be labelled with; the index does not keep it."""

    @property
    def id(self) -> SnapshotId:
        """The snapshot that the entry stands for, which may not be there yet, or any more."""
        return SnapshotId(self.volume, snapshot_name(self.volume, self.image_id, self.name), self.image_id)

    def is_of(self, place: Place, image_id: str) -> bool:
        """Tell whether it is of the image, whatever the name that this bore."""
        return (self.volume.place, self.image_id) == (place, image_id)


@dataclass(frozen=True, slots=True)
class Origin:
    """An image that a snapshot can be taken of: `snapshots` has those by name, None for one that isn't ours (yet)."""

    volume: VolumeId
    image_id: str
    snapshots: Mapping[str, Snapshot | None]
    count: int
    """How many the image carries, those included that only clones keep."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a pool can still give, in bytes: the pool's own estimate, capped by its quota."""

    available: int
    largest: int = LARGEST
    stored: int = 0
    """Bytes that the pool holds already, replicas not counted."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client needs to map a volume: where, and a key that opens it and nothing else."""

    monitors: Sequence[str]
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Opening:
    """An image as a client opens it: where, with which key, and what it is now. `size` in bytes."""

    volume: VolumeId
    fsid: str
    image_id: str
    size: int
    monitors: Sequence[str]
    credentials: Credentials
