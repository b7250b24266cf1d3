"""A CSI driver as Kubernetes sees it: our controller on a socket, and the standard sidecars between it and the API server."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from csi.pb import csi_pb2, csi_pb2_grpc
from hack.sidecars.build import sidecars
from provisioner.ceph.attachments import CephAttachments
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.places import Places
from provisioner.config import parse
from provisioner.core.attachments import Attachments, Node
from provisioner.kube.resources import Object, Resource
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import PATIENCE, ROOT, Kubernetes
from tests.harness.nodes import register_csi
from tests.harness.program import PROGRAM, Program
from tests.harness.waiting import until

DRIVER = "rbd.ceph-provisioner.io"
_ALWAYS = ("rbd_directory", "rbd_info", "rbd_trash", "rbd_children")
_ATTRIBUTES_CLASSES = Resource("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", namespaced=False)
MANIFESTS = ROOT / "manifests" / "overlays" / "csi"
BURST = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""The sidecars' own limit is 5 calls a second, which would be all that a test measures."""


class CsiController(Program):
    """One `ceph-provisioner controller`."""

    def __init__(self, directory: Path, config: Path, driver: str) -> None:
        super().__init__(directory, config, Path("/dev/null"), driver)
        self.log = directory / "controller.log"
        self.endpoint = f"unix://{directory}/csi.sock"
        self._command = [str(PROGRAM), "--config", str(config), "controller", "--csi-endpoint", self.endpoint]
        self._command += ["--driver-name", driver, "--listen", "127.0.0.1:0"]


@contextmanager
def controllers(
    ceph: Ceph, pool: str, directory: Path, driver: str, count: int = 2, timeout: int = 15
) -> Iterator[list[CsiController]]:
    """So many controllers for the block, of cluster `dev`, whose only pool is this; `timeout` is for each call to Ceph, in s."""
    with ExitStack() as stack:
        made = []
        for number in range(count):
            home = directory / f"controller-{number}"
            home.mkdir()
            made.append(CsiController(home, ceph.config_file(home, timeout, pools=[pool]), driver))
            stack.callback(made[-1].kill)
            made[-1].start()
        yield made


