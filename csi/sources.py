"""Where a new volume's content comes from: a snapshot, another volume, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from csi import convert
from csi.pb import csi_pb2
from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.ids import SnapshotId, VolumeId
from provisioner.core.model import Credentials, Source
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request names as its source: its size in bytes, 0 if it isn't there (any more), which `missing` says then."""

    source: Source | None = None
    size: int = 0
    missing: NotFound | None = None

    @contextmanager
    def told_missing(self) -> Iterator[None]:
        """Have a source in a cluster or pool that there isn't told as missing, not as a fault of the class."""
        try:
            yield
        except InvalidRequest as error:
            if self.missing is not None and error.field in ("clusterID", "pool", "source"):
                raise self.missing from error
            raise


def look_up(request: csi_pb2.CreateVolumeRequest, volumes: Volumes, snapshots: Snapshots) -> Origin:
    """Read and find the source. It may be gone since the volume was made: whoever asks again is still told of the volume."""
    if not request.HasField("volume_content_source"):
        return Origin()
    credentials = convert.credentials(request.secrets)
    source = _read(request.volume_content_source)
    try:
        return Origin(source, _size(source, credentials, volumes, snapshots))
    except NotFound as error:
        return Origin(source, 0, error)


def _read(given: csi_pb2.VolumeContentSource) -> Source:
    kind = given.WhichOneof("type")
    if kind == "snapshot":
        return SnapshotId.parse(_named(given.snapshot.snapshot_id, "snapshot_id"))
    if kind == "volume":
        return VolumeId.parse(_named(given.volume.volume_id, "volume_id"))
    raise InvalidRequest("volume_content_source", "", "must be a snapshot or a volume")


def _named(text: str, field: str) -> str:
    if not text:
        raise InvalidRequest(f"volume_content_source.{field}", "", "must not be empty")
    return text


def _size(source: Source, credentials: Credentials | None, volumes: Volumes, snapshots: Snapshots) -> int:
    if isinstance(source, SnapshotId):
        with convert.found_snapshot(str(source)):
            return snapshots.get(source, credentials).size
    with convert.found_volume(str(source)):
        return volumes.get(source, credentials).size
