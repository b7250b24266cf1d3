"""The door of the Cinder store: each step of the core, on the right cloud, with its errors in the core's words."""

from collections.abc import Iterator

from provisioner.cinder import connecting, lifecycle, records
from provisioner.cinder.api import Api, Clouds
from provisioner.cinder.errors import Unanswered
from provisioner.cinder.records import GIB, Record
from provisioner.core.connections import Connection
from provisioner.core.errors import AlreadyExists, Denied, InUse, NotFound, ProvisionerError, Unsupported
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Capacity, Credentials, Found, Grant, Page, Stranger, Volume, Wreck
from provisioner.core.qos import Qos


class CinderStore:
    """Implements `core.ports.VolumeStore` and `core.connections.Connector`. A place is a cloud and the one pool in it."""

    def __init__(self, clouds: Clouds) -> None:
        self._clouds = clouds

    def find(self, volume: VolumeId, credentials: Credentials | None) -> Found:
        """Tell what the name holds; of several volumes, first those that must go."""
        return _found(volume, records.named(self._at(volume.place), volume.image))

    def glance(self, volume: VolumeId, credentials: Credentials | None) -> Volume | None:
        """The volume, if the name leads to exactly one."""
        found = self.find(volume, credentials)
        return found if isinstance(found, Volume) else None

    def make(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Make the volume; None if there was something under the name."""
        api = self._at(plan.id.place)
        if records.named(api, plan.id.image):
            return None
        found = _found(plan.id, lifecycle.make(api, plan))
        return found if isinstance(found, Volume) else None

    def clone(self, plan: Blueprint, credentials: Credentials | None) -> Volume | None:
        """Have Cinder make the volume of the source's content; it is there when it is whole. None if the name was taken."""
        return self.make(plan, credentials)

    def adopt(self, stranger: Stranger, plan: Blueprint, credentials: Credentials | None) -> None:
        """Never asked for: a volume without our mark is not found at all."""
        raise AlreadyExists(str(stranger.id), ["it bears no mark of ours"])

    def condemn(self, stranger: Stranger, credentials: Credentials | None) -> None:
        """Never asked for, as `adopt`."""
        raise AlreadyExists(str(stranger.id), ["it bears no mark of ours"])

    def salvage(self, wreck: Wreck, credentials: Credentials | None) -> None:
        """Wait for a volume that is being made; remove one that failed, or that is one too many."""
        api = self._at(wreck.id.place)
        if wreck.dying:
            lifecycle.remove(api, wreck.image_id)
        else:
            lifecycle.settle(api, wreck.id.image, wreck.image_id)

    def resize(self, volume: Volume, size: int, credentials: Credentials | None) -> int:
        """Grow the volume to `size` bytes, rounded up to GiB; gives the bytes that it has."""
        return lifecycle.extend(self._at(volume.id.place), volume.image_id, size)

    def throttle(self, volume: Volume, wanted: Qos, made_with: Qos, credentials: Credentials | None) -> bool:
        """The volume type says how fast a Cinder volume may be."""
        if wanted:
            raise Unsupported(f"{volume.id}: how fast a Cinder volume may be is said by its volume type")
        return True

    def release(self, volume: Volume, credentials: Credentials | None) -> None:
        """Nothing is ever reserved: a volume type is one place."""

    def discard(self, volume: Volume, credentials: Credentials | None) -> None:
        """Disconnect and delete the volume."""
        lifecycle.remove(self._at(volume.id.place), volume.image_id)

    def connect(self, volume: Volume) -> Connection:
        """Export the volume; a refusal undoes what was done, and takes away the volume that nobody was ever told of."""
        api = self._at(volume.id.place)
        try:
            return connecting.connect(api, volume.image_id)
        except (Unanswered, InUse, NotFound):
            raise
        except ProvisionerError:
            if not volume.published:
                self._abandon(api, volume)
            raise

    def disconnect(self, volume: VolumeId) -> None:
        """Take the export back, and leave the volume."""
        api = self._at(volume.place)
        for record in records.named(api, volume.image):
            connecting.disconnect(api, record)

    def mark_published(self, volume: Volume, credentials: Credentials | None) -> None:
        """The attachment is the mark."""

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        """List our volumes, oldest first."""
        found = records.ours(self._at(place), after, limit)
        volumes = [records.volume(place.cluster, record) for record in found if record["status"] not in records.DYING]
        return Page(volumes, found[-1]["id"] if len(found) == limit else "")

    def capacity(self, place: Place, data_pool: str, credentials: Credentials | None) -> Capacity:
        """What the project's quota leaves and, if we may know it, what the backends have."""
        api = self._at(place)
        limits = api.get("/limits", "reading limits")["limits"]["absolute"]
        free = list(self._backends(api))
        if (quota := limits["maxTotalVolumeGigabytes"]) >= 0:
            free.append(max(quota - limits["totalGigabytesUsed"], 0))
        return Capacity(available=int(min(free, default=0) * GIB))

    def alike(self, volume: Volume, credentials: Credentials | None) -> list[str]:
        """None: no user is made for a volume here."""
        return []

    def grant(self, volume: Volume, credentials: Credentials | None) -> Grant:
        """A Cinder volume is reached through its connection."""
        raise Unsupported(f"{volume.id}: a Cinder volume has a connection, and no user of its own")

    def revoke(self, volume: VolumeId, user: str, credentials: Credentials | None) -> None:
        """Nothing was granted."""

    def withdraw(self, volume: Volume, credentials: Credentials | None) -> None:
        """Nothing was granted; `discard` ends the connection."""

    def attend(self, place: Place, credentials: Credentials | None) -> None:
        """There is no background work: Cinder does its own."""

    def monitors(self, cluster: str, credentials: Credentials | None) -> list[str]:
        """The connection of each volume tells where it is."""
        raise Unsupported(f"cloud {cluster!r} tells no monitors: they stand in the connections of its volumes")

    def _at(self, place: Place) -> Api:
        return self._clouds.api(place.cluster)

    def _abandon(self, api: Api, volume: Volume) -> None:
        try:
            lifecycle.remove_unconnected(api, volume.image_id)
        except ProvisionerError as error:
            connecting.log.warning("undoing the making of %s: %s", volume.id, error)

    def _backends(self, api: Api) -> Iterator[float]:
        """Free GiB of all backends together; only an administrator may know it."""
        try:
            pools = api.get("/scheduler-stats/get_pools", "reading pools", detail=True)["pools"]
        except Denied:
            return
        yield sum(_number(pool["capabilities"].get("free_capacity_gb")) for pool in pools)


def _found(volume: VolumeId, listed: list[Record]) -> Found:
    """What the volumes of one name come to."""
    if not listed:
        return None
    first, *surplus = listed
    if surplus:
        return Wreck(volume, surplus[0]["id"], dying=True)
    if records.is_wreck(first) or first["status"] in records.UNDER_WAY:
        return Wreck(volume, first["id"], dying=records.is_wreck(first))
    return records.volume(volume.place.cluster, first)


def _number(said: object) -> float:
    """Backends may say `unknown` or `infinite`."""
    return float(said) if isinstance(said, int | float) else float(1 << 20)
