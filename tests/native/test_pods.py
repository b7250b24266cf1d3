"""Pods use native PersistentVolumes on a real kubelet 1.30, whose own plugin calls `rbd map`. About 10 minutes.

The node is a virtual machine with Debian's kernel, emulated, with nothing of ours in it. Control plane, Ceph and
`ceph-provisioner claims` run outside. `make e2e-native` runs this; `make test` does not.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.kube.errors import NotFound
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, SECRETS, Object
from tests.harness.ceph import Ceph
from tests.harness.kubelet import SLOW, GuestKubelet, guest_kubelet
from tests.harness.kubernetes import Kubernetes
from tests.harness.program import running
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(3600)

STAY = "while :; do sleep 1; done"
"""A script's end that is no end: the pod runs until it is deleted."""
_STARTED = time.monotonic()


def say(*words: object) -> None:
    """Tell whoever runs this what there is to see."""
    print(f"{time.monotonic() - _STARTED:6.1f} s", *words, flush=True)


@pytest.fixture(scope="module")
def node(kubernetes: Kubernetes) -> Iterator[GuestKubelet]:
    with guest_kubelet(kubernetes) as made:
        info = made.info()
        say(f"node: kubelet {info['kubeletVersion']}, Linux {info['kernelVersion']}, {info['containerRuntimeVersion']}")
        yield made
        say(f"the guest has cost {made.guest.cpu_seconds():.0f} s of CPU")


@pytest.fixture(scope="module")
def storage_class(ceph: Ceph, kubernetes: Kubernetes, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("provisioner")
    with running(directory, ceph.config_file(directory), account) as program:
        yield kubernetes.make_class(program.provisioner, {"pool": ceph.pool, "pvType": "native"})


def secret_is_there(kubernetes: Kubernetes, reference: dict[str, str]) -> bool:
    try:
        return bool(kubernetes.api.get(SECRETS.path(reference["namespace"], reference["name"])))
    except NotFound:
        return False


def unmapped_twice(node: GuestKubelet) -> str:
    """The plugin's log, once the second unmap is in it: the device is gone a little earlier."""
    log = node.plugin_log()
    return log if log.count("rbd: successfully unmap device") == 2 else ""


def no_complaint(node: GuestKubelet, pod: Object) -> bool:
    """Whether nothing about a pod's volumes failed, by what its events tell."""
    told = node.told(pod)
    say("events of", pod["metadata"]["name"], *(f"\n           {reason}: {message}" for reason, message in told))
    return {"FailedMount", "FailedAttachVolume", "FailedMapVolume"}.isdisjoint(reason for reason, _ in told)


def test_a_pod_reads_what_another_wrote_before_the_kubelet_unmapped_and_mapped_again(
    node: GuestKubelet, ceph: Ceph, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class, "128Mi")
    volume = kubernetes.wait_bound(claim, 120)
    rbd = volume["spec"]["rbd"]
    say("PersistentVolume", volume["metadata"]["name"], {"rbd": rbd})

    writer = node.run(f"echo written by a pod >/data/file; sync; {STAY}", claim)
    until(lambda: node.content(writer, volume, "file"), SLOW, "the pod has written", lambda: str(node.told(writer)), every=2)
    assert node.mapped() == [rbd["image"]]
    mounts = node.mounts()
    say("mountinfo of the guest", *(f"\n           {line}" for line in mounts))
    assert any(f"/plugins/kubernetes.io/rbd/mounts/{rbd['pool']}-image-{rbd['image']} " in line for line in mounts)
    assert any(f"/pods/{writer['metadata']['uid']}/volumes/kubernetes.io~rbd/" in line for line in mounts)
    assert no_complaint(node, writer)
    node.delete(writer, seconds=SLOW)
    node.wait_unmapped()
    assert ceph.watchers(f"rbd_header.{ceph.image_ids()[rbd['image']]}") == []

    reader = node.run("cat /data/file; grep ' /data ' /proc/mounts", claim)
    text, mount = node.output(reader, seconds=SLOW).splitlines()
    say("the second pod read", repr(text), "from", mount)
    assert text == "written by a pod"
    assert mount.split()[2] == rbd["fsType"]
    assert no_complaint(node, reader)
    node.delete(reader, seconds=SLOW)
    node.wait_unmapped()
    log = until(lambda: unmapped_twice(node), 60, "the plugin tells of two unmaps", node.last_words, every=1)
    say(f"the kubelet's plugin\n{log}")
    assert log.count("rbd: map mon") == 2

    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim, 120)
    assert rbd["image"] not in ceph.images()
    assert f"client.{rbd['user']}" not in ceph.users()
    assert not secret_is_there(kubernetes, rbd["secretRef"])


def test_the_kubelet_grows_the_file_system_of_a_claim_that_grew(
    node: GuestKubelet, kubernetes: Kubernetes, storage_class: str
) -> None:
    claim = kubernetes.make_claim(storage_class, "64Mi")
    volume = kubernetes.wait_bound(claim, 120)
    pod = node.run("while :; do set -- $(df -k /data | tail -n 1); echo $2 >/data/kib; sleep 1; done", claim)

    def kib() -> int:
        return int(node.content(pod, volume, "kib") or 0)

    before = until(kib, SLOW, "the pod tells the size", lambda: str(node.told(pod)), every=2)
    assert before < 64 << 10
    kubernetes.patch_claim(claim, {"spec": {"resources": {"requests": {"storage": "192Mi"}}}})
    after = until(lambda: (k := kib()) > 128 << 10 and k, SLOW, "the pod sees it", lambda: str(kubernetes.told(claim)), every=2)
    say(f"the pod saw {before} KiB, then {after} KiB", *(f"\n           {each}" for each in kubernetes.told(claim)))

    def grown() -> bool:
        status = kubernetes.api.get(PERSISTENT_VOLUME_CLAIMS.path("default", claim["metadata"]["name"]))["status"]
        return bool(status["capacity"]["storage"] == "192Mi" and not status.get("conditions"))

    until(grown, SLOW, "the claim says so", lambda: str(kubernetes.claim(claim)), every=1)
    node.delete(pod, seconds=SLOW)
    node.wait_unmapped()
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim, 120)


def test_a_pod_writes_to_a_block_volume(node: GuestKubelet, ceph: Ceph, kubernetes: Kubernetes, storage_class: str) -> None:
    claim = kubernetes.make_claim(storage_class, "64Mi", volumeMode="Block")
    image = kubernetes.wait_bound(claim, 120)["spec"]["rbd"]["image"]
    pod = node.run("echo straight to the device | dd of=/dev/data bs=512 conv=sync,fsync 2>/dev/null; echo done", claim)
    assert node.output(pod, seconds=SLOW) == "done"
    assert no_complaint(node, pod)
    node.delete(pod, seconds=SLOW)
    node.wait_unmapped()
    with ceph.open_image(image) as opened:
        found = opened.read(0, 22)
    say("Ceph has, at the start of the block volume's image,", found)
    assert found == b"straight to the device"
    kubernetes.delete_claim(claim)
    kubernetes.wait_gone(claim, 120)
