"""Classes with several pools, through the socket: one choice, whoever asks again, from anywhere. About 12 seconds."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import rados

from csi.pb import csi_pb2
from tests.contract.driver import GIB, MIB, NAME, Driver, capability, refused, running, unique
from tests.harness.ceph import Ceph
from tests.harness.store import quota

EAST, WEST = "east", "west"
KEY = f"topology.{NAME}/zone"
HOME_OBJECTS = "ceph-provisioner.places."


def constrained(*pools: str, **more: str) -> dict[str, str]:
    """Parameters of a class over pools that are reached from the zones of their names."""
    listed = [{"poolName": pool, "domainSegments": [{"domainLabel": "zone", "value": pool}], **more} for pool in pools]
    return {"topologyConstrainedPools": json.dumps(listed)}


BOTH = constrained(EAST, WEST)


def topology(zone: str, **more: str) -> csi_pb2.Topology:
    return csi_pb2.Topology(segments={KEY: zone, **more})


def needs(*preferred: str, requisite: tuple[str, ...] = ()) -> csi_pb2.TopologyRequirement:
    required = [topology(zone) for zone in requisite or preferred]
    return csi_pb2.TopologyRequirement(preferred=[topology(zone) for zone in preferred], requisite=required)


@pytest.fixture(scope="module")
def zones(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A controller whose nodes tell where they are, and a pool in either zone that its user may work in."""
    for pool in (EAST, WEST):
        ceph.make_pool(pool)
        ceph.let_provision(pool)
    try:
        with running(ceph, tmp_path_factory.mktemp("zones"), [EAST, WEST], topology=True) as driver:
            yield driver
    finally:
        for pool in (EAST, WEST):
            ceph.drop_pool(pool)


def make(driver: Driver, name: str, requirement: csi_pb2.TopologyRequirement | None = None, **fields: object) -> csi_pb2.Volume:
    fields.setdefault("parameters", BOTH)
    return driver.create(name, MIB, accessibility_requirements=requirement, **fields)


def reserved(ceph: Ceph) -> dict[str, str]:
    """Reservations in the class's home: pool by name."""
    found = {}
    for digit in "0123456789abcdef":
        try:
            entries = ceph.omap(HOME_OBJECTS + digit, EAST)
        except rados.ObjectNotFound:
            continue
        found |= {key: json.loads(value)["pool"] for key, value in entries.items()}
    return found


