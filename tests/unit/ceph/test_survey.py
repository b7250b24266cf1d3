"""Which pools can hold images, as `osd pool ls detail` tells them. Takes no time."""

import json

from provisioner.ceph.survey import pools_in


def pool(name: str, number: int, kind: int = 1, *applications: str) -> dict[str, object]:
    return {"pool_name": name, "pool_id": number, "type": kind, "size": 3, "application_metadata": {a: {} for a in applications}}


def listed(*pools: dict[str, object]) -> list[str]:
    return pools_in(json.dumps(pools).encode())


def test_those_for_rbd_are_the_usual_one_first_then_the_older_first() -> None:
    assert listed(pool("b", 3, 1, "rbd"), pool("rbd", 9, 1, "rbd"), pool("a", 7, 1, "rbd", "x")) == ["rbd", "b", "a"]


def test_pools_for_anything_else_are_left_out() -> None:
    assert listed(pool("files", 1, 1, "cephfs"), pool("none", 2)) == []


def test_erasure_coded_pools_hold_data_only() -> None:
    assert listed(pool("ec", 1, 3, "rbd")) == []