class Sidecars:
    """The standard sidecars at one controller's socket, each a process with a log."""

    def __init__(self, directory: Path, administrator: Path, account: Path, endpoint: str) -> None:
        """All but the snapshot controller, which is the cluster's, work with the account's rights."""
        self._directory = directory
        common = (*BURST, "--v=4")
        driver = (f"--csi-address={endpoint.removeprefix('unix://')}", f"--kubeconfig={account}", "--timeout=60s", *common)
        quick = ("--retry-interval-start=200ms", "--retry-interval-max=5s")
        capacity = ("--enable-capacity", "--capacity-ownerref-level=-1", "--capacity-poll-interval=5s")
        groups = "--feature-gates=CSIVolumeGroupSnapshot=true"
        across = "--feature-gates=CrossNamespaceVolumeDataSource=true"
        self._commands = {
            "csi-provisioner": (
                *driver,
                *quick,
                *capacity,
                "--extra-create-metadata",
                "--snapshot-orphan-sweep-interval=2s",
                across,
            ),
            "csi-attacher": (*driver, *quick, "--reconcile-sync=10s"),
            "csi-resizer": (*driver, *quick),
            "csi-snapshotter": (*driver, *quick, groups),
            "snapshot-controller": (f"--kubeconfig={administrator}", *common, *quick, groups),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> "Sidecars":
        """Start some of them; all without names."""
        binaries = sidecars(print)
        environment = os.environ | {"NAMESPACE": "ceph-provisioner", "POD_NAME": "controller-0"}
        for name in names or self._commands:
            command = [str(binaries / name), *self._commands[name]]
            with self.log(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return self

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop one of them in its tracks, for the block."""
        self._processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[name].send_signal(signal.SIGCONT)

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def refused(self) -> list[str]:
        """What Kubernetes would not let them do."""
        lines = [line for name in self._processes for line in self.log(name).read_text(errors="replace").splitlines()]
        return [line for line in lines if "is forbidden" in line]

    def ended(self) -> list[str]:
        """Sidecars that gave up, each with its last words."""
        dead = [name for name, process in self._processes.items() if process.poll() is not None]
        return [f"{name}: {self.log(name).read_text(errors='replace')[-600:]}" for name in dead]


class CsiCluster:
    """One driver in one Kubernetes: controller, sidecars, and a pool that holds nothing but its volumes."""

    def __init__(self, ceph: Ceph, kubernetes: Kubernetes, directory: Path) -> None:
        self.ceph, self.kubernetes = ceph, kubernetes
        self.driver, self.pool = DRIVER, f"csi-{uuid.uuid4().hex[:8]}"
        self.config, self.nodes = ceph.config_file(directory, pools=[self.pool]), list[str]()
        self.controller = CsiController(directory, self.config, self.driver)
        kubernetes.apply(MANIFESTS / "driver.yaml", MANIFESTS / "rbac.yaml")
        account = kubernetes.account_kubeconfig(directory / "kubeconfig", "ceph-provisioner-csi")
        self.sidecars = Sidecars(directory, kubernetes.kubeconfig, account, self.controller.endpoint)

    def start(self) -> "CsiCluster":
        self.bring_up()
        self.nodes = [register_csi(self.kubernetes, self.driver) for _ in range(2)]
        self._enrol(self.nodes)
        return self

    def bring_up(self) -> None:
        """Start the pool, the controller and the sidecars."""
        self.ceph.make_pool(self.pool)
        self.ceph.let_provision(self.pool)
        self.controller.start()
        self.sidecars.start()

    def stop(self) -> None:
        self.sidecars.stop()
        self.controller.stop()
        self.ceph.drop_pool(self.pool)

    def _enrol(self, nodes: Sequence[str]) -> None:
        """Do what the node services would do at their start: tell Ceph that there are such nodes."""
        clusters = Clusters(lambda: parse(self.config))
        attachments = Attachments(CephAttachments(Places(clusters)))
        for node in nodes:
            attachments.enrol_node("dev", Node(node))
        clusters.close()

    def make_class(self, **fields: object) -> str:
        """A StorageClass of the driver over its pool."""
        return self.kubernetes.make_class(self.driver, {"clusterID": "dev", "pool": self.pool}, **fields)

    def make_attributes_class(self, **parameters: str) -> str:
        """A VolumeAttributesClass of the driver."""
        name = f"attributes-{uuid.uuid4().hex[:8]}"
        body = _ATTRIBUTES_CLASSES.body({"name": name}, driverName=self.driver, parameters=parameters)
        self.kubernetes.api.create(_ATTRIBUTES_CLASSES.path(), body)
        return name

    def change_attributes_class(self, claim: Object, name: str) -> None:
        """Ask for another VolumeAttributesClass for the claim, and wait until csi-resizer has set about it.

        A class that csi-resizer has not heard of yet makes the change Pending, and it never looks for it again: only the next
        change of the claim's class wakes it (external-resizer 2.3, `validateVACAndModifyVolumeWithTarget`).
        """
        self._ask_for(claim, name)

        def begun() -> bool:
            status = (self.kubernetes.claim(claim) or {})["status"]
            change = status.get("modifyVolumeStatus") or {}
            if change.get("status") == "Pending":
                self._ask_for(claim, status["currentVolumeAttributesClassName"])
                self._ask_for(claim, name)
                return False
            return name in (status["currentVolumeAttributesClassName"], change.get("targetVolumeAttributesClassName"))

        until(begun, PATIENCE, "csi-resizer changes the class", lambda: str(self.kubernetes.claim(claim)), every=0.5)

    def _ask_for(self, claim: Object, attributes_class: str) -> None:
        self.kubernetes.patch_claim(claim, {"spec": {"volumeAttributesClassName": attributes_class}})

    def list_volumes(self) -> list[csi_pb2.ListVolumesResponse.Entry]:
        """What the controller lists."""
        with grpc.insecure_channel(self.controller.endpoint) as channel:
            return list(csi_pb2_grpc.ControllerStub(channel).ListVolumes(csi_pb2.ListVolumesRequest(), timeout=30).entries)

    def images(self) -> list[str]:
        return self.ceph.images(self.pool)

    def left_over(self) -> list[str]:
        """What is in the pool beyond what an empty one has: objects of images, of the trash, and names in the index."""
        objects = self.ceph.objects(self.pool)
        index = [each for each in objects if each.startswith("ceph-provisioner.snapshots.")]
        names = [f"{each}: {key}" for each in [*index, "rbd_directory"] for key in self.ceph.omap(each, self.pool)]
        return [*names, *(each for each in objects if each.startswith("rbd_") and each not in _ALWAYS)]
