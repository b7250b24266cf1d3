"""What a caller and the log learn of a call, however it ends."""

from collections.abc import Iterator
from urllib.parse import quote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.pb import csi_pb2
from provisioner.core import errors
from provisioner.rpc.status import code_for, status_for
from tests.contract.driver import error_info, refused
from tests.unit.rpc.conftest import Behaviour, Bench

SECRET = "QVFEc2VjcmV0a2V5"
CODES = {
    errors.InvalidRequest("size", 1, "no"): grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange("size", 1, "no"): grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound("x"): grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists("x", ["size"]): grpc.StatusCode.ALREADY_EXISTS,
    errors.InUse("x", ["10.0.0.1"]): grpc.StatusCode.FAILED_PRECONDITION,
    errors.HasDependants("x", ["y"]): grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unfit("x", "holds data"): grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfSpace("rbd"): grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LimitReached("x", 450): grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Conflict("x", "create"): grpc.StatusCode.ABORTED,
    errors.Denied("x"): grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable("x"): grpc.StatusCode.UNAVAILABLE,
    errors.Unsupported("x"): grpc.StatusCode.UNIMPLEMENTED,
}


def kinds(root: type[errors.ProvisionerError] = errors.ProvisionerError) -> Iterator[type[errors.ProvisionerError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


def raising(error: Exception) -> Behaviour:
    def behaviour(request: object, context: object) -> csi_pb2.CreateVolumeResponse:
        raise error

    return behaviour


def test_every_error_of_the_core_is_in_the_table() -> None:
    assert {type(error) for error in CODES} == set(kinds())


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=lambda value: type(value).__name__)
def test_an_error_of_the_core_reaches_the_caller_as_its_code(bench: Bench, error: Exception, code: grpc.StatusCode) -> None:
    bench.does["Heavy"] = raising(error)
    bench.start()
    with refused(code, str(error)):
        bench.call()
    assert bench.seen == [("/test.Bench/Heavy", code.name)]


def test_an_unknown_error_has_its_ancestors_code() -> None:
    class Stale(errors.NotFound):
        pass

    assert code_for(Stale("x"), {}) is grpc.StatusCode.NOT_FOUND


def test_a_front_ends_own_table_wins() -> None:
    class BadToken(errors.ProvisionerError):
        pass

    assert code_for(BadToken("x"), {}) is grpc.StatusCode.INTERNAL
    assert code_for(BadToken("x"), {BadToken: grpc.StatusCode.ABORTED}) is grpc.StatusCode.ABORTED


def test_details_tell_the_kind_and_the_facts(bench: Bench) -> None:
    bench.does["Heavy"] = raising(errors.AlreadyExists("volume a", ["size", "features"]))
    bench.start()
    with pytest.raises(grpc.RpcError) as caught:
        bench.call()
    info = error_info(caught.value)
    assert (info.reason, dict(info.metadata)) == ("ALREADY_EXISTS", {"what": "volume a", "differs": "size, features"})


@given(st.text(st.characters(), max_size=3000) | st.text("ü\n%", min_size=2000, max_size=5000))
def test_any_text_makes_a_status(text: str) -> None:
    told = status_for(errors.InvalidRequest(text, text, text), {})
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    ((_, details),) = told.trailing_metadata
    assert len(quote(told.details)) + len(details) * 4 / 3 < 8000


def test_a_long_message_still_arrives(bench: Bench) -> None:
    bench.does["Heavy"] = raising(errors.HasDependants("ü" * 5000, ["y" * 5000]))
    bench.start()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "ü" * 200):
        bench.call()


def test_a_defect_is_internal_and_its_traceback_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.does["Heavy"] = raising(ZeroDivisionError("inside"))
    bench.start()
    with refused(grpc.StatusCode.INTERNAL, "ZeroDivisionError"):
        bench.call()
    assert "test_boundary.py" in caplog.text
    assert bench.seen == [("/test.Bench/Heavy", "INTERNAL")]


def test_a_method_that_nobody_wrote_is_unimplemented(bench: Bench) -> None:
    bench.does["Heavy"] = raising(NotImplementedError("generated"))
    bench.start()
    with refused(grpc.StatusCode.UNIMPLEMENTED, "/test.Bench/Heavy"):
        bench.call()


@pytest.mark.parametrize("error", [None, errors.NotFound("x"), ZeroDivisionError("x")])
def test_no_log_line_shows_a_secret(bench: Bench, error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    if error is not None:
        bench.does["Heavy"] = raising(error)
    bench.start()
    assert bench.future(name="pvc-1", secrets={"userKey": SECRET}).exception() is None or error is not None
    assert "pvc-1" in caplog.text
    assert SECRET not in caplog.text


def test_one_call_is_one_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.start()
    bench.call(name="pvc-1\nERROR forged")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "provisioner.rpc.boundary"]
    assert "\n" not in line
