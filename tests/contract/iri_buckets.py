"""A client of the bucket runtime that asks as bucketpoollet does."""

import uuid
from pathlib import Path

import grpc

from provisioner.iri.pb.bucket.v1alpha1 import api_pb2 as pb
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2_grpc

LABEL = "bucketpoollet.ironcore.dev/bucket-"


class Buckets:
    """A running bucket runtime over a radosgw, and calls to it."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self.stub = api_pb2_grpc.BucketRuntimeStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def create(self, uid: str = "", class_name: str = "std") -> pb.Bucket:
        return self.stub.CreateBucket(pb.CreateBucketRequest(bucket=bucket(uid or new_uid(), class_name)), timeout=60).bucket

    def delete(self, bucket_id: str) -> None:
        self.stub.DeleteBucket(pb.DeleteBucketRequest(bucket_id=bucket_id), timeout=30)

    def listed(self, **wanted: object) -> list[pb.Bucket]:
        request = pb.ListBucketsRequest(filter=pb.BucketFilter(**wanted)) if wanted else pb.ListBucketsRequest()
        return list(self.stub.ListBuckets(request, timeout=60).buckets)

    def by_uid(self, uid: str) -> list[pb.Bucket]:
        return self.listed(label_selector={f"{LABEL}uid": uid})


def new_uid() -> str:
    return str(uuid.uuid4())


def bucket(uid: str, class_name: str = "std", **more: str) -> pb.Bucket:
    asked = pb.Bucket(spec=pb.BucketSpec(**{"class": class_name}))
    for key, value in {f"{LABEL}uid": uid, f"{LABEL}namespace": "shop", f"{LABEL}name": "b", **more}.items():
        asked.metadata.labels[key] = value
    return asked
