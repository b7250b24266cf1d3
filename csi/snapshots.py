"""Snapshots over CSI: taken, listed, told of and taken away, each in terms of one use case of the core."""

import logging
from collections.abc import Callable, Collection, Mapping

from csi import convert
from csi.listing import Listing, after_in
from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Snapshot, SnapshotRequest
from provisioner.core.snapshots import Snapshots
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

_Rpc = csi_pb2.ControllerServiceCapability.RPC

CAPABILITIES = (_Rpc.CREATE_DELETE_SNAPSHOT, _Rpc.LIST_SNAPSHOTS, _Rpc.GET_SNAPSHOT)

_REFUSED = {
    "snapshotNamePrefix": "a snapshot is named as the request, so that a repeated one finds it",
    "pool": "a snapshot lies on the image that it is of",
}


class Snapshotting(csi_pb2_grpc.ControllerServicer):
    """The Controller's calls on snapshots."""

    _snapshots: Snapshots
    _snapshot_listing: Listing[Snapshot]
    _clusters: Callable[[], Collection[str]]

    def serve_snapshots(self, snapshots: Snapshots, listing: Listing[Snapshot]) -> None:
        """Use these; once, before the first call."""
        self._snapshots, self._snapshot_listing = snapshots, listing

    def CreateSnapshot(self, request: csi_pb2.CreateSnapshotRequest, context: Context) -> csi_pb2.CreateSnapshotResponse:
        """Take a snapshot, once per name. It is ready when this returns."""
        if not request.name:
            raise InvalidRequest("name", "", "must not be empty")
        with convert.found_volume(request.source_volume_id, "source_volume_id") as source:
            check_parameters(request.parameters, source, self._clusters())
            taken = self._snapshots.create(SnapshotRequest(request.name, source, convert.credentials(request.secrets)))
        return csi_pb2.CreateSnapshotResponse(snapshot=told(taken))

    def DeleteSnapshot(self, request: csi_pb2.DeleteSnapshotRequest, context: Context) -> csi_pb2.DeleteSnapshotResponse:
        """Take a snapshot away; an id that names nothing is gone already. Volumes made from it live on."""
        credentials = convert.credentials(request.secrets)
        try:
            with convert.found_snapshot(request.snapshot_id) as snapshot:
                self._snapshots.delete(snapshot, credentials)
        except NotFound as error:
            log.info("nothing to delete: %s", error)
        return csi_pb2.DeleteSnapshotResponse()

    def GetSnapshot(self, request: csi_pb2.GetSnapshotRequest, context: Context) -> csi_pb2.GetSnapshotResponse:
        """A snapshot as Ceph has it now."""
        found = self._snapshot(request.snapshot_id, convert.credentials(request.secrets))
        return csi_pb2.GetSnapshotResponse(snapshot=told(found))

    def ListSnapshots(self, request: csi_pb2.ListSnapshotsRequest, context: Context) -> csi_pb2.ListSnapshotsResponse:
        """Every snapshot of ours, or those of one volume, or one."""
        if request.max_entries < 0:
            raise InvalidRequest("max_entries", request.max_entries, "must not be negative")
        credentials = convert.credentials(request.secrets)
        if request.snapshot_id:
            found, token = self._one(request, credentials), ""
        elif request.source_volume_id:
            found, token = after_in(self._of(request, credentials), _age, request.starting_token, request.max_entries)
        else:
            found, token = self._snapshot_listing.page(request.starting_token, request.max_entries, credentials)
        entries = [csi_pb2.ListSnapshotsResponse.Entry(snapshot=told(each)) for each in found]
        return csi_pb2.ListSnapshotsResponse(entries=entries, next_token=token)

    def _snapshot(self, snapshot_id: str, credentials: Credentials | None) -> Snapshot:
        with convert.found_snapshot(snapshot_id) as snapshot:
            return self._snapshots.get(snapshot, credentials)

    def _one(self, request: csi_pb2.ListSnapshotsRequest, credentials: Credentials | None) -> list[Snapshot]:
        try:
            found = self._snapshot(request.snapshot_id, credentials)
        except NotFound:
            return []
        return [found] if request.source_volume_id in ("", str(found.id.volume)) else []

    def _of(self, request: csi_pb2.ListSnapshotsRequest, credentials: Credentials | None) -> list[Snapshot]:
        try:
            with convert.found_volume(request.source_volume_id, "source_volume_id") as volume:
                return self._snapshots.of(volume, credentials)
        except NotFound:
            return []


def check_parameters(given: Mapping[str, str], source: VolumeId, clusters: Collection[str]) -> None:
    """Check a VolumeSnapshotClass' parameters. Raises InvalidRequest naming the parameter."""
    for name, value in given.items():
        if name.startswith(convert.METADATA):
            continue
        if name != "clusterID":
            why = _REFUSED.get(name, "unknown parameter; known: clusterID")
            raise InvalidRequest(f"parameters.{name}", value, why)
        if value != source.place.cluster:
            known = ", ".join(sorted(clusters))
            raise InvalidRequest("parameters.clusterID", value, f"the volume is in {source.place.cluster}; known: {known}")


def told(found: Snapshot) -> csi_pb2.Snapshot:
    """A snapshot in CSI's words."""
    made = csi_pb2.Snapshot(
        size_bytes=found.size,
        snapshot_id=str(found.id),
        source_volume_id=str(found.id.volume),
        ready_to_use=True,
        group_snapshot_id=found.group,
    )
    made.creation_time.FromNanoseconds(round(found.created * 1e9))
    return made


def _age(snapshot: Snapshot) -> tuple[float, str]:
    return (snapshot.created, str(snapshot.id))
