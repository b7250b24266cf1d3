"""BucketRuntime over a real radosgw, asked as bucketpoollet asks, with boto3 and radosgw-admin as the other side. About 15 s."""

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from botocore.exceptions import ClientError

from provisioner.ceph.buckets import GatewayBuckets
from provisioner.ceph.gateway import Gateway
from provisioner.core.buckets import BucketRequest
from provisioner.core.errors import Unavailable
from provisioner.iri.classes import ClassFile, read_bucket_classes
from provisioner.iri.pb.bucket.v1alpha1 import api_pb2 as pb
from provisioner.iri.serve import serve_buckets
from provisioner.rpc.server import Listen
from tests.contract.driver import refused
from tests.contract.iri_buckets import LABEL, Buckets, bucket, new_uid
from tests.harness.ceph import Ceph
from tests.harness.gateway import RadosGateway
from tests.harness.program import PROGRAM
from tests.harness.waiting import until

CLASSES = [
    {"name": "std", "capabilities": {"tps": 1000, "iops": 10}},
    {"name": "small", "quota": {"bytes": 8192, "objects": 1}},
]
HOST = "s3.example.com"


@pytest.fixture(scope="module")
def buckets(gateway: RadosGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    directory = tmp_path_factory.mktemp("buckets")
    (directory / "classes.json").write_text(json.dumps(CLASSES))
    store, stop = GatewayBuckets(Gateway(gateway.url, gateway.keys), HOST), threading.Event()
    remover = threading.Thread(target=store.remove, args=(stop,))
    classes = ClassFile(directory / "classes.json", read_bucket_classes)
    server = serve_buckets(store, classes, Listen(f"unix://{directory}/b.sock"), lambda *_: None)
    client = Buckets(server.path)
    remover.start()
    try:
        yield client
    finally:
        client.close()
        server.drain(5)
        stop.set()
        remover.join(20)


@pytest.fixture
def half(gateway: RadosGateway) -> GatewayBuckets:
    """A store that dies between the user and the bucket."""
    return GatewayBuckets(_Dies(gateway.url, gateway.keys), HOST)


class _Dies(Gateway):
    def make_bucket(self, name: str, owner: object) -> None:
        raise SystemExit


def client_of(gateway: RadosGateway, made: pb.Bucket) -> Any:
    return gateway.client(made.status.access.secret_data)


def gone(gateway: RadosGateway, uid: str) -> None:
    until(lambda: f"cp-bucket.{uid}" not in gateway.users() and uid not in gateway.buckets(), 60, f"{uid} is removed")


def test_version_and_classes_are_told(buckets: Buckets) -> None:
    assert buckets.stub.Version(pb.VersionRequest(), timeout=5).runtime_name == "ceph-provisioner"
    (std, small) = buckets.stub.ListBucketClasses(pb.ListBucketClassesRequest(), timeout=5).bucket_classes
    assert (std.name, std.capabilities.tps, std.capabilities.iops, small.name) == ("std", 1000, 10, "small")


def test_the_keys_put_and_get_in_the_bucket(buckets: Buckets, gateway: RadosGateway) -> None:
    made = buckets.create(uid := new_uid())
    assert (made.status.state, made.status.access.endpoint) == (pb.BUCKET_AVAILABLE, f"{uid}.{HOST}")
    s3 = client_of(gateway, made)
    s3.put_object(Bucket=uid, Key="a", Body=b"data")
    assert s3.get_object(Bucket=uid, Key="a")["Body"].read() == b"data"


def test_the_keys_open_no_other_bucket_and_make_none(buckets: Buckets, gateway: RadosGateway) -> None:
    mine, other = buckets.create(), buckets.create()
    s3 = client_of(gateway, mine)
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket=other.metadata.id, Key="a", Body=b"")
    with pytest.raises(ClientError, match="TooManyBuckets"):
        s3.create_bucket(Bucket=f"more-{new_uid()}")


def test_many_repeats_at_once_are_one_bucket(buckets: Buckets, gateway: RadosGateway) -> None:
    uid = new_uid()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: buckets.create(uid), range(8)))
    keys = {answer.status.access.secret_data["AWS_ACCESS_KEY_ID"] for answer in answers}
    assert len(keys) == 1
    assert [each.metadata.id for each in buckets.by_uid(uid)] == [uid]


def test_a_deleted_bucket_is_closed_at_once_and_removed_with_its_objects(buckets: Buckets, gateway: RadosGateway) -> None:
    made = buckets.create(uid := new_uid())
    s3 = client_of(gateway, made)
    s3.put_object(Bucket=uid, Key="a", Body=b"data")
    buckets.delete(uid)
    assert buckets.by_uid(uid) == buckets.listed(id=uid) == []
    assert uid not in [each.metadata.id for each in buckets.listed()]
    with pytest.raises(ClientError):
        s3.get_object(Bucket=uid, Key="a")
    gone(gateway, uid)


