"""No secret is ever shown, in whatever message it lies."""

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from csi.pb import csi_pb2
from csi.policy import is_secret
from provisioner.rpc.redact import Redactor

SECRET = "QVFEc2VjcmV0a2V5"
WITH_SECRETS = sorted(
    name for name, kind in csi_pb2.DESCRIPTOR.message_types_by_name.items() if any(is_secret(field) for field in kind.fields)
)


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_the_secrets_of_every_request_are_left_out(name: str) -> None:
    message = getattr(csi_pb2, name)(secrets={"userKey": SECRET})
    before = message.SerializeToString()
    assert SECRET not in Redactor(is_secret).shown(message)
    assert message.SerializeToString() == before


@given(st.lists(st.sampled_from(["source_code_info", "message_type", "extension"]), max_size=3), st.text("abc", min_size=1))
def test_secrets_are_found_at_any_depth(path: list[str], other: str) -> None:
    """Any contract will do: here the names of a file's inner messages are declared secret, at every depth."""
    inner = descriptor_pb2.DescriptorProto(name=SECRET, nested_type=[descriptor_pb2.DescriptorProto(name=SECRET)])
    inner.nested_type[0].nested_type.add(name=SECRET)
    file = descriptor_pb2.FileDescriptorProto(name=other, message_type=[inner, inner])
    redactor = Redactor(lambda field: field.full_name == "google.protobuf.DescriptorProto.name")
    assert SECRET not in redactor.shown(file)
    assert other in redactor.shown(file)


def test_fields_that_the_contract_does_not_know_are_not_shown() -> None:
    newer = csi_pb2.CreateVolumeRequest(name="pvc-1", secrets={"userKey": SECRET})
    older = csi_pb2.GetMetadataDeltaRequest()
    older.ParseFromString(newer.SerializeToString())
    assert SECRET not in Redactor(is_secret).shown(csi_pb2.ProbeRequest.FromString(newer.SerializeToString()))


def test_a_huge_request_is_cut() -> None:
    assert len(Redactor(is_secret).shown(csi_pb2.CreateVolumeRequest(name="x" * 100_000))) < 3000
