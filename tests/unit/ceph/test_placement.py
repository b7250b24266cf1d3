"""Placement groups by our own arithmetic, against what Ceph 16.2's `osd map` says."""

import pytest

from provisioner.ceph.placement import group_of, name_in_each


@pytest.mark.parametrize(
    ("name", "namespace", "groups", "group"),
    [
        ("foo", "", 1 << 32, 0x7FC1F406),
        ("foo", "ns1", 1 << 32, 0xF4569544),
        ("foo", "", 8, 6),
        ("foo", "ns1", 8, 4),
        ("foo", "", 1, 0),
        ("foo", "", 7, 6),
        ("foo", "", 12, 6),
    ],
)
def test_an_object_lies_where_ceph_says(name: str, namespace: str, groups: int, group: int) -> None:
    assert group_of(name, namespace, groups) == group


@pytest.mark.parametrize("namespace", ["", "ns1"])
@pytest.mark.parametrize("groups", [1, 8, 12, 100])
def test_there_is_one_name_for_each_group(groups: int, namespace: str) -> None:
    names = list(name_in_each(groups, namespace, "x."))
    assert sorted(group_of(name, namespace, groups) for name in names) == list(range(groups))
