"""No key shows anywhere but in the Secrets made to hold it: every place that can be read is searched. About 10 s.

The provisioner works as talkatively as it can, on claims that succeed, fail, grow and go, with keys of all three kinds: its
own, those that it makes for volumes, and one that a class brings.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.kube.resources import EVENTS, LEASES, SECRETS, STORAGE_CLASSES, Object
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.program import Program
from tests.harness.traces import wait_no_traces
from tests.harness.waiting import until

MISTYPED = base64.b64encode(b"this is no cephx key, but is one to keep").decode()


class CommandLines:
    """Everything that stood on the command line or in the environment of any process while it was looked at."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()

    @contextmanager
    def watched(self) -> Iterator["CommandLines"]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                for file in ("cmdline", "environ"):
                    with suppress(OSError):
                        self.seen.add((process / file).read_bytes())


@dataclass(frozen=True)
class Worked:
    """What there was to read after the work, by where it was, and the keys that must not be in it."""

    places: dict[str, str]
    keys: dict[str, str]


@pytest.fixture(scope="module")
def worked(ceph: Ceph, kubernetes: Kubernetes, account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worked]:
    directory = tmp_path_factory.mktemp("talkative")
    program = Program(directory, ceph.config_file(directory), account, "secrets.example.com/rbd", talkative=True)
    lent = ceph.make_user("lent", **ceph.provisioner_caps())
    for name, key in (("lent", lent.key), ("mistyped", MISTYPED)):
        kubernetes.make_secret("kube-system", name, userID="lent", userKey=key)
        kubernetes.let_read("kube-system", name)
    try:
        with CommandLines().watched() as lines:
            program.start()
            claims, keys = work(ceph, kubernetes, program)
            places = written(ceph, kubernetes, program, claims)
        places["command lines and environments"] = "\n".join(line.decode(errors="replace") for line in lines.seen)
        own = re.findall(r"key = (\S+)", Path(ceph.keyring).read_text())[0]
        yield Worked(places, {"our own": own, "of the class": lent.key, "mistyped": MISTYPED} | keys)
    finally:
        program.kill()


def work(ceph: Ceph, kubernetes: Kubernetes, program: Program) -> tuple[list[Object], dict[str, str]]:
    """Make, grow, refuse and delete; gives claims that are still there, and the keys of volumes."""
    where = {"pool": ceph.pool}
    ours = kubernetes.make_class(program.provisioner, where)
    lent = kubernetes.make_class(program.provisioner, where | credentials("lent"))
    bad = kubernetes.make_class(program.provisioner, where | credentials("mistyped"))
    claims = [kubernetes.make_claim(name, volumeMode="Block") for name in (ours, ours, lent)]
    refused = kubernetes.make_claim(bad)
    keys = {}
    for claim in claims:
        reference = kubernetes.wait_bound(claim)["spec"]["rbd"]["secretRef"]
        keys[f"of {reference['name']}"] = kubernetes.secret_data(NAMESPACE, reference["name"])["key"]
    kubernetes.patch_claim(claims[0], {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    kubernetes.wait_event(refused, "ProvisioningFailed")
    kubernetes.wait_event(claims[0], "VolumeResizeSuccessful")
    gone = claims.pop(1)
    kubernetes.delete_claim(gone)
    wait_no_traces(gone, ceph, kubernetes)
    return [*claims, refused], keys


def credentials(name: str) -> dict[str, str]:
    prefix = "csi.storage.k8s.io/provisioner-secret"
    return {f"{prefix}-name": name, f"{prefix}-namespace": "kube-system"}


def written(ceph: Ceph, kubernetes: Kubernetes, program: Program, claims: list[Object]) -> dict[str, str]:
    """All that the work has left to read, but the Secrets' data."""
    until(lambda: program.total("ceph_provisioner_purged_images_total") > 0, 120, "an image was purged")
    objects = {
        "claims": kubernetes.claims(),
        "PersistentVolumes": kubernetes.volumes(),
        "StorageClasses": kubernetes.api.list_all(STORAGE_CLASSES.path()).items,
        "events": kubernetes.api.list_all(EVENTS.path()).items,
        "leases": kubernetes.api.list_all(LEASES.path()).items,
        "Secrets' metadata": [secret["metadata"] for secret in kubernetes.api.list_all(SECRETS.path()).items],
    }
    images = [f"pvc-{claim['metadata']['uid']}" for claim in claims]
    return {kind: json.dumps(items) for kind, items in objects.items()} | {
        "the log": program.text(),
        "/metrics": program.page("/metrics")[1],
        "/readyz": program.page("/readyz")[1],
        "images' metadata": json.dumps([ceph.image_metadata(image) for image in images if image in ceph.images()]),
        "our list of processes": json.dumps(ceph.omap("ceph-provisioner.processes")),
        "the monitors' log": (ceph.directory / "log" / "cluster.log").read_text(errors="replace"),
    }


PLACES = (
    "claims",
    "PersistentVolumes",
    "StorageClasses",
    "events",
    "leases",
    "Secrets' metadata",
    "the log",
    "/metrics",
    "/readyz",
    "images' metadata",
    "our list of processes",
    "the monitors' log",
    "command lines and environments",
)


@pytest.mark.parametrize("place", PLACES)
def test_no_key_stands_in(worked: Worked, place: str) -> None:
    text = worked.places[place]
    found = [whose for whose, key in worked.keys.items() if key in text or base64.b64encode(key.encode()).decode() in text]
    assert text
    assert found == []


def test_all_places_are_searched_for_keys_of_every_kind(worked: Worked) -> None:
    assert set(worked.places) == set(PLACES)
    assert len(worked.keys) == 6
    assert all(len(key) > 30 for key in worked.keys.values())


def test_what_is_searched_is_what_was_worked_on(worked: Worked) -> None:
    assert "ceph-provisioner" in worked.places["command lines and environments"]
    assert "ceph-provisioner.fingerprint" in worked.places["images' metadata"]
    assert "address" in worked.places["our list of processes"]
    assert "ProvisioningFailed" in worked.places["events"]
