"""The volume runtime on a socket, with a client beside it that asks as volumepoollet does."""

import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import rados
import rbd

from provisioner.ceph.cluster import Clusters
from provisioner.ceph.content import CephContent
from provisioner.ceph.event_log import EventLog
from provisioner.ceph.places import Places
from provisioner.ceph.snapshots import CephSnapshots
from provisioner.ceph.store import CephStore
from provisioner.core.ids import Place
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.iri.base_images import BaseImages, Parts
from provisioner.iri.classes import ClassFile, Limits, read_volume_classes
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from provisioner.iri.pb.volume.v1alpha1 import api_pb2_grpc
from provisioner.iri.serve import EVENTS, serve_volumes
from provisioner.iri.volumes import Backend, Shelf
from provisioner.oci import Registries
from provisioner.rpc.server import Listen, Server
from tests.harness.ceph import Ceph
from tests.harness.program import PROGRAM
from tests.harness.store import at_work

MIB, GIB = 1 << 20, 1 << 30
LABEL = "volumepoollet.ironcore.dev/volume-"
SNAPSHOT = "volumepoollet.ironcore.dev/volume-snapshot-"
CLASSES = [
    {"name": "fast", "capabilities": {"tps": 262144000, "iops": 15000}},
    {"name": "slow", "capabilities": {"tps": 1048576, "iops": 100}, "parameters": {"imageFeatures": "layering"}},
    {"name": "plain", "capabilities": {"tps": 0, "iops": 0}},
]


class Poollet:
    """A client that asks as volumepoollet does; its calls wait 30 seconds."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint, [("grpc.max_reconnect_backoff_ms", 200)])
        self.stub = api_pb2_grpc.VolumeRuntimeStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def create(self, uid: str = "", size: int = GIB, class_name: str = "fast") -> pb.Volume:
        request = pb.CreateVolumeRequest(volume=volume(uid or new_uid(), size, class_name))
        return self.stub.CreateVolume(request, timeout=30).volume

    def create_from_image(self, uid: str, reference: str, architecture: str = "", size: int = GIB) -> pb.Volume:
        asked = volume(uid, size, "plain")
        asked.spec.volume_data_source.image_data_source.image = reference
        asked.spec.volume_data_source.image_data_source.architecture = architecture
        return self.stub.CreateVolume(pb.CreateVolumeRequest(volume=asked), timeout=30).volume

    def restore(self, uid: str, snapshot_id: str, size: int = GIB) -> pb.Volume:
        asked = volume(uid, size, "plain")
        asked.spec.volume_data_source.snapshot_data_source.snapshot_id = snapshot_id
        return self.stub.CreateVolume(pb.CreateVolumeRequest(volume=asked), timeout=30).volume

    def by_uid(self, uid: str) -> list[pb.Volume]:
        return self.listed(label_selector={f"{LABEL}uid": uid})

    def listed(self, **wanted: object) -> list[pb.Volume]:
        request = pb.ListVolumesRequest(filter=pb.VolumeFilter(**wanted)) if wanted else pb.ListVolumesRequest()
        return list(self.stub.ListVolumes(request, timeout=60).volumes)

    def expand(self, volume_id: str, size: int) -> None:
        resources = pb.VolumeResources(storage_bytes=size)
        self.stub.ExpandVolume(pb.ExpandVolumeRequest(volume_id=volume_id, resources=resources), timeout=30)

    def delete(self, volume_id: str) -> None:
        self.stub.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume_id), timeout=30)

    def snap(self, uid: str, volume_id: str, **labels: str) -> pb.VolumeSnapshot:
        asked = pb.VolumeSnapshot(spec=pb.VolumeSnapshotSpec(volume_id=volume_id))
        named = {f"{SNAPSHOT}uid": uid, f"{SNAPSHOT}namespace": "shop", f"{SNAPSHOT}name": f"of-{uid[:8]}", **labels}
        for key, value in named.items():
            asked.metadata.labels[key] = value
        request = pb.CreateVolumeSnapshotRequest(volume_snapshot=asked)
        return self.stub.CreateVolumeSnapshot(request, timeout=30).volume_snapshot

    def drop(self, snapshot_id: str) -> None:
        self.stub.DeleteVolumeSnapshot(pb.DeleteVolumeSnapshotRequest(volume_snapshot_id=snapshot_id), timeout=30)

    def shots(self, **wanted: object) -> list[pb.VolumeSnapshot]:
        request = pb.ListVolumeSnapshotsRequest(filter=pb.VolumeSnapshotFilter(**wanted))
        return list(self.stub.ListVolumeSnapshots(request, timeout=60).volume_snapshots)

    def reconcile(self, uid: str, size: int = GIB, *, deleted: bool = False) -> pb.Volume | None:
        """One walk of the poollet's loop over one Volume: look by uid, then make, grow or delete."""
        found = self.by_uid(uid)
        assert len(found) <= 1, "the poollet panics on several volumes of one uid"
        if deleted:
            for each in found:
                self.delete(each.metadata.id)
            assert self.by_uid(uid) == []
            return None
        if not found:
            return self.create(uid, size)
        if found[0].spec.resources.storage_bytes != size:
            self.expand(found[0].metadata.id, size)
        return self.by_uid(uid)[0]

    def told(self, uid: str, since: int = 0, until: int = 0) -> list[str]:
        """Reasons of the events of one volume, oldest first."""
        wanted = pb.EventFilter(label_selector={f"{LABEL}uid": uid}, events_from_time=since, events_to_time=until)
        answer = self.stub.ListEvents(pb.ListEventsRequest(filter=wanted), timeout=30)
        return [event.spec.reason for event in answer.events]


