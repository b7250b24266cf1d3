"""Processes of ours and a place of the test's own, for tests of the store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioner.ceph.cluster import ClusterConfig
from provisioner.core.attachments import Node
from provisioner.core.ids import Place
from provisioner.core.model import Volume
from tests.harness.ceph import Ceph
from tests.harness.half_made import Site
from tests.harness.store import Provisioner, at, at_home, new_place


@pytest.fixture
def place(ceph: Ceph) -> Place:
    """A RADOS namespace that nobody else uses."""
    return new_place(ceph)


@contextmanager
def at_work(config: ClusterConfig) -> Iterator[Provisioner]:
    """A process of ours for the block."""
    process = Provisioner(config)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def ours(ceph: Ceph) -> Iterator[Provisioner]:
    """One process of ours."""
    with at_work(ceph.config()) as process:
        yield process


@pytest.fixture
def peer(ceph: Ceph) -> Iterator[Provisioner]:
    """Another process of ours, alive."""
    with at_work(ceph.config()) as process:
        yield process


@pytest.fixture
def homely(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """One process of ours whose cluster's home is the test's own place."""
    with at_work(at_home(ceph, place)) as process:
        yield process


@pytest.fixture
def twin(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """Another process of ours with that home."""
    with at_work(at_home(ceph, place)) as process:
        yield process


@pytest.fixture
def site(ceph: Ceph, ours: Provisioner, place: Place) -> Iterator[Site]:
    """A place for a state that is made by hand, and one process of ours to find it."""
    with at(ceph, place) as pool:
        yield Site(ceph, ours, place, pool)


@pytest.fixture
def nodes(ours: Provisioner) -> tuple[str, str]:
    """Two nodes at other addresses than ours: what is open here is known by its record only."""
    names = tuple(f"node-{uuid.uuid4().hex[:8]}" for _ in range(2))
    with ours.clusters.connection("dev") as connection:
        own = connection.address.partition(":")[0]
    for name in names:
        ours.attachments.enrol_node("dev", Node(name, ("192.0.2.7",)))
    assert all(own in node.addresses for node in ours.attachments.nodes("dev") if node.id in names)
    return names[0], names[1]


@pytest.fixture
def volume(ours: Provisioner, place: Place) -> Volume:
    """A volume of the test's place."""
    return ours.create(place, "pvc-1")
