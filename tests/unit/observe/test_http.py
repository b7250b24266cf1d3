"""The status pages answer from memory, whatever one client does to them."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.observe.http import StatusServer
from provisioner.observe.metrics import Metrics


class Troubles:
    """What is wrong at the moment."""

    def __init__(self) -> None:
        self.health: list[str] = []
        self.readiness: list[str] = []


@pytest.fixture
def troubles() -> Troubles:
    return Troubles()


@pytest.fixture(params=["127.0.0.1:0", "[::1]:0"])
def server(request: pytest.FixtureRequest, troubles: Troubles) -> Iterator[StatusServer]:
    made = StatusServer(request.param, Metrics(), lambda: troubles.health, lambda: troubles.readiness)
    made.start()
    yield made
    made.close()


def page(server: StatusServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(server: StatusServer, path: str) -> None:
    assert page(server, path) == (200, "ok\n")


def test_what_keeps_it_from_being_ready_is_said_a_line_each(server: StatusServer, troubles: Troubles) -> None:
    troubles.readiness = ["claims were not read yet", "volumes: refused"]
    assert page(server, "/readyz") == (503, "claims were not read yet\nvolumes: refused\n")
    assert page(server, "/healthz") == (200, "ok\n")


def test_what_is_broken_is_said(server: StatusServer, troubles: Troubles) -> None:
    troubles.health = ["the campaign for the lease ended"]
    assert page(server, "/healthz") == (503, "the campaign for the lease ended\n")


def test_metrics_are_those_of_this_process(server: StatusServer) -> None:
    status, text = page(server, "/metrics")
    assert status == 200
    assert "ceph_provisioner_build_info" in text


def test_a_client_that_says_nothing_keeps_nobody_waiting(server: StatusServer) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))):
        started = time.monotonic()
        assert page(server, "/healthz")[0] == 200
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999", "203.0.113.1:0"])
def test_an_address_that_cannot_be_had_is_refused_by_option_and_value(listen: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        StatusServer(listen, Metrics(), list, list)
    assert (caught.value.field, caught.value.value) == ("--listen", listen)


def test_an_address_in_use_is_refused(server: StatusServer) -> None:
    with pytest.raises(InvalidRequest, match="in use"):
        StatusServer(server.address, Metrics(), list, list)
