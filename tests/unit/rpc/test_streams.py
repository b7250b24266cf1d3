"""What the reader of a stream and the log learn of it, however it ends, and that streams stand in nobody's way."""

import threading
from collections.abc import Iterator

import grpc
import pytest

from csi.pb import csi_pb2
from provisioner.core import errors
from tests.contract.driver import refused
from tests.harness.waiting import until
from tests.unit.rpc.conftest import Bench

METHOD = "/test.Bench/Stream"


def answer(number: int) -> csi_pb2.CreateVolumeResponse:
    return csi_pb2.CreateVolumeResponse(volume=csi_pb2.Volume(capacity_bytes=number))


def telling(*numbers: int, error: Exception | None = None) -> object:
    def behaviour(request: object, context: object) -> Iterator[csi_pb2.CreateVolumeResponse]:
        yield from map(answer, numbers)
        if error is not None:
            raise error

    return behaviour


def endless(request: object, context: object) -> Iterator[csi_pb2.CreateVolumeResponse]:
    long = csi_pb2.CreateVolumeResponse(volume=csi_pb2.Volume(volume_id="x" * 100_000))
    while True:
        yield long


def test_all_messages_arrive_and_the_call_is_noted_once(bench: Bench) -> None:
    bench.streams = telling(1, 2, 3)
    bench.start()
    assert [each.volume.capacity_bytes for each in bench.stream()] == [1, 2, 3]
    until(lambda: bench.seen == [(METHOD, "OK")], 5, "the call is noted", lambda: str(bench.seen))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("snapshot x"), grpc.StatusCode.NOT_FOUND),
        (NotImplementedError("generated"), grpc.StatusCode.UNIMPLEMENTED),
        (ZeroDivisionError("inside"), grpc.StatusCode.INTERNAL),
    ],
)
def test_an_error_between_two_messages_ends_the_stream_with_its_code(
    bench: Bench, error: Exception, code: grpc.StatusCode
) -> None:
    bench.streams = telling(1, error=error)
    bench.start()
    stream = bench.stream()
    assert next(stream) == answer(1)
    with refused(code):
        next(stream)
    assert bench.seen == [(METHOD, code.name)]


def test_a_reader_that_goes_away_ends_the_work_and_is_no_defect(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def watched(request: object, context: object) -> Iterator[csi_pb2.CreateVolumeResponse]:
        try:
            yield from endless(request, context)
        finally:
            ended.set()

    bench.streams = watched
    bench.start()
    stream = bench.stream()
    next(stream)
    stream.cancel()
    assert ended.wait(5)
    until(lambda: bench.seen == [(METHOD, "CANCELLED")], 5, "it is noted", lambda: str(bench.seen))
    assert "defect" not in caplog.text


def test_a_reader_that_pauses_keeps_no_permit_from_other_calls(bench: Bench) -> None:
    bench.streams = endless
    bench.start(permits=1, queue=1, streams=2)
    readers = [bench.stream(timeout=30) for _ in range(2)]
    for reader in readers:
        next(reader)
    assert bench.call() == csi_pb2.CreateVolumeResponse()
    for reader in readers:
        reader.cancel()


def test_one_stream_too_many_is_told_to_come_again(bench: Bench) -> None:
    bench.streams = endless
    server = bench.start(streams=1)
    reading = bench.stream(timeout=30)
    next(reading)
    waiting = bench.stream(timeout=30)
    until(lambda: server._streams.waiting() == 1, 5, "another waits")
    with refused(grpc.StatusCode.UNAVAILABLE, "too many calls"):
        next(bench.stream())
    for reader in (reading, waiting):
        reader.cancel()
