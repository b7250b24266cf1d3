"""BucketRuntime: each call of bucketpoollet in terms of whatever makes buckets."""

import uuid
from collections.abc import Sequence

import provisioner
from provisioner.core.buckets import Bucket, BucketRequest, BucketState, BucketStore, bucket_name
from provisioner.core.errors import AlreadyExists, InvalidRequest, NotFound
from provisioner.iri import metadata
from provisioner.iri.classes import BucketClass, ClassFile
from provisioner.iri.events import Events
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2 as pb
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2_grpc
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata
from provisioner.rpc.boundary import Context

# the methods are named by the wire contract
# ruff: noqa: N802

RUNTIME = "ceph-provisioner"
UID = "bucketpoollet.ironcore.dev/bucket-uid"
"""The label that is a bucket's identity."""
_STATES = {
    BucketState.PENDING: pb.BUCKET_PENDING,
    BucketState.AVAILABLE: pb.BUCKET_AVAILABLE,
    BucketState.FAILED: pb.BUCKET_ERROR,
}


class BucketRuntime(api_pb2_grpc.BucketRuntimeServicer):
    """Buckets over the runtime interface. Errors of the core leave the methods as they are: the boundary has the table."""

    def __init__(self, buckets: BucketStore, classes: ClassFile[BucketClass], events: Events) -> None:
        self._buckets, self._classes, self._events = buckets, classes, events

    def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionResponse:
        """Name and version."""
        return pb.VersionResponse(runtime_name=RUNTIME, runtime_version=provisioner.__version__)

    def ListBucketClasses(self, request: pb.ListBucketClassesRequest, context: Context) -> pb.ListBucketClassesResponse:
        """The classes as the file has them now."""
        return pb.ListBucketClassesResponse(
            bucket_classes=[
                pb.BucketClass(
                    name=each.name,
                    capabilities=pb.BucketClassCapabilities(tps=each.capabilities.tps, iops=each.capabilities.iops),
                )
                for each in self._classes.all().values()
            ]
        )

    def CreateBucket(self, request: pb.CreateBucketRequest, context: Context) -> pb.CreateBucketResponse:
        """Make a bucket, once per uid."""
        asked = request.bucket
        with self._events.failures("CreateBucket", asked.metadata, "BucketCreationFailed"):
            wanted = self._request(asked)
            made = self._buckets.create(wanted)
            _refuse_another(made, wanted)
        answer = _told(made)
        self._events.normal("CreateBucket", answer.metadata, "BucketCreated", f"bucket {made.name}, {made.state.value}")
        return pb.CreateBucketResponse(bucket=answer)

    def DeleteBucket(self, request: pb.DeleteBucketRequest, context: Context) -> pb.DeleteBucketResponse:
        """Close a bucket and have it removed. It is off all lists when this returns."""
        if not request.bucket_id:
            raise InvalidRequest("bucket_id", "", "must not be empty")
        found = self._find(request.bucket_id)
        if found is None:
            raise NotFound(f"bucket {request.bucket_id!r}")
        about = _about(found)
        with self._events.failures("DeleteBucket", about, "BucketDeletionFailed"):
            self._buckets.delete(found.name)
        self._events.normal("DeleteBucket", about, "BucketDeleted", f"bucket {found.name}")
        return pb.DeleteBucketResponse()

    def ListBuckets(self, request: pb.ListBucketsRequest, context: Context) -> pb.ListBucketsResponse:
        """The buckets that bear the id and all the labels."""
        wanted = request.filter
        hits = [each for each in self._candidates(wanted) if metadata.matches(each.labels, wanted.label_selector)]
        return pb.ListBucketsResponse(buckets=[_told(each) for each in hits])

    def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        """What happened to the buckets, within the filter's window."""
        return pb.ListEventsResponse(events=self._events.listed(request.filter))

    def _request(self, asked: pb.Bucket) -> BucketRequest:
        if asked.metadata.id:
            raise InvalidRequest("bucket.metadata.id", asked.metadata.id, "must be empty: the runtime gives it")
        chosen = self._classes.choose("bucket.spec.class", getattr(asked.spec, "class"))
        name = bucket_name(asked.metadata.labels.get(UID) or str(uuid.uuid4()))
        kept = metadata.kept_labels("bucket.metadata", asked.metadata, chosen.name)
        return BucketRequest(name, kept, chosen.quota, chosen.storage_class, chosen.settings)

    def _candidates(self, wanted: pb.BucketFilter) -> Sequence[Bucket]:
        uid = wanted.label_selector.get(UID)
        if not wanted.id and not uid:
            return self._buckets.all()
        found = self._find(wanted.id) if wanted.id else self._buckets.find(bucket_name(uid or ""))
        return [] if found is None else [found]

    def _find(self, bucket_id: str) -> Bucket | None:
        """Ids are names: what can be no name means nothing."""
        readable = bucket_name(bucket_id) == bucket_id or bucket_id.startswith("cp-")
        return self._buckets.find(bucket_id) if readable else None


def _refuse_another(made: Bucket, wanted: BucketRequest) -> None:
    has, wants = made.labels.get(metadata.CLASS, ""), wanted.labels[metadata.CLASS]
    if has != wants:
        raise AlreadyExists(f"bucket {made.name}", [f"its class is {has!r}, asked for {wants!r}"])


def _about(found: Bucket) -> ObjectMetadata:
    return metadata.object_metadata(found.name, found.labels, found.created)


def _told(found: Bucket) -> pb.Bucket:
    told = pb.Bucket(metadata=_about(found), spec=pb.BucketSpec(**{"class": found.labels.get(metadata.CLASS, "")}))
    told.status.state = _STATES[found.state]
    if found.access is not None:
        told.status.access.endpoint = found.access.endpoint
        for key, value in found.access.secrets.items():
            told.status.access.secret_data[key] = value
    return told
