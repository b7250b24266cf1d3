"""A pool for one test alone, so that every object in it can be accounted for; and a way to say what takes so long."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.harness.ceph import Ceph


@pytest.fixture
def pool(ceph: Ceph) -> Iterator[str]:
    """An empty pool that the provisioner may use. Ask for it before a provisioner starts."""
    name = f"faults-{uuid.uuid4().hex[:6]}"
    ceph.make_pool(name)
    ceph.let_provision(name)
    yield name
    ceph.drop_pool(name)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tell the person who runs the tests what a long one is doing."""

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)

    return tell
