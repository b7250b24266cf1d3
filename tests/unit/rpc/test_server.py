"""The server's start and end, and its socket."""

import os
import socket
import stat
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csi.pb import csi_pb2
from provisioner.core.errors import InvalidRequest
from provisioner.rpc.endpoint import make_way, socket_path
from tests.contract.driver import refused
from tests.harness.waiting import until
from tests.unit.rpc.conftest import Bench
from tests.unit.rpc.test_admission import Held

Serving = health_pb2.HealthCheckResponse.ServingStatus


def health(bench: Bench, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(bench.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2).status


@pytest.mark.parametrize("service", ["", "test.Bench"])
def test_the_health_service_knows_each_service(bench: Bench, service: str) -> None:
    bench.start()
    assert health(bench, service) == Serving.SERVING


def test_a_service_that_is_not_there_is_not_found(bench: Bench) -> None:
    bench.start()
    with refused(grpc.StatusCode.NOT_FOUND, "csi.v1.Node"):
        health(bench, "csi.v1.Node")


def test_a_server_that_ends_says_so_while_work_goes_on(bench: Bench) -> None:
    held, server = Held(), bench.start()
    bench.does["Heavy"] = held
    working = bench.future()
    until(lambda: held.names, 5, "it works")
    server._health.end()
    assert health(bench) == Serving.NOT_SERVING
    held.let_go.set()
    assert working.result() == csi_pb2.CreateVolumeResponse()


def test_watchers_of_the_health_service_are_sent_away(bench: Bench) -> None:
    bench.start()
    stub = health_pb2_grpc.HealthStub(bench.channel)
    for _ in range(60):
        with refused(grpc.StatusCode.UNIMPLEMENTED, "Check"):
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=5))
    assert bench.call() == csi_pb2.CreateVolumeResponse()


def test_the_end_lets_work_finish_and_takes_nothing_new(bench: Bench) -> None:
    held = bench.does["Heavy"] = Held()
    server = bench.start(permits=1)
    working, ending = bench.future(name="working"), threading.Thread(target=server.drain, args=(30,))
    until(lambda: held.names, 20, "it works")
    waiting = bench.future(name="waiting")
    until(lambda: server.admission.waiting() == 1, 20, "another waits")
    ending.start()
    assert waiting.exception().code() is grpc.StatusCode.UNAVAILABLE
    with refused(grpc.StatusCode.UNAVAILABLE):
        bench.call(name="new")
    assert not working.done()
    held.let_go.set()
    assert working.result() == csi_pb2.CreateVolumeResponse()
    ending.join(20)
    assert not ending.is_alive()
    assert held.names == ["working"]
    assert not server.path.exists()


def test_work_that_takes_too_long_does_not_hold_up_the_end(bench: Bench) -> None:
    held = bench.does["Heavy"] = Held()
    server, working = bench.start(), bench.future(timeout=20)
    until(lambda: held.names, 5, "it works")
    server.drain(0.2)
    assert working.exception().code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    held.let_go.set()


def test_a_server_may_end_twice(bench: Bench) -> None:
    server = bench.start()
    server.drain(1)
    server.drain(1)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_only_whom_the_mode_lets_may_connect(bench: Bench, mode: int) -> None:
    before = os.umask(0)
    os.umask(before)
    path = bench.start(mode=mode).path
    assert stat.S_IMODE(path.stat().st_mode) == mode
    after = os.umask(before)
    assert after == before


def test_the_socket_of_a_dead_predecessor_is_replaced(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{bench.directory}/s")
    bench.start()
    assert bench.call() == csi_pb2.CreateVolumeResponse()


def test_a_running_servers_socket_is_left_alone(bench: Bench) -> None:
    first = bench.start()
    with pytest.raises(InvalidRequest, match="another server answers"):
        bench.start()
    with grpc.insecure_channel(f"unix://{first.path}") as channel:
        grpc.channel_ready_future(channel).result(5)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "s", tmp_path / "target"
    target.write_text("precious")
    {"file": lambda: path.write_text("precious"), "directory": path.mkdir, "link": lambda: path.symlink_to(target)}[kind]()
    before = path.lstat()
    with pytest.raises(InvalidRequest, match="no socket"):
        make_way(path)
    assert path.lstat() == before
    assert target.read_text() == "precious"


def test_a_directory_in_which_everybody_may_replace_files_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidRequest, match="everybody"):
        make_way(tmp_path / "s")
    tmp_path.chmod(0o1777)
    make_way(tmp_path / "s")


def test_the_sockets_own_directory_is_made_where_everybody_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    make_way(tmp_path / "ours" / "s")
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o750
    make_way(tmp_path / "ours" / "s")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="absent"):
        make_way(tmp_path / "absent" / "ours" / "s")


@pytest.mark.parametrize("endpoint", ["unix:///run/csi.sock", "unix:/run/csi.sock"])
def test_both_spellings_of_a_path_are_read(endpoint: str) -> None:
    assert socket_path(endpoint) == Path("/run/csi.sock")


@pytest.mark.parametrize(
    "endpoint", ["", "/run/csi.sock", "tcp://127.0.0.1:1", "unix:csi.sock", "unix://csi.sock", "unix:///" + "x" * 200]
)
def test_any_other_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidRequest):
        socket_path(endpoint)