class Runtime(Poollet):
    """A volume runtime in this process, with its client."""

    def __init__(self, server: Server, store: CephStore, pool: str, classes: Path) -> None:
        self.store, self.pool, self.classes = store, pool, classes
        self._server = server
        super().__init__(f"unix:{server.path}")

    def close(self) -> None:
        super().close()
        self._server.drain(5)


def program(ceph: Ceph, directory: Path, pool: str) -> list[str]:
    """The command line of `ceph-provisioner iri-volumes`, whose socket is `iri.sock` in the directory."""
    classes = directory / "classes.yaml"
    classes.write_text(json.dumps(CLASSES))
    words = [str(PROGRAM), "--config", str(ceph.config_file(directory)), "iri-volumes", "--listen", "127.0.0.1:0"]
    return [*words, "--address", f"unix://{directory}/iri.sock", "--volume-classes", str(classes), "--pool", pool]


def new_uid() -> str:
    return str(uuid.uuid4())


_names = itertools.count()


def labels(uid: str) -> dict[str, str]:
    return {f"{LABEL}uid": uid, f"{LABEL}namespace": "shop", f"{LABEL}name": f"data-{next(_names)}"}


def volume(uid: str, size: int = GIB, class_name: str = "fast", **metadata: Mapping[str, str]) -> pb.Volume:
    asked = pb.Volume(spec=pb.VolumeSpec(**{"class": class_name}, resources=pb.VolumeResources(storage_bytes=size)))
    for key, value in (metadata.get("labels") or labels(uid)).items():
        asked.metadata.labels[key] = value
    for key, value in metadata.get("annotations", {}).items():
        asked.metadata.annotations[key] = value
    return asked


@contextmanager
def opened(access: pb.VolumeAccess, image: str = "") -> Iterator[rbd.Image]:
    """The image, opened with nothing but what the runtime told: as libvirt-provider has it opened. `image` is another's path."""
    pool, _, name = (image or access.attributes["image"]).partition("/")
    settings = {"mon_host": access.attributes["monitors"], "key": access.secret_data["userKey"].decode()}
    settings |= {"client_mount_timeout": "15", "rados_osd_op_timeout": "15", "keyring": "/dev/null"}
    user = access.secret_data["userID"].decode()
    with (
        rados.Rados(name=f"client.{user}", conf=settings) as handle,
        handle.open_ioctx(pool) as context,
        rbd.Image(context, name) as found,
    ):
        yield found


@contextmanager
def running(ceph: Ceph, directory: Path, timeout: int = 15, registries: Path | None = None, pool: str = "") -> Iterator[Runtime]:
    """A volume runtime over the pool of the cluster that serves the block; `timeout` bounds its single calls to Ceph."""
    classes = directory / "classes.json"
    classes.write_text(json.dumps(CLASSES))
    clusters = Clusters(lambda: {"dev": ceph.config(timeout=timeout)})
    places, place = Places(clusters), Place("dev", pool or ceph.pool)
    store = CephStore(places)
    shelf = Shelf(place, ClassFile(classes, read_volume_classes), Limits())
    listen = Listen(f"unix://{directory}/iri.sock")
    volumes, snapshots, content = Volumes(store), Snapshots(CephSnapshots(places)), CephContent(places)
    images = BaseImages(Parts(volumes, snapshots, Registries(registries, timeout=5), content), place)
    backend = Backend(volumes, snapshots, images, content, EventLog(places, place, EVENTS))
    server = serve_volumes(backend, shelf, listen, lambda *_: None)
    runtime = Runtime(server, store, place.pool, classes)
    try:
        with at_work(places):
            try:
                yield runtime
            finally:
                images.stop()
                runtime.close()
    finally:
        clusters.close()
