"""The last chapter: a claim that the CSI driver answers, and two pods on this machine that use it one after the other."""

import sys
import time
from pathlib import Path

from hack.kubernetes.image import NAME as IMAGE
from hack.kubernetes.processes import Process, spawn
from hack.kubernetes.remains import release_devices
from hack.sidecars.build import sidecars
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, Object, Resource

from .cluster import NAMESPACE, ROOT, Demo
from .screen import say, until

DRIVER = "rbd.ceph-provisioner.io"
PODS = Resource("", "v1", "pods", "Pod", namespaced=True)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
DAEMONS = ("csi-attacher", "csi-provisioner", "node", "controller")
"""In the order in which they end."""
_PROGRAM = str(Path(sys.executable).with_name("ceph-provisioner"))
_WRITE = "date > /data/letter; echo 'written by the first pod' >> /data/letter; sync -f /data; cat /data/letter"
_READ = "cat /data/letter"


class PodDemo:
    """A controller, a node, two sidecars; a claim; two pods."""

    def __init__(self, demo: Demo, node: str, kubelet: str) -> None:
        self._demo, self._api, self._node, self._kubelet = demo, demo.api, node, kubelet
        self._directory = demo.directory / "csi"
        self._directory.mkdir(exist_ok=True)

    def run(self) -> None:
        """Tell it from the driver's start to what `rbd` says at the end."""
        say("Now through CSI: the driver's account and rights, a StorageClass, and the node's kubelet")
        self._install()
        say("The controller with its sidecars, and the node service, which registers with the kubelet by itself")
        self._start()
        say("A claim of 1Gi, and a pod that writes a letter onto it")
        self._remove()
        self._claim()
        self._pod("writer", _WRITE)
        say("That pod is deleted; another one opens the same claim")
        self._pod("reader", _READ)
        self._outside()

    def _install(self) -> None:
        overlay = ROOT / "manifests/overlays/csi"
        self._demo.apply(overlay / "namespace.yaml", overlay / "driver.yaml", overlay / "rbac.yaml")
        self._demo.apply(ROOT / "manifests/examples/storageclass-csi.yaml")
        print((ROOT / "manifests/examples/storageclass-csi.yaml").read_text().strip())

    def _start(self) -> None:
        end_daemons(self._demo.directory)
        account = self._directory / "account.kubeconfig"
        self._demo.write_account(account, "ceph-provisioner-csi")
        socket, plugin = f"{self._directory}/csi.sock", f"{self._kubelet}/plugins/{DRIVER}/csi.sock"
        ours = [_PROGRAM, "--config", str(self._demo.config)]
        node = [*ours, "node", "--csi-endpoint", f"unix://{plugin}", "--node-id", self._node, "--mounter", "fuse"]
        node += ["--run-directory", f"{self._directory}/run", "--kubelet-registration", f"{self._kubelet}/plugins_registry"]
        beside = [f"--csi-address={socket}", f"--kubeconfig={account}", "--timeout=60s"]
        binaries = sidecars(print)
        self._spawn("controller", [*ours, "controller", "--csi-endpoint", f"unix://{socket}", "--listen", "127.0.0.1:0"])
        self._spawn("node", [*node, "--listen", "127.0.0.1:0"])
        for name in ("csi-provisioner", "csi-attacher"):
            self._spawn(name, [str(binaries / name), *beside])
        until(self._is_registered, 60, "the kubelet took up the driver")

    def _spawn(self, name: str, command: list[str]) -> None:
        print("  " + " ".join(command))
        log = self._directory / f"{name}.log"
        if spawn(command, home=self._directory, pidfile=self._directory / f"{name}.pid", log=log) is None:
            sys.exit(f"demo: {name} ended at once: {log.read_text()[-1000:]}")

    def _is_registered(self) -> bool:
        known = self._demo.get(CSI_NODES.path(name=self._node)) or {"spec": {}}
        return DRIVER in [driver["name"] for driver in known["spec"].get("drivers") or []]

    def _claim(self) -> None:
        spec = {"storageClassName": "rbd-csi", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        body = PERSISTENT_VOLUME_CLAIMS.body({"name": "letters", "namespace": NAMESPACE}, spec=spec)
        self._api.create(PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE), body)

    def _pod(self, name: str, script: str) -> None:
        """Run a pod to its end, print what it said, delete it."""
        began = time.monotonic()
        container = {
            "name": "main",
            "image": IMAGE,
            "command": ["sh", "-ec", f"({script}) | tee /dev/termination-log"],
            "volumeMounts": [{"name": "letters", "mountPath": "/data"}],
        }
        spec = {
            "hostNetwork": True,
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "letters", "persistentVolumeClaim": {"claimName": "letters"}}],
        }
        self._api.create(PODS.path(NAMESPACE), PODS.body({"name": name, "namespace": NAMESPACE}, spec=spec))
        path = PODS.path(NAMESPACE, name)
        until(lambda: self._phase(path) in ("Succeeded", "Failed"), 180, f"pod {name} came to an end")
        ended = self._api.get(path)["status"]
        said: str = ended["containerStatuses"][0]["state"]["terminated"].get("message", "")
        if ended["phase"] != "Succeeded":
            sys.exit(f"demo: pod {name} failed: {said}")
        print(f"  pod {name}, after {time.monotonic() - began:.1f} s:  $ {script}")
        print("".join(f"    {line}\n" for line in said.splitlines()), end="")
        self._api.delete(path)
        until(lambda: self._demo.get(path) is None, 90, f"pod {name} is gone")

    def _phase(self, path: str) -> str:
        return str((self._demo.get(path) or {"status": {}})["status"].get("phase"))

    def _outside(self) -> None:
        claim = self._demo.claim("letters")
        volume = self._api.get(PERSISTENT_VOLUMES.path(name=claim["spec"]["volumeName"]))
        source: Object = volume["spec"]["csi"]
        print(f"  the volume:  {source['volumeHandle']} of driver {source['driver']}")
        print(f"  the image:   {self._demo.info(volume['metadata']['name'])}")

    def _remove(self) -> None:
        """Take away what an earlier run left."""
        delete_pods(self._demo)
        self._demo.remove("letters")


def delete_pods(demo: Demo) -> None:
    """Delete the demo's pods, and wait until their volumes are off this machine."""
    for pod in demo.api.list_all(PODS.path(NAMESPACE)).items:
        path = PODS.path(NAMESPACE, pod["metadata"]["name"])
        demo.api.delete(path)
        until(lambda path=path: demo.get(path) is None, 90, "an earlier pod is gone")  # type: ignore[misc]


def end_daemons(directory: Path) -> None:
    """End what this chapter started."""
    for name in DAEMONS:
        if process := Process.from_file(directory / "csi" / f"{name}.pid"):
            process.end(10)


def stop(directory: Path) -> None:
    """End them, and detach what is attached by them still; the kubelet has to be gone."""
    end_daemons(directory)
    release_devices(directory / "csi" / "run")
