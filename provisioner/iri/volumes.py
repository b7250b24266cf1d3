"""VolumeRuntime: each call of volumepoollet in terms of one use case of the core.

What the poollet does with the answers decides what they have to be. It looks for a volume by the uid label, makes one if there is
none, and stops working altogether if there are two: so the uid is the image's name. It takes an empty list for "deleted": so
a list either tells everything or fails.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import provisioner
from provisioner.core.content import ContentStore
from provisioner.core.errors import Conflict, InvalidRequest, NotFound, OutOfRange, ProvisionerError
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, SnapshotRequest, Volume
from provisioner.core.single_flight import SingleFlight
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes
from provisioner.iri import convert, metadata, snapshots
from provisioner.iri.access import Access
from provisioner.iri.base_images import BaseImages
from provisioner.iri.classes import ClassFile, Limits, VolumeClass
from provisioner.iri.events import EventLog, Events
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from provisioner.iri.pb.volume.v1alpha1 import api_pb2_grpc
from provisioner.iri.waiting import Maker, Waiting
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

log = logging.getLogger(__name__)

RUNTIME = "ceph-provisioner"
"""Stands before every id in a Kubernetes Volume's `status.volumeID`."""

WITH_ACCESS = 100
"""Volumes up to which a list tells the keys: with them, 10,000 volumes would not fit into the 4 MiB that a peer takes. The
poollet reads keys only from lists by uid."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the runtime offers: where its volumes lie, and the classes they may have."""

    place: Place
    classes: ClassFile[VolumeClass]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Backend:
    """What a volume runtime stands on."""

    volumes: Volumes
    snapshots: Snapshots
    images: BaseImages
    content: ContentStore
    events: EventLog


