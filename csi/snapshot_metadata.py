"""The SnapshotMetadata service: which bytes a snapshot holds, or which changed since an earlier one, as a stream."""

from collections.abc import Iterator

from csi import convert
from csi.pb import csi_pb2, csi_pb2_grpc
from provisioner.core.changes import Batch, Changes
from provisioner.core.errors import InvalidRequest
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

LONGEST = 1024
"""Runs in the longest message."""


class SnapshotMetadata(csi_pb2_grpc.SnapshotMetadataServicer):
    """Streams that a caller may take up again at any byte."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def GetMetadataAllocated(
        self, request: csi_pb2.GetMetadataAllocatedRequest, context: Context
    ) -> Iterator[csi_pb2.GetMetadataAllocatedResponse]:
        """What was ever written of a snapshot."""
        most, credentials = _most(request.max_results), convert.credentials(request.secrets)
        with convert.found_snapshot(request.snapshot_id, "snapshot_id") as snapshot:
            for batch in self._changes.allocated(snapshot, request.starting_offset, most, credentials):
                yield csi_pb2.GetMetadataAllocatedResponse(
                    block_metadata_type=csi_pb2.VARIABLE_LENGTH,
                    volume_capacity_bytes=batch.size,
                    block_metadata=_runs(batch),
                )

    def GetMetadataDelta(
        self, request: csi_pb2.GetMetadataDeltaRequest, context: Context
    ) -> Iterator[csi_pb2.GetMetadataDeltaResponse]:
        """What differs between two snapshots of one volume."""
        most, credentials = _most(request.max_results), convert.credentials(request.secrets)
        with (
            convert.found_snapshot(request.base_snapshot_id, "base_snapshot_id") as base,
            convert.found_snapshot(request.target_snapshot_id, "target_snapshot_id") as target,
        ):
            for batch in self._changes.changed(base, target, request.starting_offset, most, credentials):
                yield csi_pb2.GetMetadataDeltaResponse(
                    block_metadata_type=csi_pb2.VARIABLE_LENGTH,
                    volume_capacity_bytes=batch.size,
                    block_metadata=_runs(batch),
                )


def _most(asked: int) -> int:
    if asked < 0:
        raise InvalidRequest("max_results", asked, "must not be negative")
    return min(asked or LONGEST, LONGEST)


def _runs(batch: Batch) -> list[csi_pb2.BlockMetadata]:
    return [csi_pb2.BlockMetadata(byte_offset=run.offset, size_bytes=run.length) for run in batch.runs]
