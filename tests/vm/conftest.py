"""One guest for all tests that need a kernel with rbd; in `make test` they are one file, so that one worker has it."""

from collections.abc import Iterator

import pytest

from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.places import Places
from provisioner.core.attachments import Attachments
from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode, guest_node
from tests.harness.node import NodeProgram, node_program


@pytest.fixture(scope="session")
def guest(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestNode]:
    """A node service in a guest with Debian's kernel."""
    with guest_node(ceph, tmp_path_factory.mktemp("guest")) as node:
        yield node


@pytest.fixture(scope="module")
def elsewhere(ceph: Ceph) -> Iterator[NodeProgram]:
    """Another node, without a kernel client."""
    with node_program(ceph) as node:
        yield node


@pytest.fixture(scope="module")
def places(ceph: Ceph) -> Iterator[Places]:
    clusters = Clusters(lambda: {"dev": ceph.config()})
    made = Places(clusters)
    yield made
    clusters.close()


@pytest.fixture(scope="module")
def attachments(places: Places) -> Attachments:
    """What the controller does as a volume is published to a node, or taken from it."""
    return Attachments(CephAttachments(places))
