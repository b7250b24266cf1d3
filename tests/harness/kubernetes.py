"""A real Kubernetes control plane, with the claims front end's own service account installed from the manifests."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provisioner.kube import kubeconfig
from provisioner.kube.errors import AlreadyExists, NotFound
from provisioner.kube.resources import (
    EVENTS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    SECRETS,
    STORAGE_CLASSES,
    Object,
    Resource,
)
from provisioner.kube.transport import Api
from tests.harness.waiting import until

ROOT = Path(__file__).parents[2]
NAMESPACE = "ceph-provisioner"
PATIENCE = 120
"""Seconds for what other programs do, sidecars, kubelets and controllers of Kubernetes: a try that fails they repeat after
ever longer pauses, and the machine is busy."""
_CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
_KINDS = {
    "CSIDriver": Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False),
    "CustomResourceDefinition": _CRDS,
    "Namespace": NAMESPACES,
    "ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True),
    "ClusterRole": Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    "ClusterRoleBinding": Resource(
        "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
    ),
    "Role": Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", namespaced=True),
    "RoleBinding": Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", namespaced=True),
}


@dataclass(frozen=True)
class Kubernetes:
    """One cluster of hack/dev-kubernetes; `api` is the administrator's."""

    directory: Path
    kubeconfig: Path
    version: str
    api: Api = field(repr=False)

    def apply(self, *manifests: Path) -> None:
        for manifest in manifests:
            for item in yaml.safe_load_all(manifest.read_text()):
                resource = _KINDS[item["kind"]]
                with contextlib.suppress(AlreadyExists):
                    self.api.create(resource.path(item["metadata"].get("namespace", "")), item)

    def define(self, *manifests: Path) -> None:
        """Apply CustomResourceDefinitions, and wait until their kinds can be used."""
        self.apply(*manifests)
        until(lambda: all(_is_established(item) for item in self.api.list_all(_CRDS.path()).items), 120, "CRDs are established")

    def account_kubeconfig(self, path: Path, account: str = "ceph-provisioner") -> Path:
        """A kubeconfig of a service account that the manifests make: what the program runs under in a cluster."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        accounts = _KINDS["ServiceAccount"].path(NAMESPACE, account, "token")
        token = self.api.create(accounts, request)["status"]["token"]
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"] = [{"name": "account", "user": {"token": token}}]
        config["contexts"][0]["context"]["user"] = "account"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    def make_class(self, provisioner: str, parameters: dict[str, str] | None = None, **fields: Any) -> str:
        name = f"class-{uuid.uuid4().hex[:8]}"
        body = STORAGE_CLASSES.body(
            {"name": name}, provisioner=provisioner, parameters=parameters or {}, **{"allowVolumeExpansion": True, **fields}
        )
        self.api.create(STORAGE_CLASSES.path(), body)
        return name

    def make_claim(
        self,
        storage_class: str,
        size: str = "1Gi",
        name: str = "",
        namespace: str = "default",
        finalizers: list[str] | None = None,
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> Object:
        metadata = {"name": name or f"claim-{uuid.uuid4().hex[:8]}", "namespace": namespace}
        body = PERSISTENT_VOLUME_CLAIMS.body(
            {**metadata, "finalizers": finalizers or [], "annotations": annotations or {}},
            spec={
                "storageClassName": storage_class,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
                **spec,
            },
        )
        return self.api.create(PERSISTENT_VOLUME_CLAIMS.path(namespace), body)

    def claim(self, claim: Object) -> Object | None:
        """The claim as it is now, None if it is gone."""
        return self._get(PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"]))

    def volume_of(self, claim: Object) -> Object | None:
        return self._get(PERSISTENT_VOLUMES.path(name=f"pvc-{claim['metadata']['uid']}"))

    def volumes(self) -> list[Object]:
        return self.api.list_all(PERSISTENT_VOLUMES.path()).items

    def claims(self, namespace: str = "") -> list[Object]:
        return self.api.list_all(PERSISTENT_VOLUME_CLAIMS.path(namespace)).items

    def secrets(self) -> list[Object]:
        """The Secrets that the provisioner made."""
        found = self.api.list_all(SECRETS.path(NAMESPACE)).items
        return [secret for secret in found if secret["type"] == "kubernetes.io/rbd"]

    def secret_data(self, namespace: str, name: str) -> dict[str, str]:
        data = self.api.get(SECRETS.path(namespace, name))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def events(self, item: Object) -> list[Object]:
        selector = {"fieldSelector": f"involvedObject.uid={item['metadata']['uid']}"}
        namespace = item["metadata"].get("namespace", "default")
        return self.api.list_all(EVENTS.path(namespace), selector).items

    def told(self, item: Object) -> list[tuple[str, str]]:
        """Reason and message of each event about the item."""
        return [(event["reason"], event["message"]) for event in self.events(item)]

    def make_secret(self, namespace: str, name: str, **data: str) -> Object:
        return self.api.create(SECRETS.path(namespace), SECRETS.body({"name": name}, stringData=data))

    def let_read(self, namespace: str, secret: str) -> None:
        """Let our service account read one Secret, as a class with credentials of its own needs it."""
        name, role, binding = f"reads-{secret}", _KINDS["Role"], _KINDS["RoleBinding"]
        rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]}
        self.api.create(role.path(namespace), role.body({"name": name}, rules=[rule]))
        subject = {"kind": "ServiceAccount", "name": "ceph-provisioner", "namespace": NAMESPACE}
        reference = {"apiGroup": role.group, "kind": role.kind, "name": name}
        self.api.create(binding.path(namespace), binding.body({"name": name}, roleRef=reference, subjects=[subject]))

    def make_volume_by_hand(self, name: str, storage_class: str, claim: Object | None = None) -> str:
        """A PersistentVolume that no provisioner made, for the claim if there is one; gives its name."""
        spec: Object = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/nowhere"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": storage_class,
        }
        if claim is not None:
            spec["claimRef"] = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
        self.api.create(PERSISTENT_VOLUMES.path(), PERSISTENT_VOLUMES.body({"name": name}, spec=spec))
        return name

    def patch_volume(self, name: str, body: Object) -> Object:
        return self.api.patch(PERSISTENT_VOLUMES.path(name=name), body)

    @contextlib.contextmanager
    def killed(self, daemon: str) -> Iterator[None]:
        """Kill one of the control plane's daemons, for the block."""
        os.kill(int((self.directory / "run" / f"{daemon}.pid").read_text().splitlines()[-1].split()[0]), signal.SIGKILL)
        try:
            yield
        finally:
            subprocess.run([ROOT / "hack" / "dev-kubernetes", "restart-daemon", str(self.directory), daemon], check=True)

    def delete_claim(self, claim: Object) -> None:
        with contextlib.suppress(NotFound):
            self.api.delete(PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"]))

    def delete_volume(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self.api.delete(PERSISTENT_VOLUMES.path(name=name))

    def patch_claim(self, claim: Object, body: Object) -> Object:
        return self.api.patch(PERSISTENT_VOLUME_CLAIMS.path(claim["metadata"]["namespace"], claim["metadata"]["name"]), body)

    def wait_bound(self, claim: Object, seconds: float = PATIENCE) -> Object:
        """Wait until the claim is Bound; give its PersistentVolume."""

        def bound() -> Object | None:
            now = self.claim(claim)
            return self.volume_of(claim) if now and (now.get("status") or {}).get("phase") == "Bound" else None

        return until(bound, seconds, f"claim {claim['metadata']['name']} is Bound", lambda: str(self.told(claim)))

    def wait_event(self, item: Object, reason: str, text: str = "", seconds: float = PATIENCE) -> Object:
        """Wait for an event about the item whose message holds `text`."""

        def told() -> Object | None:
            return next((e for e in self.events(item) if e["reason"] == reason and text in e["message"]), None)

        return until(told, seconds, f"event {reason} with {text!r}", lambda: str(self.told(item)))

    def wait_gone(self, claim: Object, seconds: float = PATIENCE) -> None:
        """Wait until neither the claim nor its PersistentVolume is there."""
        until(
            lambda: self.claim(claim) is None and self.volume_of(claim) is None,
            seconds,
            "claim and volume are gone",
            lambda: f"{self.claim(claim)}\n{self.volume_of(claim)}",
        )

    def _get(self, path: str) -> Object | None:
        try:
            return self.api.get(path)
        except NotFound:
            return None


def _is_established(definition: Object) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def start(directory: Path, version: str = "1.30", *options: str) -> Kubernetes:
    command = [ROOT / "hack" / "dev-kubernetes", "start", str(directory), "--version", version, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return connect(directory, Path(told["kubeconfig"]))


def connect(directory: Path, path: Path) -> Kubernetes:
    """The cluster that a kubeconfig leads to, with our manifests applied; `directory` is of use only if it is ours."""
    api = Api(kubeconfig.load(str(path)), "tests")
    cluster = Kubernetes(directory, path, api.get("/version")["gitVersion"], api)
    cluster.apply(ROOT / "manifests/base/namespace.yaml", ROOT / "manifests/base/rbac.yaml")
    return cluster


def stop(directory: Path) -> None:
    subprocess.run([ROOT / "hack" / "dev-kubernetes", "stop", str(directory), "--purge"], check=True)
