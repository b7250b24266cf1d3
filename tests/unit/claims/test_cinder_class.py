"""StorageClasses whose backend is Cinder: which they are, what they say, and what is refused."""

import pytest

from provisioner.cinder.offering import GIB, Offering
from provisioner.claims import cinder_class
from provisioner.core.errors import InvalidRequest, OutOfRange
from provisioner.core.model import SizeRange
from provisioner.core.parameters import SecretRef


@pytest.mark.parametrize(
    ("parameters", "clouds", "clusters", "is_cinders"),
    [
        ({"cloud": "a"}, ["a"], ["dev"], True),
        ({"TYPE": "fast"}, ["a"], ["dev"], True),
        ({"availability": "nova"}, [], ["dev"], True),
        ({"smartclone": "true"}, ["a"], ["dev"], True),
        ({}, ["a"], [], True),
        ({}, ["a"], ["dev"], False),
        ({"pool": "rbd"}, ["a"], ["dev"], False),
    ],
)
def test_a_class_is_cinders_if_it_says_so_or_nothing_else_is_there(
    parameters: dict[str, str], clouds: list[str], clusters: list[str], is_cinders: bool
) -> None:
    assert cinder_class.is_cinders(parameters, clouds, clusters) is is_cinders


def test_type_and_zone_are_what_is_asked_of_cinder() -> None:
    read = cinder_class.read({"Type": "fast", "availability": "nova", "fsType": "xfs"}, ["a"])
    assert read.layout == Offering(type="fast", zone="nova")
    assert read.layout.described() == {"type": "fast", "availability": "nova"}
    assert (read.cluster, read.fs_type) == ("a", "xfs")


def test_a_secret_for_nodes_may_be_named() -> None:
    read = cinder_class.read({"userSecretName": "key"}, ["a"])
    assert read.given_user is not None
    assert read.given_user.secret == SecretRef("", "key")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"availabilty": "nova"}, "parameters.availabilty 'nova': unknown parameter of a class of Cinder's"),
        ({"type": "a", "pool": "rbd"}, "parameters.pool 'rbd': unknown parameter"),
        ({"type": "a", "Type": "b"}, "is given twice"),
        ({"smartclone": "yes"}, "must be true or false"),
        ({"cloud": "b"}, "parameters.cloud 'b': must be one of `clouds` in the config file: a"),
        ({"type": "x", "fsType": "ntfs"}, "fstype 'ntfs'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(parameters: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        cinder_class.read(parameters, ["a"])


def test_of_several_clouds_one_must_be_named() -> None:
    with pytest.raises(InvalidRequest, match="must be one of `clouds` in the config file: a, b"):
        cinder_class.read({"type": "x"}, ["a", "b"])


def test_sizes_are_whole_gibs_within_the_limit() -> None:
    assert Offering().rounded(SizeRange(GIB + 1)) == SizeRange(2 * GIB)
    with pytest.raises(OutOfRange, match="rounded up to GiB is over the limit"):
        Offering().rounded(SizeRange(GIB + 1, GIB + 2))
