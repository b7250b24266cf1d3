"""What may be done with snapshots: the use cases that every front end calls.

A snapshot's name is unique in its cluster, whatever it is of, so the index is asked and claimed first; the image is the
truth. Each use case is safe to repeat, to interrupt and to race.
"""

from provisioner.core.errors import AlreadyExists, Conflict, InvalidRequest, LimitReached, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import Place, SnapshotId, VolumeId
from provisioner.core.model import Credentials, Entry, Origin, Snapshot, SnapshotPage, SnapshotRequest
from provisioner.core.ports import SnapshotStore
from provisioner.core.recent import Recent
from provisioner.core.single_flight import SingleFlight

MOST = 450
"""Snapshots on one image: krbd can't map an image with more than 510 (facts of its snapshot context)."""

_ROUNDS = 5


class Snapshots:
    """The use cases over one store."""

    def __init__(self, store: SnapshotStore, flights: SingleFlight | None = None) -> None:
        self._store = store
        self._flights = flights or SingleFlight()
        self._recent = Recent()

    def create(self, request: SnapshotRequest) -> Snapshot:
        """Take the snapshot, or give the one that an equal request took before.

        Raises NotFound (no such volume), AlreadyExists (the name is another volume's), LimitReached, InvalidRequest,
        Conflict, OutOfSpace, Denied, Unavailable.
        """
        name = _flight(request.source.place, request.name)
        return self._flights.run("snapshot", name, (request.source, request.credentials), lambda: self._create(request, name))

    def get(self, snapshot: SnapshotId, credentials: Credentials | None = None) -> Snapshot:
        """Give the snapshot. Raises NotFound."""
        found = self._store.find(snapshot, credentials)
        if found is None:
            raise NotFound(f"snapshot {snapshot}")
        return found

    def named(self, place: Place, name: str, credentials: Credentials | None = None) -> Snapshot | None:
        """The snapshot that was taken for a request of that name, of a volume of the place."""
        entry = self._store.entry(place.cluster, name, credentials)
        return self._store.find(entry.id, credentials) if entry is not None and entry.volume.place == place else None

    def delete(self, snapshot: SnapshotId, credentials: Credentials | None = None) -> None:
        """Take the snapshot away; gone already is success. Volumes that were made from it live on.

        Raises InvalidRequest for a member of a group snapshot, which goes with its group.
        """
        remove = self._store.remove
        self._flights.run("delete snapshot", str(snapshot), credentials, lambda: remove(snapshot, _alone, credentials))

    def of(self, volume: VolumeId, credentials: Credentials | None = None) -> list[Snapshot]:
        """The snapshots of the volume, oldest first; none for a volume that isn't there."""
        return self._store.of(volume, credentials)

    def page(self, place: Place, after: str, limit: int, credentials: Credentials | None = None) -> SnapshotPage:
        """A part of the place's snapshots, those of deleted volumes included; at most `limit`, perhaps fewer."""
        return self._store.page(place, after, limit, credentials)

    def _create(self, request: SnapshotRequest, flight: str) -> Snapshot:
        # a name that is new to this process is most likely new to Ceph: claiming it at once spares the look
        entry = None if self._recent.is_new(flight) else self._entry(request)
        for _ in range(_ROUNDS):
            if entry is not None and (found := self._store.find(entry.id, request.credentials)) is not None:
                return self._same_as_asked(found, request)
            origin = self._store.origin(request.source, request.credentials)
            if origin is None:
                return self._taken_before(request, entry or self._entry(request))
            wanted = Entry(request.name, request.source, origin.image_id, labels=request.labels)
            if entry is None and wanted.id.snapshot in origin.snapshots:
                entry = self._entry(request)
            self._check(request, wanted, entry, origin)
            if entry is not None and entry.image_id != wanted.image_id:  # what it left there would be a stranger without it
                self._store.scrap(entry, request.credentials)
                entry = self._entry(request)
                continue
            if (claim := self._store.claim(wanted, entry, request.credentials)) is not None:
                return self._take(claim, request.credentials)
            entry = self._entry(request)
        raise Unavailable(f"snapshot {request.name} kept changing under {_ROUNDS} attempts")

    def _entry(self, request: SnapshotRequest) -> Entry | None:
        return self._store.entry(request.source.place.cluster, request.name, request.credentials)

    def _taken_before(self, request: SnapshotRequest, entry: Entry | None) -> Snapshot:
        """The snapshot of a volume that was deleted since; there may be one though the name was new to this process."""
        found = self._store.find(entry.id, request.credentials) if entry is not None else None
        if found is None:
            raise NotFound(f"volume {request.source}")
        return self._same_as_asked(found, request)

    def _take(self, claim: Entry, credentials: Credentials | None) -> Snapshot:
        try:
            return self._store.take(claim, credentials)
        except Unavailable:  # the outcome is unknown: the claim stands for what may be there
            raise
        except ProvisionerError:
            self._store.unclaim(claim, credentials)
            raise

    def _check(self, request: SnapshotRequest, wanted: Entry, entry: Entry | None, origin: Origin) -> None:
        """Refuse what can't be taken, before anything is made."""
        name, ours = wanted.id.snapshot, entry is not None and entry.image_id == wanted.image_id
        if entry is not None and not ours and not self._store.is_stale(entry, request.credentials):
            raise Conflict(f"snapshot {request.name}", f"it is being taken of volume {entry.volume}")
        if name not in origin.snapshots and origin.count >= MOST:
            raise LimitReached(f"volume {origin.volume} has {origin.count} snapshots", MOST)
        if name in origin.snapshots and origin.snapshots[name] is None and not ours:
            raise AlreadyExists(f"snapshot {name} of volume {origin.volume}", ["it was made by somebody else"])

    def _same_as_asked(self, found: Snapshot, request: SnapshotRequest) -> Snapshot:
        """Give `found` if it is of the volume asked for: not of another, nor of one that bore the name before."""
        if found.id.volume != request.source:
            raise AlreadyExists(f"snapshot {request.name}", [f"it is of volume {found.id.volume}"])
        now = self._store.image_id(request.source, request.credentials)
        if now not in (None, found.id.image_id):
            raise AlreadyExists(f"snapshot {request.name}", [f"it is of a volume {request.source} that was deleted since"])
        return found


def _alone(found: Snapshot) -> None:
    if found.group:
        raise InvalidRequest("snapshot_id", found.id, f"is a part of group snapshot {found.group}: delete that")


def _flight(place: Place, name: str) -> str:
    return f"{place.cluster}/@{name}"
