"""What the core needs of a store. `provisioner.ceph` has one; a test may have another.

Every method blocks, is bounded in time by the store, and raises errors of `provisioner.core.errors` only.
"""

from collections.abc import Callable
from typing import Protocol

from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import (
    Blueprint,
    Capacity,
    Credentials,
    Entry,
    Found,
    Grant,
    Origin,
    Page,
    Snapshot,
    SnapshotPage,
    Stranger,
    Volume,
    Wreck,
)
from provisioner.core.qos import Qos


class VolumeStore(Protocol):
    """Images under names. Credentials, where given, replace the cluster's own."""

    def find(self, volume: VolumeId, credentials: Credentials | None) -> Found:
        """Tell what the name holds now. Changes nothing."""

    def glance(self, volume: VolumeId, credentials: Credentials | None) -> Volume | None:
        """The volume, if the name leads to one that was made under it; None means: `find` out."""

    def make(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Make and mark the image; None if the name was taken meanwhile."""

    def clone(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Make the image with the content of the plan's source, whole or not at all; None if the name was taken meanwhile.

        NotFound for a source that isn't there, OutOfRange for a size below its own, Conflict while another does the same.
        """

    def adopt(self, stranger: Stranger, plan: Blueprint, credentials: Credentials | None) -> None:
        """Mark an unmarked image if it is exactly what `make` would have left; else AlreadyExists."""

    def condemn(self, stranger: Stranger, credentials: Credentials | None) -> None:
        """Mark an unmarked image as ours and dying, if nobody ever used it; else AlreadyExists."""

    def salvage(self, wreck: Wreck, credentials: Credentials | None) -> None:
        """Finish or undo what a killed operation left. Unavailable while its author may still be alive."""

    def resize(self, volume: Volume, size: int, credentials: Credentials | None) -> int:
        """Grow the image to `size` bytes; gives the bytes that it has, which may be more."""

    def throttle(self, volume: Volume, wanted: Qos, made_with: Qos, credentials: Credentials | None) -> bool:
        """Throttle the image so at its size, as one step; False if it was throttled otherwise meanwhile: look again."""

    def release(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take away the reservation of the volume's place in its home; gone already is fine."""

    def discard(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take the image off its name, at a cost that doesn't depend on its size; snapshots of it stay. InUse, HasDependants."""

    def mark_published(self, volume: Volume, credentials: Credentials | None) -> None:
        """Note on the image that it was handed out: from now on no sweep may take it."""

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        """List our volumes in order of internal id, at most `limit` names read at once."""

    def capacity(self, place: Place, data_pool: str, credentials: Credentials | None) -> Capacity:
        """Tell what can still be made there."""

    def alike(self, volume: Volume, credentials: Credentials | None) -> list[str]:
        """Internal ids that a user's rights could not tell from the volume's: it must not be granted a user then."""

    def grant(self, volume: Volume, credentials: Credentials | None) -> Grant:
        """Give a user that opens this volume and no other; the same one each time."""

    def revoke(self, volume: VolumeId, user: str, credentials: Credentials | None) -> None:
        """Take a granted user away; gone already is fine, a name that isn't ours to give is InvalidRequest."""

    def withdraw(self, volume: Volume, credentials: Credentials | None) -> None:
        """Take away the user that `grant` gives for this volume, whether or not it was given."""

    def attend(self, place: Place, credentials: Credentials | None) -> None:
        """Take up the background work of a place: purging what was deleted there, fencing dead predecessors."""

    def monitors(self, cluster: str, credentials: Credentials | None) -> list[str]:
        """Addresses for a kernel client, as "host:port"."""


class SnapshotStore(Protocol):
    """Snapshots of images, and the index that keeps their names unique in a cluster."""

    def entry(self, cluster: str, name: str, credentials: Credentials | None) -> Entry | None:
        """What the index says of the name."""

    def claim(self, entry: Entry, over: Entry | None, credentials: Credentials | None) -> Entry | None:
        """Set the name's entry in place of `over`; gives it as kept, None if another is there meanwhile."""

    def unclaim(self, entry: Entry, credentials: Credentials | None) -> None:
        """Take the entry away, if it is still the same."""

    def is_stale(self, entry: Entry, credentials: Credentials | None) -> bool:
        """Tell that nobody can be making what the entry stands for: its image or its author is gone."""

    def scrap(self, entry: Entry, credentials: Credentials | None) -> bool:
        """Take away what was left of a stale entry's snapshot, and the entry; False if it is whole, or another's by now."""

    def image_id(self, volume: VolumeId, credentials: Credentials | None) -> str | None:
        """The image that bears the name now."""

    def origin(self, volume: VolumeId, credentials: Credentials | None) -> Origin | None:
        """The volume's image with its snapshots; None if there is no such volume of ours."""

    def take(self, entry: Entry, credentials: Credentials | None) -> Snapshot:
        """Take and mark the snapshot that the claimed entry stands for; one that is there already is marked."""

    def find(self, snapshot: SnapshotId, credentials: Credentials | None) -> Snapshot | None:
        """The snapshot, by its image's internal id."""

    def remove(self, snapshot: SnapshotId, permit: Callable[[Snapshot], None], credentials: Credentials | None) -> None:
        """Remove the snapshot, its entry and its mark; clones of it live on. Gone already is fine.

        `permit` is told of one that is there and whole, and raises if it has to stay.
        """

    def of(self, volume: VolumeId, credentials: Credentials | None) -> list[Snapshot]:
        """The snapshots of the image that bears the name, oldest first."""

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> SnapshotPage:
        """List our snapshots of a place in order of image and age."""
