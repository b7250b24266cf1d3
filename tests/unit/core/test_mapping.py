"""Options of mappings are checked as a volume is made: each by name and value, for the kind of device that is to have them."""

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.core.mapping import check_location, check_map_options, check_unmap_options, is_forced, location_of


@pytest.mark.parametrize(
    ("text", "mounter"),
    [
        ("", "rbd"),
        ("noshare", "rbd"),
        ("lock_on_read, queue_depth=1024", "auto"),
        ("ms_mode=secure,read_from_replica=localize,crush_location=rack:a|host:b", "rbd"),
        ("krbd:ms_mode=prefer-crc;nbd:try-netlink,io-timeout=30", "rbd"),
        ("krbd:ms_mode=prefer-crc;nbd:try-netlink,io-timeout=30", "rbd-nbd"),
        ("krbd:noshare", "fuse"),
        ("try-netlink", "rbd-nbd"),
    ],
)
def test_what_the_kind_of_device_knows_is_accepted(text: str, mounter: str) -> None:
    check_map_options(text, mounter)


@pytest.mark.parametrize(
    ("text", "mounter", "said"),
    [
        ("nosahre", "rbd", "nosahre.*no such option"),
        ("krbd:ms_mode=fast", "rbd", "ms_mode=fast.*prefer-secure"),
        ("read_from_replica=near", "auto", "localize"),
        ("crush_location=rack", "rbd", "rack:r1"),
        ("queue_depth=many", "rbd", "queue_depth=many.*whole number"),
        ("queue_depth", "rbd", "whole number"),
        ("noshare=1", "rbd", "takes no value"),
        ("name=admin", "rbd", "not for a class"),
        ("ro", "rbd", "not for a class"),
        ("noshare", "fuse", "fuse has none"),
        ("fuse:x", "fuse", "fuse has none"),
        ("iscsi:x;krbd:noshare", "rbd", "iscsi"),
        ("krbd:noshare;nbd:keyring=/etc/passwd", "rbd-nbd", "keyring.*io-timeout"),
        ("io-timeout=soon", "rbd-nbd", "whole number"),
        ("exclusive=1", "rbd-nbd", "takes no value"),
    ],
)
def test_what_it_can_not_do_is_refused_by_name(text: str, mounter: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        check_map_options(text, mounter)
    assert (caught.value.field, caught.value.value) == ("mapOptions", text)


def test_unmapping_knows_force_only() -> None:
    for text in ("", "force", "krbd:force", "krbd:force;nbd:anything"):
        check_unmap_options(text, "rbd")
    with pytest.raises(InvalidRequest, match="harder"):
        check_unmap_options("krbd:harder", "rbd")
    for mounter, text in (("rbd-nbd", "nbd:force"), ("rbd-nbd", "force"), ("fuse", "force")):
        with pytest.raises(InvalidRequest, match=f"{mounter} has none"):
            check_unmap_options(text, mounter)
    check_unmap_options("krbd:force", "rbd-nbd")


def test_a_location_is_types_and_names() -> None:
    assert [check_location("--read-affinity", text) for text in ("", "host:a", "rack:a|host:b-1")] == [
        "",
        "host:a",
        "rack:a|host:b-1",
    ]
    for wrong in ("host", "host:a,ro", "host:a|", "host:a name=admin"):
        with pytest.raises(InvalidRequest, match="--read-affinity"):
            check_location("--read-affinity", wrong)


@pytest.mark.parametrize(
    ("text", "forced"), [("", False), ("force", True), ("krbd:force", True), ("krbd:force;nbd:x", True), ("nbd:force", False)]
)
def test_force_is_the_kernels_to_do(text: str, *, forced: bool) -> None:
    assert is_forced(text) == forced


ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"


@pytest.mark.parametrize(
    ("labels", "wanted", "location"),
    [
        ({ZONE: "a", HOST: "n1.example.com"}, [ZONE, HOST], "zone:a|host:n1-example-com"),
        ({ZONE: "a", HOST: "n1"}, [HOST], "host:n1"),
        ({ZONE: "a.b"}, [ZONE, HOST], "zone:a.b"),
        ({"rack": "r1", ZONE: ""}, [ZONE, "rack"], "rack:r1"),
        ({}, [ZONE], ""),
    ],
)
def test_a_nodes_labels_say_where_it_is(labels: dict[str, str], wanted: list[str], location: str) -> None:
    assert location_of(labels, wanted) == location


def test_a_label_that_no_bucket_can_be_called_by_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--crush-location-labels"):
        location_of({"rack": "a,ro"}, ["rack"])
