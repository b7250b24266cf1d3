"""From a class to a cluster: chosen by name, by monitors, or because there is only one, and never the wrong one."""

from collections.abc import Iterator, Mapping

import pytest

from provisioner.ceph.cluster import ClusterConfig
from provisioner.claims.classes import Class, Classes, refuse_other_cluster
from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place
from provisioner.kube.kubeconfig import Access
from provisioner.kube.transport import Api
from tests.unit.claims.objects_of import storage_class

EAST = ClusterConfig("east", monitors=("10.1.0.1:6789", "10.1.0.2:6789"))
WEST = ClusterConfig("west", monitors=("10.2.0.1:6789",))


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api(Access(server="https://127.0.0.1:1"), "tests")
    yield api
    api.close()


def resolve(api: Api, parameters: dict[str, str], *clusters: ClusterConfig) -> Class:
    known: Mapping[str, ClusterConfig] = {cluster.name: cluster for cluster in clusters}
    return Classes(api, lambda: known).resolve(storage_class(parameters))


class TestChoosingACluster:
    def test_the_only_one_needs_no_name(self, api: Api) -> None:
        assert resolve(api, {"pool": "fast"}, EAST).place == Place("east", "fast")

    def test_one_of_several_is_chosen_by_name(self, api: Api) -> None:
        assert resolve(api, {"clusterID": "west"}, EAST, WEST).place.cluster == "west"

    def test_one_of_several_is_chosen_by_its_monitors(self, api: Api) -> None:
        assert resolve(api, {"monitors": "10.2.0.1:6789"}, EAST, WEST).place.cluster == "west"

    def test_several_and_no_word_is_refused_with_their_names(self, api: Api) -> None:
        with pytest.raises(InvalidRequest, match="east, west"):
            resolve(api, {}, EAST, WEST)

    def test_an_unknown_name_is_refused_with_the_known_ones(self, api: Api) -> None:
        with pytest.raises(InvalidRequest, match="'north': known clusters: east, west"):
            resolve(api, {"clusterID": "north"}, EAST, WEST)

    def test_monitors_of_no_cluster_are_refused(self, api: Api) -> None:
        with pytest.raises(InvalidRequest) as caught:
            resolve(api, {"monitors": "10.9.0.1:6789"}, EAST, WEST)
        assert caught.value.field == "parameters.monitors"

    @pytest.mark.parametrize("pool", ["a/b", "a@b", "x" * 120])
    def test_a_pool_that_no_id_can_name_is_refused(self, api: Api, pool: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            resolve(api, {"pool": pool}, EAST)
        assert caught.value.field == "pool"


class TestMonitorsOfTheClass:
    @pytest.mark.parametrize(
        "said",
        ["10.1.0.2:6789", "10.1.0.2", "10.1.0.2:3300", "v2:10.1.0.2:3300/0", "10.9.0.9,10.1.0.1", "mon.example.com:6789"],
    )
    def test_are_accepted_if_one_may_be_the_clusters(self, api: Api, said: str) -> None:
        refuse_other_cluster(resolve(api, {"monitors": said}, EAST), EAST.monitors)

    @pytest.mark.parametrize("said", ["10.9.0.1:6789", "10.9.0.1,10.9.0.2", "[fd00::9]:6789", "v1:10.9.0.1:6789/0"])
    def test_are_refused_if_all_are_anothers(self, api: Api, said: str) -> None:
        with pytest.raises(InvalidRequest, match=r"10\.1\.0\.1:6789"):
            refuse_other_cluster(resolve(api, {"monitors": said}, EAST), EAST.monitors)

    def test_are_compared_as_addresses(self, api: Api) -> None:
        refuse_other_cluster(resolve(api, {"monitors": "[FD00:0::1]:6789"}, EAST), ["[fd00::1]:6789"])


class TestSeveralPools:
    POOLS = """[{"poolName": "a", "domainSegments": [{"domainLabel": "zone", "value": "east"}]},
                {"poolName": "b", "dataPool": "c", "domainSegments": []}]"""

    def test_each_is_a_class_of_its_own_with_where_it_can_be_reached_from(self, api: Api) -> None:
        cluster = ClusterConfig("dev", segments=(("region", "north"),))
        first, second = resolve(api, {"topologyConstrainedPools": self.POOLS}, cluster).each_pool()
        assert (first.place, dict(first.segments)) == (Place("dev", "a"), {"region": "north", "zone": "east"})
        assert (second.place, dict(second.segments)) == (Place("dev", "b"), {"region": "north"})
        assert (first.parameters.layout.data_pool, second.parameters.layout.data_pool) == ("", "c")

    def test_what_cannot_be_a_pool_is_refused(self, api: Api) -> None:
        pools = self.POOLS.replace('"b"', '"a/b"')
        with pytest.raises(InvalidRequest, match="topologyConstrainedPools"):
            resolve(api, {"topologyConstrainedPools": pools}, ClusterConfig("dev"))
