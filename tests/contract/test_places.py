"""Pools, namespaces, clusters and users through the socket. About 25 seconds: the second cluster takes most of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from csi.pb import csi_pb2
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.places import Places
from provisioner.core.errors import Denied
from provisioner.core.ids import Place
from tests.contract.driver import GIB, MIB, Driver, capability, refused, running, unique
from tests.harness.ceph import Ceph, User

TENANT, COLD, PRIVATE = "tenant-of-places", "cold-of-places", "private"


@pytest.fixture(scope="module")
def places(ceph: Ceph, second: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A controller of two clusters without a word on pools: one has a namespace, a pool for data, and a pool of somebody's."""
    ceph.make_namespace(TENANT)
    ceph.command("osd pool create", pool=COLD, pg_num=8)
    ceph.let_provision(COLD)
    ceph.make_pool(PRIVATE)
    clusters = {"dev": ceph.config("dev"), "second": second.config("second")}
    try:
        with running(ceph, tmp_path_factory.mktemp("places"), clusters=clusters) as driver:
            yield driver
    finally:
        for pool in (COLD, PRIVATE):
            ceph.drop_pool(pool)


@pytest.fixture(scope="module")
def secrets(places: Driver, ceph: Ceph) -> dict[str, str]:
    user = ceph.make_user("tenant", mon="profile rbd", osd=f"profile rbd pool={PRIVATE}")
    return {"userID": user.name, "userKey": user.key}


def listed(driver: Driver) -> list[str]:
    answer = driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30)
    return [entry.volume.volume_id for entry in answer.entries]


def test_every_place_of_every_cluster_is_listed(places: Driver, ceph: Ceph, second: Ceph) -> None:
    name = unique()
    classes = [
        {"clusterID": "dev"},
        {"clusterID": "dev", "radosNamespace": TENANT},
        {"clusterID": "second"},
    ]
    made = [places.create(name, MIB, parameters=parameters).volume_id for parameters in classes]
    assert made == [f"dev/{ceph.pool}/{name}", f"dev/{ceph.pool}/{TENANT}/{name}", f"second/{second.pool}/{name}"]
    assert [volume for volume in listed(places) if volume.endswith(name)] == made
    assert [name in images for images in (ceph.images(), ceph.images(namespace=TENANT), second.images())] == [True] * 3
    for volume in made:
        places.delete(volume)
    assert not [volume for volume in listed(places) if volume.endswith(name)]


def test_one_of_several_clusters_has_to_be_named(places: Driver) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "known clusters: dev, second"):
        places.create(parameters={})


class TestSurvey:
    @contextmanager
    def of(self, config: object) -> Iterator[Places]:
        clusters = Clusters(lambda: {"dev": config})  # type: ignore[dict-item, return-value]
        try:
            yield Places(clusters)
        finally:
            clusters.close()

    def test_it_finds_what_its_user_may_read_and_nothing_else(self, places: Driver, ceph: Ceph) -> None:
        with self.of(ceph.config()) as survey:
            found = survey.of("dev")
        assert {Place("dev", ceph.pool), Place("dev", ceph.pool, TENANT)} <= set(found)
        assert not {PRIVATE, COLD} & {place.pool for place in found}

    def test_what_belongs_to_the_cluster_lies_in_pool_rbd(self, ceph: Ceph) -> None:
        with self.of(ceph.config()) as survey:
            assert survey.home("dev") == Place("dev", "rbd")

    def test_the_config_file_has_the_last_word(self, ceph: Ceph) -> None:
        with self.of(replace(ceph.config(), pools=("a", "b/c"))) as survey:
            assert survey.of("dev") == [Place("dev", "a"), Place("dev", "b", "c")]
            assert survey.home("dev") == Place("dev", "a")

    def test_a_user_that_may_read_no_pool_is_told_so(self, ceph: Ceph, tmp_path: Path) -> None:
        user = ceph.make_user("no-pools", mon="profile rbd")
        with self.of(config_of(ceph, user, tmp_path)) as survey:
            with pytest.raises(Denied, match=r"client\.no-pools"):
                survey.of("dev")
            assert survey.home("dev") == Place("dev", "rbd")

    def test_a_cluster_that_only_requests_bring_a_key_for_has_a_home(self, ceph: Ceph) -> None:
        with self.of(replace(ceph.config(), keyring="/nowhere")) as survey:
            assert survey.home("dev") == Place("dev", "rbd")


class TestDataPools:
    def test_data_lie_in_the_pool_of_the_class_and_the_node_is_told(self, places: Driver, ceph: Ceph) -> None:
        name, parameters = unique(), {"clusterID": "dev", "dataPool": COLD}
        volume = places.create(name, GIB, parameters=parameters)
        assert volume.volume_context["dataPool"] == ceph.info(name)["data_pool"] == COLD
        assert places.create(name, GIB, parameters=parameters) == volume

    def test_a_data_pool_that_is_not_there_is_named(self, places: Driver, ceph: Ceph) -> None:
        name = unique()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "no-such-pool"):
            places.create(name, parameters={"clusterID": "dev", "dataPool": "no-such-pool"})
        assert name not in ceph.images()


class TestSecrets:
    """A user that may work in one pool only, which the config file's user may not even read."""

    PARAMETERS = {"clusterID": "dev", "pool": PRIVATE}

    def test_they_win_over_the_config_file_in_every_call(self, places: Driver, ceph: Ceph, secrets: dict[str, str]) -> None:
        name = unique()
        volume = places.create(name, MIB, parameters=self.PARAMETERS, secrets=secrets)
        assert name in ceph.images(PRIVATE)
        places.controller.ControllerModifyVolume(
            csi_pb2.ControllerModifyVolumeRequest(
                volume_id=volume.volume_id, secrets=secrets, mutable_parameters={"maxIops": "10"}
            ),
            timeout=30,
        )
        size = csi_pb2.CapacityRange(required_bytes=2 * MIB)
        expand = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume.volume_id, secrets=secrets, capacity_range=size)
        assert places.controller.ControllerExpandVolume(expand, timeout=30).capacity_bytes == 2 * MIB
        validate = csi_pb2.ValidateVolumeCapabilitiesRequest(
            volume_id=volume.volume_id, secrets=secrets, volume_capabilities=[capability()], parameters=self.PARAMETERS
        )
        assert places.controller.ValidateVolumeCapabilities(validate, timeout=30).HasField("confirmed")
        places.delete(volume.volume_id, secrets=secrets)
        assert name not in ceph.images(PRIVATE)

    def test_without_them_the_config_files_user_is_denied(self, places: Driver, ceph: Ceph) -> None:
        name = unique()
        with refused(grpc.StatusCode.PERMISSION_DENIED):
            places.create(name, MIB, parameters=self.PARAMETERS)
        assert name not in ceph.images(PRIVATE)

    def test_with_them_the_config_files_pools_are_denied(self, places: Driver, ceph: Ceph, secrets: dict[str, str]) -> None:
        name = unique()
        with refused(grpc.StatusCode.PERMISSION_DENIED):
            places.create(name, MIB, parameters={"clusterID": "dev"}, secrets=secrets)
        assert name not in ceph.images()


def config_of(ceph: Ceph, user: User, directory: Path) -> object:
    keyring = directory / "keyring"
    keyring.write_text(f"[client.{user.name}]\nkey = {user.key}\n")
    return replace(ceph.config(), user=user.name, keyring=str(keyring))
