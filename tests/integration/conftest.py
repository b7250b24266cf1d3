"""Processes of ours and a place of the test's own, for tests of the store."""

from collections.abc import Iterator

import pytest

from provisioner.core.ids import Place
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, at_home, new_place


@pytest.fixture
def place(ceph: Ceph) -> Place:
    """A RADOS namespace that nobody else uses."""
    return new_place(ceph)


@pytest.fixture
def ours(ceph: Ceph) -> Iterator[Provisioner]:
    """One process of ours."""
    process = Provisioner(ceph.config())
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def homely(ceph: Ceph, place: Place) -> Iterator[Provisioner]:
    """One process of ours whose cluster's home is the test's own place."""
    process = Provisioner(at_home(ceph, place))
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def peer(ceph: Ceph) -> Iterator[Provisioner]:
    """Another process of ours, alive."""
    process = Provisioner(ceph.config())
    try:
        yield process
    finally:
        process.close()
