"""One controller serves all contract tests: each uses volumes of its own."""

from collections.abc import Iterator

import pytest

from tests.contract import iri
from tests.contract.driver import Driver, running
from tests.harness import ceph as ceph_harness
from tests.harness.ceph import Ceph
from tests.harness.gateway import RadosGateway, start_gateway


@pytest.fixture(scope="session")
def driver(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The controller of cluster `dev`, whose pool it lists."""
    with running(ceph, tmp_path_factory.mktemp("csi")) as made:
        yield made


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A cluster beside the usual one, of which a file's tests know everything."""
    with ceph_harness.running(tmp_path_factory.mktemp("second") / "c") as made:
        yield made


@pytest.fixture(scope="session")
def gateway(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> RadosGateway:
    """A radosgw beside the cluster, which ends with it."""
    return start_gateway(ceph, tmp_path_factory.mktemp("rgw") / "keys.json")


@pytest.fixture(scope="session")
def runtime(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[iri.Runtime]:
    """IronCore's volume runtime over the pool of cluster `dev`."""
    with iri.running(ceph, tmp_path_factory.mktemp("iri")) as made:
        yield made
