"""BucketRuntime by ObjectBucketClaims: a real API server and a real radosgw, and between them a stand-in for Rook. About 15 s."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from botocore.exceptions import ClientError

from provisioner.iri.obc import CLAIMS
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2 as pb
from provisioner.kube.resources import SECRETS, Object
from tests.contract.driver import refused
from tests.contract.iri_buckets import LABEL, Buckets, bucket, new_uid
from tests.harness.ceph import Ceph
from tests.harness.gateway import RadosGateway
from tests.harness.kubernetes import ROOT, Kubernetes
from tests.harness.objectbuckets import CRDS, StandIn
from tests.harness.program import PROGRAM
from tests.harness.waiting import until

NAMESPACE = "ceph-provisioner-buckets"
HOST = "s3.example.com"


@pytest.fixture(scope="module")
def operator(kubernetes: Kubernetes, gateway: RadosGateway) -> Iterator[tuple[StandIn, str]]:
    """The stand-in, and the StorageClass that it answers for."""
    kubernetes.define(CRDS)
    kubernetes.apply(ROOT / "manifests/overlays/iri/rbac.yaml")
    provisioner = f"{uuid.uuid4().hex[:8]}.example.com/bucket"
    with StandIn(kubernetes, gateway, provisioner) as standin:
        yield standin, kubernetes.make_class(provisioner)


@pytest.fixture(scope="module")
def buckets(
    kubernetes: Kubernetes, ceph: Ceph, operator: tuple[StandIn, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Buckets]:
    """`ceph-provisioner iri-buckets --backend obc`, under the service account of the manifests."""
    directory = tmp_path_factory.mktemp("claimed")
    account = kubernetes.account_kubeconfig(directory / "kubeconfig", "ceph-provisioner-buckets")
    classes, socket = directory / "classes.json", directory / "b.sock"
    named = {"name": "named", "storageClass": "no-such-class", "quota": {"bytes": 1 << 20, "objects": 7}}
    classes.write_text(json.dumps([{"name": "std", "capabilities": {"tps": 1, "iops": 2}}, named]))
    words = [str(PROGRAM), "--config", str(ceph.config_file(directory)), "iri-buckets", "--backend", "obc"]
    words += ["--address", f"unix://{socket}", "--bucket-classes", str(classes), "--listen", "127.0.0.1:0"]
    words += ["--kubeconfig", str(account), "--storage-class", operator[1], "--bucket-endpoint", HOST]
    process = subprocess.Popen(words)
    try:
        until(socket.exists, 60, "the socket is there")
        client = Buckets(socket)
        yield client
        client.close()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def available(buckets: Buckets, uid: str) -> pb.Bucket:
    """The bucket by uid, once it is there: as the poollet finds it at one of its lists."""

    def found() -> pb.Bucket | None:
        (told,) = buckets.by_uid(uid)
        return told if told.status.state == pb.BUCKET_AVAILABLE else None

    return until(found, 60, f"bucket {uid} is available", lambda: str(buckets.by_uid(uid)))


def claim(kubernetes: Kubernetes, uid: str) -> Object:
    return kubernetes.api.get(CLAIMS.path(NAMESPACE, uid))


def test_a_bucket_is_pending_until_its_claim_is_bound_and_then_takes_objects(buckets: Buckets, gateway: RadosGateway) -> None:
    made = buckets.create(uid := new_uid())
    assert (made.status.state, made.status.HasField("access")) == (pb.BUCKET_PENDING, False)
    found = available(buckets, uid)
    assert found.status.access.endpoint == f"{uid}.{HOST}"
    s3: Any = gateway.client(found.status.access.secret_data)
    s3.put_object(Bucket=uid, Key="a", Body=b"data")
    assert s3.get_object(Bucket=uid, Key="a")["Body"].read() == b"data"
    assert found in buckets.listed()


def test_many_repeats_at_once_are_one_claim(buckets: Buckets, kubernetes: Kubernetes) -> None:
    uid = new_uid()
    with ThreadPoolExecutor(8) as threads:
        assert {each.metadata.id for each in threads.map(lambda _: buckets.create(uid), range(8))} == {uid}
    assert claim(kubernetes, uid)["spec"]["bucketName"] == uid


def test_a_deleted_bucket_is_off_all_lists_at_once_and_its_objects_go(
    buckets: Buckets, kubernetes: Kubernetes, gateway: RadosGateway, operator: tuple[StandIn, str]
) -> None:
    buckets.create(uid := new_uid())
    s3 = gateway.client(available(buckets, uid).status.access.secret_data)
    s3.put_object(Bucket=uid, Key="a", Body=b"data")
    operator[0].paused.set()
    try:
        buckets.delete(uid)
        assert claim(kubernetes, uid)["metadata"]["deletionTimestamp"]
        assert buckets.by_uid(uid) == []
        assert uid not in [each.metadata.id for each in buckets.listed()]
        with refused(grpc.StatusCode.NOT_FOUND):
            buckets.delete(uid)
        with refused(grpc.StatusCode.UNAVAILABLE, "still being removed"):
            buckets.create(uid)
    finally:
        operator[0].paused.clear()
    until(lambda: uid not in gateway.buckets(), 60, "the bucket is removed")
    with pytest.raises(ClientError):
        s3.get_object(Bucket=uid, Key="a")


def test_a_broken_claim_is_an_error_and_hides_no_other(buckets: Buckets, kubernetes: Kubernetes) -> None:
    broken, whole = new_uid(), new_uid()
    for uid in (broken, whole):
        buckets.create(uid)
        available(buckets, uid)
    secret = SECRETS.path(NAMESPACE, broken)
    kubernetes.api.patch(secret, {"metadata": {"finalizers": None}})
    kubernetes.api.delete(secret)
    kubernetes.api.patch(CLAIMS.path(NAMESPACE, broken), {"metadata": {"annotations": {"touched": "yes"}}})
    states = until(
        lambda: (s := {each.metadata.id: each.status.state for each in buckets.listed()})[broken] == pb.BUCKET_ERROR and s,
        60,
        "the broken claim's bucket is an error",
    )
    assert states[whole] == pb.BUCKET_AVAILABLE


def test_a_class_chooses_its_storage_class_and_bounds(buckets: Buckets, kubernetes: Kubernetes) -> None:
    made = buckets.create(uid := new_uid(), "named")
    spec = claim(kubernetes, uid)["spec"]
    assert spec["storageClassName"] == "no-such-class"
    assert spec["additionalConfig"] == {"maxSize": str(1 << 20), "maxObjects": "7"}
    assert dict(buckets.by_uid(uid)[0].metadata.labels) == dict(made.metadata.labels)
    buckets.delete(uid)


def test_a_failed_claim_is_an_error(buckets: Buckets, kubernetes: Kubernetes) -> None:
    buckets.create(uid := new_uid(), "named")
    kubernetes.api.patch(f"{CLAIMS.path(NAMESPACE, uid)}/status", {"status": {"phase": "Failed"}})
    assert [each.status.state for each in buckets.by_uid(uid)] == [pb.BUCKET_ERROR]
    buckets.delete(uid)


def test_a_claim_of_somebody_else_is_not_listed_nor_deleted(buckets: Buckets, kubernetes: Kubernetes) -> None:
    uid = new_uid()
    kubernetes.api.create(CLAIMS.path(NAMESPACE), CLAIMS.body({"name": uid}, spec={"storageClassName": "other"}))
    assert buckets.by_uid(uid) == buckets.listed(id=uid) == []
    with refused(grpc.StatusCode.NOT_FOUND):
        buckets.delete(uid)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "not made here"):
        buckets.create(uid)


def test_labels_of_64_kib_are_refused_and_nothing_is_claimed(buckets: Buckets) -> None:
    asked = bucket(uid := new_uid(), note="x" * 65536)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "bucket.metadata.labels[note]"):
        buckets.stub.CreateBucket(pb.CreateBucketRequest(bucket=asked), timeout=30)
    assert buckets.listed(label_selector={f"{LABEL}uid": uid}) == []