class TestCreateVolume:
    @pytest.mark.parametrize("zone", [EAST, WEST])
    def test_the_volume_lies_where_it_can_be_reached_from(self, zones: Driver, ceph: Ceph, zone: str) -> None:
        name = unique()
        volume = make(zones, name, needs(zone))
        assert volume.volume_id == f"dev/{zone}/{name}"
        assert name in ceph.images(zone)
        assert [dict(each.segments) for each in volume.accessible_topology] == [{KEY: zone}]

    def test_the_preferred_zones_come_first_in_their_order(self, zones: Driver) -> None:
        assert make(zones, unique(), needs(WEST, EAST)).volume_context["pool"] == WEST
        assert make(zones, unique(), needs(requisite=(WEST, EAST))).volume_context["pool"] == WEST
        assert make(zones, unique(), needs("nowhere", EAST, WEST)).volume_context["pool"] == EAST

    def test_without_a_requirement_the_first_pool_is_taken_and_its_zone_told(self, zones: Driver) -> None:
        volume = make(zones, unique())
        assert volume.volume_context["pool"] == EAST
        assert [dict(each.segments) for each in volume.accessible_topology] == [{KEY: EAST}]

    def test_segments_that_the_class_does_not_name_bind_nobody(self, zones: Driver) -> None:
        requirement = csi_pb2.TopologyRequirement(preferred=[topology(WEST, **{"topology.example.com/rack": "r1"})])
        assert [dict(each.segments) for each in make(zones, unique(), requirement).accessible_topology] == [{KEY: WEST}]

    def test_where_no_pool_is_reached_from_there_is_none_and_it_says_so(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "dev/east from zone=east", "dev/west from zone=west"):
            make(zones, name, needs("north"))
        assert name not in reserved(ceph)

    def test_asked_again_from_elsewhere_the_first_choice_is_found(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        first = make(zones, name, needs(WEST, EAST))
        assert make(zones, name, needs(EAST, WEST)) == first
        assert name not in ceph.images(EAST)

    def test_a_first_choice_that_is_out_of_reach_is_told(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        make(zones, name, needs(WEST))
        with refused(grpc.StatusCode.ALREADY_EXISTS, "dev/west"):
            make(zones, name, needs(EAST))
        assert name not in ceph.images(EAST)

    def test_a_choice_that_nothing_came_of_is_made_anew(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        make(zones, name, needs(WEST))
        entry = json.dumps({"name": name, "pool": WEST, "namespace": "", "since": 0})
        zones.delete(f"dev/{WEST}/{name}")
        _reserve(ceph, name, entry)
        assert make(zones, name, needs(EAST)).volume_context["pool"] == EAST
        assert reserved(ceph)[name] == EAST

    def test_a_choice_that_got_lost_is_found_by_its_volume(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        first = make(zones, name, needs(WEST))
        _forget(ceph, name)
        assert make(zones, name, needs(EAST, WEST)) == first
        assert reserved(ceph)[name] == WEST

    def test_of_two_controllers_that_choose_at_once_one_has_its_way(self, zones: Driver, ceph: Ceph, tmp_path: Path) -> None:
        names = [unique() for _ in range(6)]
        with running(ceph, tmp_path, [EAST, WEST], topology=True) as other, ThreadPoolExecutor(12) as pool:
            one = pool.map(lambda name: _insist(zones, name, needs(EAST, WEST)), names)
            two = pool.map(lambda name: _insist(other, name, needs(WEST, EAST)), names)
            assert list(one) == list(two)
        for name in names:
            assert (name in ceph.images(EAST)) + (name in ceph.images(WEST)) == 1

    def test_a_pool_without_room_makes_way_for_the_next(self, zones: Driver, ceph: Ceph) -> None:
        name, filler = unique(), unique()
        make(zones, filler, needs(EAST), parameters=constrained(EAST, WEST) | {"imageFeatures": "layering"})
        with ceph.open_image(filler, EAST) as image:
            image.write(b"x" * 65536, 0)
        with quota(ceph, EAST, 1):
            assert make(zones, name, needs(EAST, WEST)).volume_context["pool"] == WEST
            assert make(zones, name, needs(EAST, WEST)).volume_context["pool"] == WEST
        assert name not in ceph.images(EAST)
        assert reserved(ceph)[name] == WEST

    def test_a_pool_that_is_not_there_is_named_and_nothing_stays_reserved(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "no-such-pool"):
            make(zones, name, needs("no-such-pool"), parameters=constrained(EAST, "no-such-pool"))
        assert name not in reserved(ceph)


class TestDeleteVolume:
    def test_the_reservation_goes_with_the_volume(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = make(zones, name, needs(WEST))
        assert reserved(ceph)[name] == WEST
        zones.delete(volume.volume_id)
        assert name not in reserved(ceph)
        assert make(zones, name, needs(EAST)).volume_context["pool"] == EAST

    def test_a_volume_in_use_keeps_its_choice(self, zones: Driver, ceph: Ceph) -> None:
        name = unique()
        volume = make(zones, name, needs(WEST))
        with ceph.open_image(name, WEST), refused(grpc.StatusCode.FAILED_PRECONDITION, "in use"):
            zones.delete(volume.volume_id)
        assert make(zones, name, needs(EAST, WEST)) == volume


class TestGetCapacity:
    def capacity(self, driver: Driver, zone: str, **parameters: str) -> int:
        request = csi_pb2.GetCapacityRequest(parameters=parameters or BOTH, accessible_topology=topology(zone))
        return driver.controller.GetCapacity(request, timeout=30).available_capacity

    def test_each_zone_has_that_of_its_own_pool(self, zones: Driver, ceph: Ceph) -> None:
        ceph.command("osd pool set-quota", pool=WEST, field="max_bytes", val=str(GIB))
        try:
            assert self.capacity(zones, WEST) <= GIB < self.capacity(zones, EAST)
        finally:
            ceph.command("osd pool set-quota", pool=WEST, field="max_bytes", val="0")

    def test_a_zone_without_a_pool_has_none(self, zones: Driver) -> None:
        assert self.capacity(zones, "north") == 0

    def test_a_class_that_is_not_constrained_has_the_same_everywhere(self, zones: Driver) -> None:
        assert self.capacity(zones, "north", pool=EAST) > GIB


def test_what_was_made_of_the_class_is_confirmed_to_be(zones: Driver) -> None:
    volume = make(zones, unique(), needs(WEST))
    fields = {"volume_id": volume.volume_id, "volume_capabilities": [capability()], "parameters": BOTH}
    asked = csi_pb2.ValidateVolumeCapabilitiesRequest(**fields)
    assert zones.controller.ValidateVolumeCapabilities(asked, timeout=30).HasField("confirmed")


def test_topology_is_declared_where_nodes_tell_theirs_only(zones: Driver, driver: Driver) -> None:
    constraint = csi_pb2.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS
    declared = [
        {each.service.type for each in one.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).capabilities}
        for one in (zones, driver)
    ]
    assert [constraint in each for each in declared] == [True, False]


def _insist(driver: Driver, name: str, requirement: csi_pb2.TopologyRequirement) -> str:
    """Ask as a sidecar does: again, while the answer is UNAVAILABLE."""
    for _ in range(20):
        try:
            return make(driver, name, requirement).volume_id
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError(f"{name} is UNAVAILABLE for ever")


def _shard(ceph: Ceph, name: str) -> str:
    from provisioner.ceph.reservations import SHARDS

    return SHARDS.object_of(name)


def _reserve(ceph: Ceph, name: str, entry: str) -> None:
    with ceph.admin_pool(EAST) as pool, rados.WriteOpCtx() as operation:
        pool.set_omap(operation, (name,), (entry.encode(),))
        pool.operate_write_op(operation, _shard(ceph, name))


def _forget(ceph: Ceph, name: str) -> None:
    with ceph.admin_pool(EAST) as pool, rados.WriteOpCtx() as operation:
        pool.remove_omap_keys(operation, (name,))
        pool.operate_write_op(operation, _shard(ceph, name))
