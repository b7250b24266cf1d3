"""A server that can be told to misbehave, and an Api that talks to it."""

import threading
from collections.abc import Iterator

import pytest

from provisioner.kube.kubeconfig import Access
from provisioner.kube.transport import Api, Limits
from tests.unit.kube.troubled_apiserver import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.drop_connections()
    server.server_close()
    thread.join(5)


@pytest.fixture
def access(server: Server) -> Access:
    return Access(server=server.url, ca=server.ca)


@pytest.fixture
def api(access: Access) -> Iterator[Api]:
    api = Api(access, "test/1", Limits(connect=5, read=10, patience=10))
    yield api
    api.close()
