"""Volumes whose data lies in an erasure-coded pool, on a cluster of their own with three OSDs. About 25 seconds."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import grpc
import pytest
import rados
import rbd

from csi.pb import csi_pb2
from provisioner.core.ids import Place, VolumeId
from tests.contract.driver import MIB, Driver, refused, running, unique
from tests.harness import ceph as ceph_harness
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner
from tests.harness.waiting import until

Source = csi_pb2.VolumeContentSource
DATA, WRITTEN_ONCE = "coded", "written-once"
CODED = {"dataPool": DATA}
CONTENT = b"content" * 1000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """Three OSDs, and an erasure-coded pool that needs two of them to read and has the third to spare."""
    with ceph_harness.running(tmp_path_factory.mktemp("coded") / "c", "--osds", "3", "--size", "2G") as made:
        made.command("osd erasure-code-profile set", name="k2m1", profile=["k=2", "m=1", "crush-failure-domain=osd"])
        for pool in (DATA, WRITTEN_ONCE):
            made.command("osd pool create", pool=pool, pg_num=8, pool_type="erasure", erasure_code_profile="k2m1")
            made.let_provision(pool)
        made.command("osd pool set", pool=DATA, var="allow_ec_overwrites", val="true")
        made.command("osd pool set", pool=DATA, var="min_size", val="2")
        made.command("osd pool application enable", pool=DATA, app="rbd")
        yield made


@pytest.fixture(scope="module")
def coded(cluster: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with running(cluster, tmp_path_factory.mktemp("csi"), [cluster.pool]) as driver:
        yield driver


@pytest.fixture
def volume(coded: Driver, cluster: Ceph) -> csi_pb2.Volume:
    """8 MiB, some of it written."""
    made = coded.create(size=8 * MIB, parameters=CODED)
    with opened(cluster, made) as image:
        image.write(CONTENT, 5 * MIB)
    return made


@contextmanager
def opened(cluster: Ceph, volume: csi_pb2.Volume) -> Iterator[rbd.Image]:
    with cluster.open_image(volume.volume_context["imageName"]) as image:
        yield image


def data_objects(cluster: Ceph, image_id: str) -> list[str]:
    """Objects of the image's data, with the pool that each lies in."""
    return [f"{pool}: {name}" for pool in (cluster.pool, DATA) for name in cluster.objects(pool) if f".{image_id}." in name]


def test_the_data_lies_in_the_coded_pool_and_all_else_in_the_replicated_one(cluster: Ceph, volume: csi_pb2.Volume) -> None:
    with opened(cluster, volume) as image:
        found = data_objects(cluster, image.id())
        assert image.size() == volume.capacity_bytes == 8 * MIB
    assert len(found) == 1
    assert found[0].startswith(f"{DATA}: rbd_data.")


def test_a_node_is_told_of_the_data_pool(coded: Driver, cluster: Ceph, volume: csi_pb2.Volume) -> None:
    with closing(Provisioner(cluster.config())) as ours:
        assert ours.volumes.get(VolumeId.parse(volume.volume_id)).data_pool == DATA
    same = coded.create(volume.volume_context["imageName"], 8 * MIB, parameters=CODED)
    assert same == volume


def test_the_same_name_with_its_data_elsewhere_is_another_volume(coded: Driver, volume: csi_pb2.Volume) -> None:
    with refused(grpc.StatusCode.ALREADY_EXISTS, "dataPool"):
        coded.create(volume.volume_context["imageName"], 8 * MIB)


