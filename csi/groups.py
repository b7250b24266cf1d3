"""The GroupController service: snapshots of several volumes at one moment."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from csi import convert
from csi.pb import csi_pb2, csi_pb2_grpc
from csi.snapshots import check_parameters, told
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.groups import Group, GroupRequest, Groups
from provisioner.core.ids import GroupId, SnapshotId, VolumeId
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

_Rpc = csi_pb2.GroupControllerServiceCapability.RPC

CAPABILITIES = (csi_pb2.GroupControllerServiceCapability(rpc=_Rpc(type=_Rpc.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT)),)


class GroupController(csi_pb2_grpc.GroupControllerServicer):
    """Group snapshots over CSI."""

    def __init__(self, groups: Groups, clusters: Callable[[], Collection[str]]) -> None:
        self._groups, self._clusters = groups, clusters

    def GroupControllerGetCapabilities(
        self, request: csi_pb2.GroupControllerGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.GroupControllerGetCapabilitiesResponse:
        """What works."""
        return csi_pb2.GroupControllerGetCapabilitiesResponse(capabilities=CAPABILITIES)

    def CreateVolumeGroupSnapshot(
        self, request: csi_pb2.CreateVolumeGroupSnapshotRequest, context: Context
    ) -> csi_pb2.CreateVolumeGroupSnapshotResponse:
        """Take a snapshot of each volume, all at one moment, once per name."""
        if not request.name:
            raise InvalidRequest("name", "", "must not be empty")
        credentials = convert.credentials(request.secrets)
        with _found_volumes(request.source_volume_ids) as sources:
            for source in sources:
                if source.place.cluster not in self._clusters():
                    raise NotFound(f"volume {source}")
                check_parameters(request.parameters, source, self._clusters())
            taken = self._groups.create(GroupRequest(request.name, sources, credentials))
        return csi_pb2.CreateVolumeGroupSnapshotResponse(group_snapshot=_told(taken))

    def GetVolumeGroupSnapshot(
        self, request: csi_pb2.GetVolumeGroupSnapshotRequest, context: Context
    ) -> csi_pb2.GetVolumeGroupSnapshotResponse:
        """A group snapshot as Ceph has it now."""
        credentials = convert.credentials(request.secrets)
        with convert.found_group(request.group_snapshot_id) as group:
            found = self._groups.get(group, _members(group, request.snapshot_ids), credentials)
        return csi_pb2.GetVolumeGroupSnapshotResponse(group_snapshot=_told(found))

    def DeleteVolumeGroupSnapshot(
        self, request: csi_pb2.DeleteVolumeGroupSnapshotRequest, context: Context
    ) -> csi_pb2.DeleteVolumeGroupSnapshotResponse:
        """Take a group snapshot and its members away; an id that names nothing is gone already."""
        credentials = convert.credentials(request.secrets)
        try:
            with convert.found_group(request.group_snapshot_id) as group:
                self._groups.delete(group, _members(group, request.snapshot_ids), credentials)
        except NotFound as error:
            log.info("nothing to delete: %s", error)
        return csi_pb2.DeleteVolumeGroupSnapshotResponse()


@contextmanager
def _found_volumes(ids: Sequence[str]) -> Iterator[list[VolumeId]]:
    with ExitStack() as each:
        yield [each.enter_context(convert.found_volume(text, "source_volume_ids")) for text in ids]


def _members(group: GroupId, ids: Sequence[str]) -> list[SnapshotId]:
    """Read the members that the asker remembers; text that can't be one's is no member."""
    try:
        return [SnapshotId.parse(text) for text in ids]
    except NotFound as error:
        raise InvalidRequest("snapshot_ids", ", ".join(ids), f"{error}, and is no member of group snapshot {group}") from None


def _told(group: Group) -> csi_pb2.VolumeGroupSnapshot:
    made = csi_pb2.VolumeGroupSnapshot(
        group_snapshot_id=str(group.id), snapshots=[told(each) for each in group.snapshots], ready_to_use=True
    )
    made.creation_time.FromNanoseconds(round(group.created * 1e9))
    return made
