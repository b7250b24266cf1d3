"""A Kubernetes with a node on this machine: real pods on volumes of ours, by the manifests' rights."""

import uuid
from pathlib import Path
from typing import Any

from hack.kubernetes.image import NAME as IMAGE
from hack.kubernetes.node import NAME as NODE
from hack.kubernetes.remains import loops, mounts, release_devices, storage_daemons
from provisioner.kube.errors import NotFound
from provisioner.kube.resources import Object, Resource
from tests.harness.ceph import Ceph
from tests.harness.kubernetes import PATIENCE, Kubernetes
from tests.harness.program import PROGRAM, Program
from tests.harness.sidecars import CsiCluster
from tests.harness.waiting import until

PODS = Resource("", "v1", "pods", "Pod", namespaced=True)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False)
MOUNT, DEVICE = "/data", "/dev/data"
"""Where a pod has its volume: a file system, or a block device."""


class PodNode(Program):
    """`ceph-provisioner node` beside the kubelet, with which it registers by itself; the fuse device."""

    def __init__(self, directory: Path, config: Path, kubelet: Path, driver: str) -> None:
        super().__init__(directory, config, Path("/dev/null"), driver)
        self.log, self.run_directory = directory / "node.log", directory / "run"
        self.endpoint = f"unix://{kubelet}/plugins/{driver}/csi.sock"
        self._command = [str(PROGRAM), "--config", str(config), "node", "--node-id", NODE, "--driver-name", driver]
        self._command += ["--csi-endpoint", self.endpoint, "--kubelet-registration", f"{kubelet}/plugins_registry"]
        self._command += ["--mounter", "fuse", "--run-directory", str(self.run_directory), "--listen", "127.0.0.1:0"]


class Pods:
    """Pods of one Kubernetes, made and looked at as its users do."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self.kubernetes = kubernetes

    def run(self, script: str, *volumes: Object, **spec: Any) -> Object:
        """A pod that runs a shell script, what it prints being kept; `volumes` are claims, or sources of a pod's volumes.

        The first one is at /data, or /dev/data for a block volume; the second at /data1.
        """
        named = [{"name": f"v{number}", **_source(volume)} for number, volume in enumerate(volumes)]
        places = [f"{number or ''}" for number in range(len(volumes))]
        blocks = [(volume.get("spec") or {}).get("volumeMode") == "Block" for volume in volumes]
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["sh", "-euc", f"exec >/dev/termination-log 2>&1; trap 'exit 0' TERM; {script}"],
            "volumeMounts": [
                {"name": each["name"], "mountPath": MOUNT + place}
                for each, place, block in zip(named, places, blocks, strict=True)
                if not block
            ],
            "volumeDevices": [
                {"name": each["name"], "devicePath": DEVICE + place}
                for each, place, block in zip(named, places, blocks, strict=True)
                if block
            ],
        }
        told: Object = {
            "hostNetwork": True,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": named,
            **spec,
        }
        body = PODS.body({"namespace": "default", "name": f"pod-{uuid.uuid4().hex[:8]}"}, spec=told)
        return self.kubernetes.api.create(PODS.path("default"), body)

    def now(self, pod: Object) -> Object | None:
        """The pod as it is now, None if it is gone."""
        try:
            return self.kubernetes.api.get(PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        except NotFound:
            return None

    def wait_phase(self, pod: Object, *phases: str, seconds: float = PATIENCE) -> Object:
        """Wait until the pod is in one of the phases; give it."""

        def reached() -> Object | None:
            now = self.now(pod)
            return now if now and now["status"].get("phase") in phases else None

        return until(reached, seconds, f"the pod is {' or '.join(phases)}", lambda: f"{self.told(pod)}\n{self.last_words()}")

    def output(self, pod: Object, seconds: float = PATIENCE) -> str:
        """What the pod's script printed, once it has come to a good end."""
        ended = self.wait_phase(pod, "Succeeded", "Failed", seconds=seconds)
        said: str = ended["status"]["containerStatuses"][0]["state"]["terminated"].get("message", "")
        assert ended["status"]["phase"] == "Succeeded", said
        return said.strip()

    def delete(self, *pods: Object, seconds: float = PATIENCE) -> None:
        """Delete pods, and wait until they are gone."""
        for pod in pods:
            self.kubernetes.api.delete(PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        for pod in pods:
            until(lambda pod=pod: self.now(pod) is None, seconds, "the pod is gone", self.last_words)  # type: ignore[misc]

    def do(self, script: str, *volumes: Object, **spec: Any) -> str:
        """Run a pod to its end and delete it; gives what it printed."""
        pod = self.run(script, *volumes, **spec)
        try:
            return self.output(pod)
        finally:
            self.delete(pod)

    def told(self, pod: Object) -> list[tuple[str, str]]:
        return self.kubernetes.told(pod)

    def last_words(self) -> str:
        """What those say who have to do with pods' volumes, for when something doesn't come about."""
        return ""


class PodCluster(CsiCluster, Pods):
    """Our controller, our node, the sidecars, a kubelet and a containerd, and a pool that holds nothing but their volumes."""

    def __init__(self, ceph: Ceph, kubernetes: Kubernetes, directory: Path) -> None:
        super().__init__(ceph, kubernetes, directory)
        self.kubelet = kubernetes.directory / "kubelet"
        self.node = PodNode(directory, self.config, self.kubelet, self.driver)

    def start(self) -> "PodCluster":
        self.bring_up()
        self.node.start()
        until(self.registered, 120, "the kubelet knows the driver", self.node.text)
        return self

    def stop(self) -> None:
        """End everything but the kubelet; volumes that are in use stay so."""
        self.node.stop()
        super().stop()

    def registered(self) -> list[Object]:
        """What the kubelet has published of our driver."""
        try:
            drivers = self.kubernetes.api.get(CSI_NODES.path(name=NODE))["spec"].get("drivers") or []
        except NotFound:
            return []
        return [driver for driver in drivers if driver["name"] == self.driver]

    def log(self, pod: Object) -> str:
        """What the pod's container wrote last, as containerd has it."""
        name = f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_*/*/*.log"
        return "\n".join(file.read_text(errors="replace")[-3000:] for file in self.kubernetes.directory.glob(f"pods/{name}"))

    def last_words(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-1500:] for file in (self.node.log, self.controller.log))

    def attachments(self) -> list[str]:
        """Names of the VolumeAttachments: one goes when its volume is off the node."""
        return [each["metadata"]["name"] for each in self.kubernetes.api.list_all(ATTACHMENTS.path()).items]

    def traces(self) -> list[str]:
        """What there is of volumes on this machine and in Kubernetes."""
        run_directory = self.node.run_directory
        return [
            *(f"attachment {each}" for each in self.attachments()),
            *(f"daemon {each.pid}" for each in storage_daemons(run_directory)),
            *(f"loop device {each}" for each in (*loops(run_directory), *loops(self.kubelet))),
            *(f"mount {each}" for each in (*mounts(run_directory), *mounts(self.kubelet))),
        ]

    def sweep(self) -> None:
        """Take away what a test that failed has left on this machine; the kubelet has to be gone."""
        release_devices(self.node.run_directory)


def _source(volume: Object) -> Object:
    """A claim as the source of a pod's volume, or what is one already."""
    if "metadata" not in volume:
        return volume
    return {"persistentVolumeClaim": {"claimName": volume["metadata"]["name"]}}
