"""Native PersistentVolumes, mapped by a kernel with nothing but what they and their Secrets say. A minute.

What is written to sysfs here is what the in-tree plugin of a kubelet has `rbd map` write: monitors, user, key, pool, image.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.kube.resources import Object
from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import Program

pytestmark = pytest.mark.timeout(1200)


class Native:
    """A native PersistentVolume and its Secret, and what a kernel makes of them."""

    def __init__(self, guest: GuestNode, kubernetes: Kubernetes, volume: Object) -> None:
        self._guest, self.rbd = guest, volume["spec"]["rbd"]
        reference = self.rbd["secretRef"]
        self.key = kubernetes.secret_data(reference["namespace"], reference["name"])["key"]

    def map(self, key: str = "") -> bool:
        rbd = self.rbd
        words = f"{','.join(rbd['monitors'])} name={rbd['user']},secret={key or self.key} {rbd['pool']} {rbd['image']} -"
        return self._guest.guest.run(f"echo '{words}' >/sys/bus/rbd/add_single_major", 240).code == 0

    def device(self) -> str:
        return f"/dev/rbd$(basename $(dirname $(grep -lx {self.rbd['image']} /sys/bus/rbd/devices/*/name)))"

    def write(self, text: str) -> None:
        """Make a file system and a file on it."""
        self._guest.run(f"mkdir -p /run/native && mkfs.ext4 -q -Enodiscard {self.device()} && mount {self.device()} /run/native")
        self._guest.run(f"echo {text} >/run/native/file && umount /run/native")

    def read(self) -> str:
        self._guest.run(f"mkdir -p /run/native && mount {self.device()} /run/native")
        return self._guest.run("cat /run/native/file && umount /run/native").strip()

    def unmap(self) -> None:
        self._guest.run(f"echo {self.device()} | sed 's/.*rbd//' >/sys/bus/rbd/remove_single_major")


@pytest.fixture(scope="module")
def data_pool(ceph: Ceph) -> str:
    """A second pool that the provisioner may use."""
    pool = f"data-{uuid.uuid4().hex[:8]}"
    ceph.make_pool(pool)
    ceph.let_provision(pool)
    return pool


@pytest.fixture(scope="module")
def provisioner(ceph: Ceph, data_pool: str, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("provisioner")
    made = Program(directory, ceph.config_file(directory), account, f"{uuid.uuid4().hex[:8]}.example.com/rbd")
    try:
        yield made.start()
    finally:
        made.stop()


def test_a_plain_volume_is_written_and_read_by_its_fields_and_its_secret_alone(
    guest: GuestNode, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    mine, other = (
        Native(guest, kubernetes, kubernetes.wait_bound(kubernetes.make_claim(storage_class, "64Mi"), 90)) for _ in range(2)
    )
    assert mine.map()
    mine.write("plain")
    mine.unmap()
    assert mine.map()
    assert mine.read() == "plain"
    mine.unmap()
    assert not other.map(key=mine.key)


def test_a_volume_with_a_data_pool_is_written_and_read(
    guest: GuestNode, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program, data_pool: str
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool, "dataPool": data_pool})
    volume = Native(guest, kubernetes, kubernetes.wait_bound(kubernetes.make_claim(storage_class, "64Mi"), 90))
    assert volume.map()
    volume.write("elsewhere")
    assert volume.read() == "elsewhere"
    volume.unmap()
    assert [name for name in ceph.objects(data_pool) if name.startswith("rbd_data")] != []


def test_a_clone_is_mapped_with_what_its_origin_held(
    guest: GuestNode, ceph: Ceph, kubernetes: Kubernetes, provisioner: Program
) -> None:
    storage_class = kubernetes.make_class(provisioner.provisioner, {"pool": ceph.pool})
    claim = kubernetes.make_claim(storage_class, "64Mi")
    origin = Native(guest, kubernetes, kubernetes.wait_bound(claim, 90))
    assert origin.map()
    origin.write("cloned")
    origin.unmap()
    source = {"kind": "PersistentVolumeClaim", "name": claim["metadata"]["name"]}
    copy = kubernetes.make_claim(storage_class, "64Mi", dataSource=source)
    clone = Native(guest, kubernetes, kubernetes.wait_bound(copy, 90))
    assert clone.map()
    assert clone.read() == "cloned"
    clone.unmap()
