"""A provisioner that runs for a whole file, for tests that don't kill it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ceph import Ceph
from tests.harness.program import Program


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A running provisioner under a name of its own."""
    directory = tmp_path_factory.mktemp("provisioner")
    made = Program(directory, ceph.config_file(directory), account, f"{uuid.uuid4().hex[:8]}.example.com/rbd")
    try:
        yield made.start()
    finally:
        made.stop()