def test_what_was_never_there_is_not_found_and_lists_nothing(buckets: Buckets) -> None:
    for absent in (new_uid(), "A/B", "cp-x"):
        with refused(grpc.StatusCode.NOT_FOUND):
            buckets.delete(absent)
        assert buckets.listed(id=absent) == []


def test_lists_tell_all_and_go_by_every_label_exactly(buckets: Buckets) -> None:
    one, other = buckets.create(), buckets.create()
    told = buckets.listed()
    assert one in told
    assert other in told
    mine = dict(one.metadata.labels)
    assert buckets.listed(label_selector=mine) == [one]
    assert buckets.listed(label_selector=mine | {f"{LABEL}name": "c"}) == []


def test_a_create_killed_halfway_is_finished_by_the_next_look(
    buckets: Buckets, half: GatewayBuckets, gateway: RadosGateway
) -> None:
    uid = new_uid()
    kept = {"iri.class": "std", f"iri.label/{LABEL}uid": uid}
    with pytest.raises(SystemExit):
        half.create(BucketRequest(uid, kept))
    assert [each.status.state for each in buckets.listed() if each.metadata.id == uid] == [pb.BUCKET_PENDING]
    (found,) = buckets.by_uid(uid)
    assert found.status.state == pb.BUCKET_AVAILABLE
    client_of(gateway, found).put_object(Bucket=uid, Key="a", Body=b"data")


def test_a_delete_killed_halfway_is_finished_by_another_process(gateway: RadosGateway) -> None:
    uid, stop = new_uid(), threading.Event()
    first = GatewayBuckets(Gateway(gateway.url, gateway.keys), HOST)
    first.create(BucketRequest(uid, {}))
    first.delete(uid)
    second = GatewayBuckets(Gateway(gateway.url, gateway.keys), HOST)
    remover = threading.Thread(target=second.remove, args=(stop,))
    remover.start()
    try:
        gone(gateway, uid)
    finally:
        stop.set()
        remover.join(20)


def test_a_class_bounds_what_a_bucket_may_hold(buckets: Buckets, gateway: RadosGateway) -> None:
    made = buckets.create(uid := new_uid(), "small")
    quota = gateway.tool("user", "info", f"--uid=cp-bucket.{uid}")["user_quota"]
    assert (quota["enabled"], quota["max_size"], quota["max_objects"]) == (True, 8192, 1)
    with pytest.raises(ClientError, match="QuotaExceeded"):
        client_of(gateway, made).put_object(Bucket=uid, Key="a", Body=b"x" * 100_000)


def test_another_class_for_the_same_uid_is_refused(buckets: Buckets) -> None:
    buckets.create(uid := new_uid())
    with refused(grpc.StatusCode.ALREADY_EXISTS, uid):
        buckets.create(uid, "small")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (bucket(new_uid(), "gold"), ("bucket.spec.class", "std, small")),
        (bucket(new_uid(), note="x" * 65536), ("bucket.metadata.labels[note]", "longer")),
        (bucket(new_uid(), **{f"k{n}": "ö" * 1900 for n in range(3)}), ("bucket.metadata", "too long for radosgw")),
    ],
)
def test_bad_input_is_refused_by_name_and_makes_nothing(buckets: Buckets, asked: pb.Bucket, words: tuple[str, ...]) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, *words):
        buckets.stub.CreateBucket(pb.CreateBucketRequest(bucket=asked), timeout=30)
    assert buckets.by_uid(asked.metadata.labels[f"{LABEL}uid"]) == []


def test_events_tell_of_making_and_of_failing(buckets: Buckets) -> None:
    buckets.create(uid := new_uid())
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        buckets.create(uid, "small")
    buckets.delete(uid)
    wanted = pb.EventFilter(label_selector={f"{LABEL}uid": uid})
    events = buckets.stub.ListEvents(pb.ListEventsRequest(filter=wanted), timeout=5).events
    assert [event.spec.reason for event in events] == ["BucketCreated", "BucketCreationFailed", "BucketDeleted"]


def test_a_gateway_that_is_away_is_unavailable(gateway: RadosGateway) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        GatewayBuckets(Gateway("http://127.0.0.1:1", gateway.keys)).all()


def test_iri_buckets_makes_a_bucket_and_ends_on_sigterm(ceph: Ceph, gateway: RadosGateway, tmp_path: Path) -> None:
    classes, socket = tmp_path / "classes.json", tmp_path / "b.sock"
    classes.write_text(json.dumps(CLASSES))
    words = [str(PROGRAM), "--config", str(ceph.config_file(tmp_path)), "iri-buckets", "--backend", "rgw"]
    words += ["--address", f"unix://{socket}", "--bucket-classes", str(classes), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*words, "--rgw-endpoint", gateway.url, "--rgw-keys", str(gateway.keys)])
    try:
        until(socket.exists, 60, "the socket is there")
        made = (client := Buckets(socket)).create()
        assert made.status.access.endpoint == f"{made.metadata.id}.{gateway.host}"
        client.close()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
