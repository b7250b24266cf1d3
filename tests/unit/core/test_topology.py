"""`topologyConstrainedPools`, and which topology a pool can be reached from. Takes no time."""

import json

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.core.topology import ConstrainedPool, keys_of, read_pools


def pool(name: object = "east", **more: object) -> dict[str, object]:
    return {"poolName": name, "domainSegments": [{"domainLabel": "zone", "value": "east"}], **more}


def test_the_parameter_is_read_as_ceph_csi_writes_it() -> None:
    text = json.dumps([pool(dataPool="ec"), pool("west", domainSegments=[])])
    assert read_pools(text) == (ConstrainedPool("east", "ec", (("zone", "east"),)), ConstrainedPool("west", "", ()))


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing_is_no_choice(text: str) -> None:
    assert read_pools(text) == ()


@pytest.mark.parametrize(
    ("pools", "word"),
    [
        ([pool(""), pool()], "poolName ''"),
        ([pool(), pool()], "poolName 'east'"),
        ([pool(poolname="x")], "poolname"),
        ([{"poolName": "east"}], "domainSegments"),
        ([pool(domainSegments=[{"domainLabel": "", "value": "x"}])], "empty domainLabel"),
        ([pool(domainSegments=[{"domainLabel": "zone", "value": "a"}, {"domainLabel": "zone", "value": "b"}])], "twice"),
        ({"poolName": "east"}, "array"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(pools: object, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as refused:
        read_pools(json.dumps(pools))
    assert refused.value.field == "parameters.topologyConstrainedPools"


NODE = {"topology.rbd.example.com/zone": "east", "topology.kubernetes.io/region": "north"}


@pytest.mark.parametrize(
    ("segments", "keys"),
    [
        ({}, {}),
        ({"zone": "east"}, {"topology.rbd.example.com/zone": "east"}),
        ({"topology.kubernetes.io/region": "north"}, {"topology.kubernetes.io/region": "north"}),
        ({"zone": "east", "region": "north"}, NODE),
        ({"zone": "west"}, None),
        ({"zone": "east", "rack": "r1"}, None),
        ({"other.example.com/zone": "east"}, None),
    ],
)
def test_a_label_is_a_key_or_its_last_part(segments: dict[str, str], keys: dict[str, str] | None) -> None:
    assert keys_of(segments, NODE) == keys
