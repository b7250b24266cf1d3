"""The demo's clusters and its first chapters: claims that are answered with native PersistentVolumes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from provisioner.kube import kubeconfig
from provisioner.kube.errors import AlreadyExists, NotFound
from provisioner.kube.resources import (
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    STORAGE_CLASSES,
    Object,
    Resource,
)
from provisioner.kube.transport import Api

from .screen import say, until

ROOT = Path(__file__).resolve().parents[2]
PROVISIONER = "ceph-provisioner.io/rbd"
NAMESPACE = "demo"
_RBAC = "rbac.authorization.k8s.io"
KINDS = {
    "Namespace": NAMESPACES,
    "ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True),
    "ClusterRole": Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    "ClusterRoleBinding": Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    "Role": Resource(_RBAC, "v1", "roles", "Role", namespaced=True),
    "RoleBinding": Resource(_RBAC, "v1", "rolebindings", "RoleBinding", namespaced=True),
    "StorageClass": STORAGE_CLASSES,
    "CSIDriver": Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False),
}


def last_json(command: list[str]) -> dict[str, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"demo: {' '.join(command)} failed")
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


class Demo:
    """The clusters, the provisioner, and three claims."""

    def __init__(self, directory: Path, *options: str) -> None:
        """Start both clusters; `options` are dev-kubernetes'."""
        self.directory, self.log, self.config = directory, directory / "provisioner.log", directory / "config.yaml"
        directory.mkdir(parents=True, exist_ok=True)
        say("A Ceph (mon, mgr, OSD) and a Kubernetes control plane, both real, both on loopback")
        self.ceph = last_json([str(ROOT / "hack/dev-ceph"), "start", str(directory / "ceph")])
        command = [str(ROOT / "hack/dev-kubernetes"), "start", str(directory / "kubernetes"), "--version", "1.30", *options]
        self.kubernetes = last_json(command)
        self.kubeconfig = self.kubernetes["kubeconfig"]
        self.api = Api(kubeconfig.load(self.kubeconfig), "demo")

    def run(self) -> None:
        self.install()
        self.provisioner()
        self.claims()
        self.expand()
        self.delete()

    def install(self) -> None:
        say("The provisioner's service account and rights, and a StorageClass")
        for manifest in ("manifests/base/namespace.yaml", "manifests/base/rbac.yaml", "manifests/examples/storageclass.yaml"):
            self.apply(ROOT / manifest)
        with contextlib.suppress(AlreadyExists):
            self.api.create(NAMESPACES.path(), NAMESPACES.body({"name": NAMESPACE}))
        print((ROOT / "manifests/examples/storageclass.yaml").read_text().strip())

    def apply(self, *manifests: Path) -> None:
        """Make what is in them, unless it is there."""
        for manifest in manifests:
            for item in yaml.safe_load_all(manifest.read_text()):
                with contextlib.suppress(AlreadyExists):
                    self.api.create(KINDS[item["kind"]].path(item["metadata"].get("namespace", "")), item)

    def provisioner(self) -> None:
        say("ceph-provisioner claims, under that service account")
        account = self.directory / "account.kubeconfig"
        cluster = {name: self.ceph[name] for name in ("conf", "user", "keyring")}
        self.config.write_text(yaml.safe_dump({"clusters": {"dev": cluster}}))
        self.write_account(account)
        stop_provisioner(self.directory)
        command = [str(Path(sys.executable).with_name("ceph-provisioner")), "--config", str(self.config), "claims"]
        command += ["--kubeconfig", str(account), "--provisioner", PROVISIONER, "--listen", "127.0.0.1:0"]
        print("  " + " ".join(command))
        with self.log.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        (self.directory / "provisioner.pid").write_text(str(process.pid))
        until(lambda: "status at" in self.log.read_text() or process.poll() is not None, 60, "the provisioner started")
        if process.poll() is not None:
            sys.exit(f"demo: the provisioner ended: {self.log.read_text()}")

    def write_account(self, path: Path, name: str = "ceph-provisioner") -> None:
        """A kubeconfig of one of the manifests' service accounts."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        token = self.api.create(KINDS["ServiceAccount"].path("ceph-provisioner", name, "token"), request)
        config = yaml.safe_load(Path(self.kubeconfig).read_text())
        config["users"] = [{"name": "account", "user": {"token": token["status"]["token"]}}]
        config["contexts"][0]["context"]["user"] = "account"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))

    def claims(self) -> None:
        say("Three claims: a filesystem, a block device, a bigger one")
        for name, size, mode in (("files", "1Gi", "Filesystem"), ("block", "2Gi", "Block"), ("bigger", "20Gi", "Filesystem")):
            self.remove(name)
            self.api.create(
                PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE),
                PERSISTENT_VOLUME_CLAIMS.body(
                    {"name": name, "namespace": NAMESPACE},
                    spec={
                        "storageClassName": "rbd",
                        "accessModes": ["ReadWriteOnce"],
                        "volumeMode": mode,
                        "resources": {"requests": {"storage": size}},
                    },
                ),
            )
        for name in ("files", "block", "bigger"):
            until(lambda name=name: self.claim(name)["status"].get("phase") == "Bound", 60, f"claim {name} Bound")  # type: ignore[misc]
        self.table()

    def expand(self) -> None:
        say("The block claim asks for 5Gi")
        path = PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE, "block")
        self.api.patch(path, {"spec": {"resources": {"requests": {"storage": "5Gi"}}}})
        until(lambda: self.claim("block")["status"]["capacity"]["storage"] == "5Gi", 60, "claim block has 5Gi")
        self.table()

    def delete(self) -> None:
        say("The claim `files` is deleted: its PersistentVolume, image, user and Secret go with it")
        volume = self.claim("files")["spec"]["volumeName"]
        self.remove("files")
        until(lambda: volume not in self.images(), 60, "the image is gone")
        self.table()

    def remove(self, name: str) -> None:
        found = self.claim(name)
        if not found:
            return
        self.api.delete(PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE, name))
        volume = PERSISTENT_VOLUMES.path(name=f"pvc-{found['metadata']['uid']}")
        until(lambda: not self.claim(name) and not self.get(volume), 60, f"claim {name} and its volume are gone")

    def table(self) -> None:
        print(f"{'CLAIM':8} {'STATUS':8} {'SIZE':6} {'PERSISTENTVOLUME (spec.rbd.image)':42} {'RBD INFO (what Ceph has)'}")
        claims = self.api.list_all(PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE)).items
        for claim in (each for each in claims if each["spec"]["storageClassName"] == "rbd"):
            volume = self.get(PERSISTENT_VOLUMES.path(name=claim["spec"].get("volumeName", "none"))) or {}
            image = volume.get("spec", {}).get("rbd", {}).get("image", "")
            status = claim.get("status", {})
            size = status.get("capacity", {}).get("storage", "")
            print(f"{claim['metadata']['name']:8} {status.get('phase', ''):8} {size:6} {image:42} {self.info(image)}")

    def info(self, image: str) -> str:
        found = self.rbd("info", image)
        return f"{found['size'] >> 20} MiB, id {found['id']}, {','.join(found['features'])}" if found else ""

    def images(self) -> list[str]:
        return list(self.rbd("ls"))

    def rbd(self, *words: str) -> Object:
        command = ["rbd", "--conf", self.ceph["conf"], "--id", self.ceph["user"], *words, "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answer: Object = json.loads(done.stdout)
        return answer

    def claim(self, name: str) -> Object:
        return self.get(PERSISTENT_VOLUME_CLAIMS.path(NAMESPACE, name)) or {}

    def get(self, path: str) -> Object | None:
        try:
            return self.api.get(path)
        except NotFound:
            return None

    def goodbye(self) -> None:
        say("All of it goes on running")
        print(f"  look around:  export KUBECONFIG={self.kubeconfig}; kubectl -n {NAMESPACE} get pvc,pv,events")
        print(f"                rbd --conf {self.ceph['conf']} --id {self.ceph['user']} ls -l")
        address = self.log.read_text().split("status at ", 1)[1].split()[0]
        print(f"                curl {address}/metrics; less {self.log}")
        print("  stop:         make demo-stop")


def stop_provisioner(directory: Path) -> None:
    file = directory / "provisioner.pid"
    if not file.exists():
        return
    pid = int(file.read_text())
    if b"ceph-provisioner" in command_line(pid):
        os.kill(pid, signal.SIGTERM)
        until(lambda: b"ceph-provisioner" not in command_line(pid), 30, "the provisioner stopped")
    file.unlink()


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
