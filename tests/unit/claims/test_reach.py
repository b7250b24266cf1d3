"""Which nodes reach a cluster: the config file's segments against the nodes' labels. No time at all."""

from provisioner.claims.reach import bind_to_nodes, selector, wanted_from
from provisioner.kube.resources import PERSISTENT_VOLUMES

ZONE = "topology.kubernetes.io/zone"
EAST, WEST = {ZONE: "east", "kubernetes.io/os": "linux"}, {ZONE: "west"}


def test_a_cluster_without_segments_is_reached_from_all_nodes() -> None:
    assert selector({}, [EAST, WEST]) == {}


def test_a_short_domain_label_is_spelled_as_the_nodes_spell_it() -> None:
    assert selector({"zone": "west"}, [EAST, {"example.com/zone": "west"}]) == {"example.com/zone": "west"}


def test_a_whole_label_is_taken_as_it_is() -> None:
    assert selector({ZONE: "east"}, [WEST, EAST]) == {ZONE: "east"}


def test_every_segment_counts() -> None:
    both = {"zone": "east", "rack": "7"}
    assert selector(both, [EAST, {**EAST, "example.com/rack": "7"}]) == {ZONE: "east", "example.com/rack": "7"}


def test_where_no_node_reaches_it_none_that_lacks_the_label_is_taken_for_one_that_does() -> None:
    assert selector({"zone": "north", "example.com/rack": "7"}, [EAST, WEST]) == {ZONE: "north", "example.com/rack": "7"}


def test_a_volume_that_all_nodes_reach_is_bound_to_none() -> None:
    volume = PERSISTENT_VOLUMES.body({"name": "v"}, spec={})
    bind_to_nodes(volume, {})
    assert volume["spec"] == {}


def test_a_volume_is_bound_to_the_nodes_that_bear_all_labels() -> None:
    volume = PERSISTENT_VOLUMES.body({"name": "v"}, spec={})
    bind_to_nodes(volume, {ZONE: "east", "example.com/rack": "7"})
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert [(each["key"], each["operator"], each["values"]) for each in term["matchExpressions"]] == [
        ("example.com/rack", "In", ["7"]),
        (ZONE, "In", ["east"]),
    ]


class TestWhereAVolumeIsWanted:
    def test_anywhere_if_nobody_says(self) -> None:
        assert wanted_from(None, [], [EAST, WEST]) == []

    def test_first_on_the_selected_node(self) -> None:
        assert wanted_from(WEST, [], [EAST, WEST]) == [WEST, EAST, WEST]

    def test_where_the_class_allows_it(self) -> None:
        assert wanted_from(None, [{ZONE: {"west", "north"}}], [EAST, WEST]) == [WEST, {ZONE: "north"}, {ZONE: "west"}]

    def test_all_of_a_term_and_one_of_the_terms(self) -> None:
        terms = [{ZONE: {"east"}, "rack": {"7"}}, {ZONE: {"west"}}]
        assert wanted_from(None, terms, [EAST, WEST])[0] == WEST