def test_it_grows(coded: Driver, cluster: Ceph, volume: csi_pb2.Volume) -> None:
    size = csi_pb2.CapacityRange(required_bytes=24 * MIB)
    request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume.volume_id, capacity_range=size)
    assert coded.controller.ControllerExpandVolume(request, timeout=30).capacity_bytes == 24 * MIB
    with opened(cluster, volume) as image:
        image.write(CONTENT, 20 * MIB)
        assert image.read(20 * MIB, len(CONTENT)) == image.read(5 * MIB, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("parameters", [CODED, {}], ids=["coded", "replicated"])
@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_a_copy_has_its_content_wherever_its_own_data_lies(
    coded: Driver, cluster: Ceph, volume: csi_pb2.Volume, kind: str, parameters: dict[str, str]
) -> None:
    if kind == "snapshot":
        snapshot = coded.snapshot(volume.volume_id).snapshot_id
        source = Source(snapshot=Source.SnapshotSource(snapshot_id=snapshot))
    else:
        source = Source(volume=Source.VolumeSource(volume_id=volume.volume_id))
    copy = coded.create(size=8 * MIB, parameters=parameters, volume_content_source=source)
    with opened(cluster, copy) as image, opened(cluster, volume) as original:
        original.write(b"changed", 5 * MIB)
        assert image.read(5 * MIB, len(CONTENT)) == CONTENT
        image.write(b"new", 0)
        pool = DATA if parameters else cluster.pool
        assert all(each.startswith(f"{pool}: ") for each in data_objects(cluster, image.id()))


def test_after_the_deletion_nothing_is_left_in_either_pool(coded: Driver, cluster: Ceph) -> None:
    name = unique()
    made = coded.create(name, 8 * MIB, parameters=CODED)
    with opened(cluster, made) as image:
        image.write(CONTENT, 0)
        image_id = image.id()
    coded.delete(made.volume_id)
    with closing(Provisioner(cluster.config())) as ours:
        ours.volumes.attend(Place("dev", cluster.pool))
        until(lambda: ours.purge() and image_id not in str(cluster.objects()), 60, "the image is purged")
    assert data_objects(cluster, image_id) == []
    assert [each for each in cluster.objects() if name in each or image_id in each] == []


def test_the_key_of_one_volume_opens_no_other_in_the_coded_pool(coded: Driver, cluster: Ceph, volume: csi_pb2.Volume) -> None:
    mine = coded.create(size=8 * MIB, parameters=CODED)
    with closing(Provisioner(cluster.config())) as ours:
        granted = ours.volumes.publish(ours.volumes.get(VolumeId.parse(mine.volume_id))).credentials
    conf = {"key": granted.key, "keyring": "/dev/null"}
    handle = rados.Rados(conffile=cluster.conf, name=f"client.{granted.user}", conf=conf)
    handle.connect()
    try:
        with handle.open_ioctx(cluster.pool) as pool, handle.open_ioctx(DATA) as data:
            with rbd.Image(pool, mine.volume_context["imageName"]) as image:
                image.write(CONTENT, 0)
                assert image.read(0, len(CONTENT)) == CONTENT
            with opened(cluster, volume) as other:
                (name,) = data_objects(cluster, other.id())
            for attempt in (data.read, data.remove_object):
                with pytest.raises(rados.PermissionError):
                    attempt(name.removeprefix(f"{DATA}: "))
    finally:
        handle.shutdown()


def test_capacity_is_what_the_coded_pool_can_take(coded: Driver, cluster: Ceph) -> None:
    def told() -> tuple[int, int]:
        (entry,) = (each for each in cluster.command("df")["pools"] if each["name"] == DATA)  # type: ignore[index, call-overload]
        request = csi_pb2.GetCapacityRequest(parameters=CODED)
        return coded.controller.GetCapacity(request, timeout=30).available_capacity, entry["stats"]["max_avail"]

    until(lambda: told()[0] == told()[1] > 0, 60, "it is what Ceph says", lambda: str(told()))


def test_a_coded_pool_can_hold_data_only(coded: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "'coded'", "erasure-coded", "dataPool"):
        coded.create(parameters={"pool": DATA})


def test_a_coded_pool_that_takes_no_overwrites_is_refused_by_name(coded: Driver, cluster: Ceph) -> None:
    name = unique()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "dataPool", WRITTEN_ONCE, "allow_ec_overwrites"):
        coded.create(name, parameters={"dataPool": WRITTEN_ONCE})
    assert name not in cluster.images()
