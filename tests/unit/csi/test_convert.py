"""Words of CSI, values of the core: what holds for every input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi import convert
from csi.pb import csi_pb2
from provisioner.core.errors import InvalidRequest, OutOfRange
from provisioner.core.model import MIB

_BYTES = st.integers(-(2**62), 2**62) | st.integers(0, 4 << 30)


@given(_BYTES, _BYTES)
def test_a_size_is_within_what_was_asked_or_refused(required: int, limit: int) -> None:
    size = convert.size_to_make(csi_pb2.CapacityRange(required_bytes=required, limit_bytes=limit))
    try:
        chosen = size.choose()
    except OutOfRange:
        return
    assert chosen % MIB == 0
    assert max(required, 1) <= chosen
    assert not limit or chosen <= limit
    assert required or chosen <= convert.DEFAULT_SIZE


def test_no_size_is_a_gib() -> None:
    assert convert.size_to_make(csi_pb2.CapacityRange()).choose() == 1 << 30


def test_the_only_cluster_needs_no_name_but_one_of_several_does() -> None:
    assert convert.read_class({}, ["dev"]).place.cluster == "dev"
    with pytest.raises(InvalidRequest, match="known clusters: a, b"):
        convert.read_class({}, ["b", "a"])


@pytest.mark.parametrize("name", ["pvType", "PVTYPE"])
def test_a_class_may_say_that_it_is_for_csi(name: str) -> None:
    assert convert.read_class({name: "csi"}, ["dev"]).place.pool == "rbd"
    with pytest.raises(InvalidRequest, match="native"):
        convert.read_class({name: "native"}, ["dev"])


@pytest.mark.parametrize("name", ["monitors", "adminId", "ADMINSECRETNAME", "userId", "userSecretNamespace"])
def test_what_only_a_native_volume_can_use_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        convert.read_class({name: "x"}, ["dev"])


@given(st.dictionaries(st.sampled_from(["userID", "userKey", "encryptionPassphrase"]), st.sampled_from(["", " ", "csi", "a\n"])))
def test_credentials_are_whole_or_absent_or_refused(secrets: dict[str, str]) -> None:
    user, key = secrets.get("userID", "").strip(), secrets.get("userKey", "").strip()
    if bool(user) != bool(key):
        with pytest.raises(InvalidRequest, match="go together"):
            convert.credentials(secrets)
    else:
        assert (convert.credentials(secrets) is None) == (not user)


def test_a_key_without_its_user_is_not_told_in_the_refusal() -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.credentials({"userKey": "QVFEc2VjcmV0"})
    assert "QVFEc2VjcmV0" not in str(caught.value) + str(vars(caught.value))


def test_the_users_kind_is_not_part_of_its_name() -> None:
    found = convert.credentials({"userID": " client.csi\n", "userKey": "k\n"})
    assert found is not None
    assert (found.user, found.key) == ("csi", "k")