class VolumeRuntime(api_pb2_grpc.VolumeRuntimeServicer):
    """Volumes over the runtime interface. Errors of the core leave the methods as they are: the boundary has the table."""

    def __init__(self, backend: Backend, shelf: Shelf) -> None:
        self._volumes, self._content, self._images = backend.volumes, backend.content, backend.images
        self._shelf, self._place, self._classes = shelf, shelf.place, shelf.classes
        self._access, self._events = Access(backend.volumes, shelf.classes), Events(backend.events)
        self._shots = snapshots.Shots(backend.snapshots, shelf.place)
        self._waiting = Waiting(backend.images, Maker(self._made, self._delete), self._events)
        self._flights, self._making = SingleFlight(), SingleFlight()

    def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionResponse:
        """Name and version."""
        return pb.VersionResponse(runtime_name=RUNTIME, runtime_version=provisioner.__version__)

    def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        """The classes, and how much their pool holds in all: the poollet takes away what its volumes were promised."""
        return pb.StatusResponse(
            volume_class_status=[
                pb.VolumeClassStatus(
                    volume_class=pb.VolumeClass(
                        name=each.name,
                        capabilities=pb.VolumeClassCapabilities(tps=each.capabilities.tps, iops=each.capabilities.iops),
                    ),
                    quantity=self._quantity(each),
                )
                for each in self._classes.all().values()
            ]
        )

    def CreateVolume(self, request: pb.CreateVolumeRequest, context: Context) -> pb.CreateVolumeResponse:
        """Make a volume, once per uid, and answer when it can be opened."""
        asked = request.volume
        with self._events.failures("CreateVolume", asked.metadata, "VolumeCreationFailed"):
            chosen = self._classes.choose("volume.spec.class", getattr(asked.spec, "class"))
            wanted = convert.create_request(asked, chosen, self._shelf.limits, self._place)
            answer = self._flights.run("create", wanted.name, _identity(asked), lambda: self._create(asked, wanted))
        return pb.CreateVolumeResponse(volume=answer)

    def ExpandVolume(self, request: pb.ExpandVolumeRequest, context: Context) -> pb.ExpandVolumeResponse:
        """Grow a volume, in use or not. Never shrinks."""
        found = self._existing(request.volume_id)
        about = self._about(found)
        with self._events.failures("ExpandVolume", about, "VolumeExpansionFailed"):
            size = convert.size_range("resources.storage_bytes", request.resources.storage_bytes)
            if size.choose() < found.size:
                why = f"the volume has {found.size} bytes, and volumes never shrink"
                raise OutOfRange("resources.storage_bytes", size.required, why)
            grown = self._volumes.expand(found.id, size)
        if grown.size > found.size:
            message = f"from {found.size} to {grown.size} bytes"
            self._events.normal("ExpandVolume", about, "VolumeExpanded", message)
        return pb.ExpandVolumeResponse()

    def DeleteVolume(self, request: pb.DeleteVolumeRequest, context: Context) -> pb.DeleteVolumeResponse:
        """Take a volume away, and the user that opened it. It is off all lists when this returns."""
        waited = self._waiting.cancel(request.volume_id)
        try:
            found = self._existing(request.volume_id)
        except NotFound:
            if waited:
                return pb.DeleteVolumeResponse()
            raise
        about = self._about(found)
        with self._events.failures("DeleteVolume", about, "VolumeDeletionFailed"):
            self._delete(found)
        self._events.normal("DeleteVolume", about, "VolumeDeleted", f"image {found.id}")
        return pb.DeleteVolumeResponse()

    def ListVolumes(self, request: pb.ListVolumesRequest, context: Context) -> pb.ListVolumesResponse:
        """The volumes that bear the id and all the labels, as Ceph has them now."""
        wanted = request.filter
        try:
            one = self._named(wanted)
        except NotFound:
            return pb.ListVolumesResponse()
        if one is not None:
            return pb.ListVolumesResponse(volumes=self._one(one, wanted.label_selector))
        found = self._volumes.volumes(self._place)
        hits = [each for each in found if convert.is_ours(each) and metadata.matches(each.labels, wanted.label_selector)]
        told = self._told(hits, with_access=len(hits) <= WITH_ACCESS)
        there = {each.metadata.id for each in told}
        waiting = [each for each in self._waiting.all() if each.metadata.id not in there]
        return pb.ListVolumesResponse(volumes=told + [each for each in waiting if _matches(each, wanted.label_selector)])

    def CreateVolumeSnapshot(self, request: pb.CreateVolumeSnapshotRequest, context: Context) -> pb.CreateVolumeSnapshotResponse:
        """Take a snapshot, once per uid. It is ready when this returns."""
        asked = request.volume_snapshot
        with self._events.failures("CreateVolumeSnapshot", asked.metadata, "VolumeSnapshotCreationFailed"):
            name, kept = snapshots.request_for(asked)
            volume = self._meant(asked.spec.volume_id, asked.metadata.labels)
            there = self._shots.named(name)
            taken = self._shots.take(SnapshotRequest(name, volume.id, labels=kept | _inherited(volume.labels)))
        answer = snapshots.told(taken)
        if there is None:
            self._events.normal("CreateVolumeSnapshot", answer.metadata, "VolumeSnapshotCreated", f"of image {volume.id}")
        return pb.CreateVolumeSnapshotResponse(volume_snapshot=answer)

    def DeleteVolumeSnapshot(self, request: pb.DeleteVolumeSnapshotRequest, context: Context) -> pb.DeleteVolumeSnapshotResponse:
        """Take a snapshot away. Volumes that were made from it live on."""
        if not request.volume_snapshot_id:
            raise InvalidRequest("volume_snapshot_id", "", "must not be empty")
        gone = self._shots.delete(request.volume_snapshot_id)
        message = f"of image {gone.id.volume}"
        self._events.normal("DeleteVolumeSnapshot", snapshots.about(gone), "VolumeSnapshotDeleted", message)
        return pb.DeleteVolumeSnapshotResponse()

    def ListVolumeSnapshots(self, request: pb.ListVolumeSnapshotsRequest, context: Context) -> pb.ListVolumeSnapshotsResponse:
        """The snapshots that bear the id and all the labels, as Ceph has them now."""
        found = self._shots.matching(request.filter)
        return pb.ListVolumeSnapshotsResponse(volume_snapshots=[snapshots.told(each) for each in found])

    def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        """What happened to the volumes, within the filter's window."""
        return pb.ListEventsResponse(events=self._events.listed(request.filter))

    def _create(self, asked: pb.Volume, wanted: CreateRequest) -> pb.Volume:
        passphrase = convert.passphrase(asked)
        source, name = asked.spec.volume_data_source, convert.volume_of_uid(self._place, wanted.name)
        if source.HasField("image_data_source"):
            made = self._from_image(source.image_data_source, wanted, name)
            return self._handed_out(made) if made is not None else convert.waiting(wanted, name)
        if source.HasField("snapshot_data_source"):
            snapshot = self._shots.source(source.snapshot_data_source.snapshot_id, asked.metadata.labels)
            convert.refuse_smaller(wanted.size, snapshot.size, f"snapshot {snapshot.name}")
            passphrase = None  # there is data, encrypted or not
            wanted = replace(wanted, source=snapshot.id, labels={**wanted.labels, **convert.inherited(asked, snapshot.labels)})
        return self._handed_out(self._made(wanted, passphrase))

    def _from_image(self, source: pb.ImageDataSource, wanted: CreateRequest, name: VolumeId) -> Volume | None:
        """Make a volume of an OS image; None if the image is still being pulled."""
        if (found := self._volumes.settle(name)) is not None:
            convert.refuse_another(found, wanted)
            return found
        artifact = self._images.resolve(source.image, source.architecture)
        convert.refuse_smaller(wanted.size, artifact.size, f"image {source.image}")
        return self._waiting.create(wanted, artifact, convert.waiting(wanted, name))

    def _made(self, wanted: CreateRequest, passphrase: bytes | None = None) -> Volume:
        """Make a volume and hand it out, or find it so; twins do it together."""
        identity = (wanted.size, wanted.source)
        return self._making.run("make", wanted.name, identity, lambda: self._made_alone(wanted, passphrase))

    def _made_alone(self, wanted: CreateRequest, passphrase: bytes | None) -> Volume:
        made = self._volumes.create(wanted)
        convert.refuse_another(made, wanted)
        if made.published:
            return made
        if passphrase is not None:
            self._content.encrypt(made, passphrase)
        self._access.grant(made)
        message = f"image {made.id} of {made.size} bytes"
        self._events.normal("CreateVolume", self._about(made), "VolumeCreated", message)
        return replace(made, published=True)

    def _handed_out(self, volume: Volume) -> pb.Volume:
        return convert.volume(volume, self._access.grant(volume), available=True)

    def _one(self, name: VolumeId, selector: Mapping[str, str]) -> list[pb.Volume]:
        """What there is under one name, in Ceph or waiting."""
        found = self._whole(self._volumes.settle(name))
        if found is None:
            waits = self._waiting.named(name.image)
            return [waits] if waits is not None and _matches(waits, selector) else []
        matches = convert.is_ours(found) and metadata.matches(found.labels, selector)
        return self._told([found], with_access=True) if matches else []

    def _whole(self, found: Volume | None) -> Volume | None:
        """None for a volume that was to be encrypted, and is not yet: nobody but its asker has the key.

        Its asker comes again, unless it wants it no more; so it is taken away, and made again.
        """
        if found is None or not _lacks_its_key(found):
            return found
        with suppress(Conflict):  # it is being made at this moment
            self._flights.run("drop", found.name, found.image_id, lambda: self._volumes.abandon(found.id))
        return None

    def _told(self, volumes: Iterable[Volume], *, with_access: bool) -> list[pb.Volume]:
        if not with_access:
            return [convert.volume(each, None, available=each.published) for each in volumes]
        told = []
        for volume in volumes:
            if _lacks_its_key(volume):
                told.append(convert.volume(volume, None, available=False))
                continue
            with suppress(NotFound):  # deleted since it was read
                told.append(self._handed_out(volume))
        return told

    def _named(self, wanted: pb.VolumeFilter) -> VolumeId | None:
        """The one volume that a filter can mean; None if it may be several."""
        if wanted.id:
            return convert.volume_id(self._place, wanted.id)
        uid = wanted.label_selector.get(convert.UID)
        return convert.volume_of_uid(self._place, uid) if uid else None

    def _existing(self, text: str) -> Volume:
        found = self._volumes.settle(convert.volume_id(self._place, text))
        if found is None or not convert.is_ours(found):
            raise NotFound(f"volume {text!r}")
        return found

    def _meant(self, given: str, labels: Mapping[str, str]) -> Volume:
        """The volume that a snapshot is to be taken of: by id, or by its Kubernetes name in the snapshot's namespace."""
        try:
            return self._existing(given)
        except NotFound:
            selector = {snapshots.VOLUME_NAME: given, snapshots.VOLUME_NAMESPACE: labels.get(snapshots.NAMESPACE, "")}
            hits = [each for each in self._volumes.volumes(self._place) if metadata.matches(each.labels, selector)]
            if len(hits) != 1:
                raise
            return hits[0]

    def _delete(self, found: Volume) -> None:
        if not found.published:
            self._volumes.abandon(found.id)  # nobody was ever told how to open it
            return
        self._volumes.delete(found.id, image_id=found.image_id)
        try:
            self._access.withdraw(found)
        except ProvisionerError as error:
            log.warning("the user of %s goes with its image, later: %s", found.id, error)

    def _about(self, found: Volume) -> ObjectMetadata:
        return metadata.object_metadata(found.id.image, found.labels, found.created)

    def _quantity(self, offered: VolumeClass) -> int:
        try:
            room = self._volumes.capacity(self._place, offered.layout.data_pool)
        except InvalidRequest as error:
            log.error("class %s offers nothing: %s", offered.name, error)
            return 0
        return room.available + room.stored


def _lacks_its_key(volume: Volume) -> bool:
    """Tell whether the volume is to be formatted before it may be handed out. What is restored was, with its snapshot."""
    return not volume.published and convert.ENCRYPTED in volume.labels and "source" not in volume.asked


def _inherited(kept: Mapping[str, str]) -> dict[str, str]:
    """A snapshot of an encrypted volume is encrypted, and so is what is restored from it."""
    return {key: value for key, value in kept.items() if key == convert.ENCRYPTED}


def _identity(asked: pb.Volume) -> bytes:
    """The same for the same request, and for no other."""
    return hashlib.sha256(asked.spec.SerializeToString(deterministic=True)).digest()


def _matches(told: pb.Volume, selector: Mapping[str, str]) -> bool:
    return all(told.metadata.labels.get(key) == value for key, value in selector.items())
