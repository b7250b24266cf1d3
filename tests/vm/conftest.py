"""One guest for all tests that need a kernel with rbd."""

from collections.abc import Iterator

import pytest

from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode, guest_node


@pytest.fixture(scope="session")
def guest(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestNode]:
    """A node service in a guest with Debian's kernel."""
    with guest_node(ceph, tmp_path_factory.mktemp("guest")) as node:
        yield node
