"""The VolumeRuntime's calls for snapshots, in terms of the core's use cases.

A snapshot's name is the uid of the Kubernetes VolumeSnapshot, and its id, too. Poollets have asked for volumes and snapshots by
their Kubernetes names instead of our ids; where an id leads nowhere, the name is tried.
"""

import uuid
from collections.abc import Iterator, Mapping

from provisioner.core.errors import AlreadyExists, InvalidRequest, NotFound
from provisioner.core.ids import Place
from provisioner.core.model import Snapshot, SnapshotRequest
from provisioner.core.snapshots import Snapshots
from provisioner.iri import metadata
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb

UID = "volumepoollet.ironcore.dev/volume-snapshot-uid"
"""The label that is a snapshot's identity."""
NAME = "volumepoollet.ironcore.dev/volume-snapshot-name"
NAMESPACE = "volumepoollet.ironcore.dev/volume-snapshot-namespace"
VOLUME_NAME = "volumepoollet.ironcore.dev/volume-name"
VOLUME_NAMESPACE = "volumepoollet.ironcore.dev/volume-namespace"

_KIND = "snapshot"
_PAGE = 500


def request_for(asked: pb.VolumeSnapshot) -> tuple[str, dict[str, str]]:
    """The name and the labels of a snapshot to be taken. Raises InvalidRequest with the field at fault."""
    if asked.metadata.id:
        raise InvalidRequest("volume_snapshot.metadata.id", asked.metadata.id, "must be empty: the runtime gives it")
    kept = metadata.kept_labels("volume_snapshot.metadata", asked.metadata, _KIND)
    return asked.metadata.labels.get(UID) or str(uuid.uuid4()), kept


def told(found: Snapshot) -> pb.VolumeSnapshot:
    """Tell of a snapshot: it is ready as soon as it is there."""
    return pb.VolumeSnapshot(
        metadata=about(found),
        spec=pb.VolumeSnapshotSpec(volume_id=found.id.volume.image),
        status=pb.VolumeSnapshotStatus(state=pb.VOLUME_SNAPSHOT_READY, size=found.size),
    )


def about(found: Snapshot) -> ObjectMetadata:
    """The metadata of a snapshot."""
    named = metadata.object_metadata(found.name, found.labels, "")
    named.created_at = int(found.created * 1_000_000_000)
    return named


class Shots:
    """The snapshots of one place that were taken through this door."""

    def __init__(self, snapshots: Snapshots, place: Place) -> None:
        self._snapshots, self._place = snapshots, place

    def take(self, request: SnapshotRequest) -> Snapshot:
        """Take a snapshot, once per name."""
        made = self._snapshots.create(request)
        if not _is_ours(made):
            raise AlreadyExists(f"snapshot {request.name}", ["it was not made through the runtime interface"])
        return made

    def named(self, name: str) -> Snapshot | None:
        """The snapshot of that name, if it is of this place and door."""
        found = self._snapshots.named(self._place, name) if name else None
        return found if found is not None and _is_ours(found) else None

    def delete(self, name: str) -> Snapshot:
        """Take a snapshot away; gives what it was. Raises NotFound."""
        found = self.named(name)
        if found is None:
            raise NotFound(f"snapshot {name!r}")
        self._snapshots.delete(found.id)
        return found

    def matching(self, wanted: pb.VolumeSnapshotFilter) -> list[Snapshot]:
        """The snapshots that bear the id and all the labels."""
        one = wanted.id or wanted.label_selector.get(UID, "")
        found = [hit] if one and (hit := self.named(one)) else [] if one else self._all()
        return [each for each in found if metadata.matches(each.labels, wanted.label_selector)]

    def source(self, given: str, labels: Mapping[str, str]) -> Snapshot:
        """The snapshot that a volume with these labels names as its source: by id, or by name in its own namespace.

        Raises NotFound, and InvalidRequest for a name that two snapshots bear.
        """
        if (found := self.named(given)) is not None:
            return found
        namespace = labels.get(VOLUME_NAMESPACE, "")
        selector = {NAME: given, NAMESPACE: namespace}
        hits = [each for each in self._all() if namespace and metadata.matches(each.labels, selector)]
        if not hits:
            raise NotFound(f"snapshot {given!r}")
        if len(hits) > 1:
            field = "volume.spec.volume_data_source.snapshot_data_source.snapshot_id"
            raise InvalidRequest(field, given, f"{len(hits)} snapshots bear this name")
        return hits[0]

    def _all(self) -> Iterator[Snapshot]:
        after = ""
        while True:
            page = self._snapshots.page(self._place, after, _PAGE)
            yield from (each for each in page.snapshots if _is_ours(each))
            if not (after := page.after):
                return


def _is_ours(found: Snapshot) -> bool:
    return found.labels.get(metadata.CLASS) == _KIND
