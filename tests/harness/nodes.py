"""Nodes without machines, and pods that never run: what the scheduler and the choice of a PersistentVolume's kind look at."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from provisioner.kube.errors import NotFound
from provisioner.kube.resources import NODES, Object, Resource
from provisioner.kube.times import now_seconds
from tests.harness.kubernetes import Kubernetes
from tests.harness.waiting import until

_PODS = Resource("", "v1", "pods", "Pod", namespaced=True)
_CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
_ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False)
_ROOM = {"cpu": "4", "memory": "8Gi", "pods": "110"}


@contextmanager
def nodes(kubernetes: Kubernetes, *kubelets: str, labels: Sequence[Mapping[str, str]] = ()) -> Iterator[list[str]]:
    """Register a Ready node per kubelet version, for the block; gives their names. `labels` are of the first nodes."""
    names = [f"node-{uuid.uuid4().hex[:8]}" for _ in kubelets]
    try:
        for name, version in zip(names, kubelets, strict=True):
            _register(kubernetes, name, version)
        for name, given in zip(names, labels, strict=False):
            kubernetes.api.patch(NODES.path(name=name), {"metadata": {"labels": dict(given)}})
        yield names
    finally:
        for name in names:
            with suppress(NotFound):
                kubernetes.api.delete(NODES.path(name=name))


@contextmanager
def pod_using(
    kubernetes: Kubernetes, claim: Object, node: str = "", selector: Mapping[str, str] | None = None
) -> Iterator[Object]:
    """A pod that mounts the claim, for the block; on a node of the scheduler's choice, among those selected, or on that one."""
    namespace = claim["metadata"]["namespace"]
    spec = {
        "containers": [{"name": "main", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}],
        **({"nodeName": node} if node else {}),
        **({"nodeSelector": dict(selector)} if selector else {}),
    }
    pod = kubernetes.api.create(
        _PODS.path(namespace), _PODS.body({"namespace": namespace, "name": f"pod-{uuid.uuid4().hex[:8]}"}, spec=spec)
    )
    path = _PODS.path(namespace, pod["metadata"]["name"])
    try:
        yield pod
    finally:
        kubernetes.api.delete(path, {"gracePeriodSeconds": 0})
        until(lambda: _is_gone(kubernetes, path), 120, "the pod is gone")


def register_csi(kubernetes: Kubernetes, driver: str) -> str:
    """A Ready node where the driver's node service seems to run; gives its name, which is its CSI node id too.

    Nobody mounts there: whatever the attach-detach controller attaches to it can be detached at once.
    """
    name = f"node-{uuid.uuid4().hex[:8]}"
    _register(kubernetes, name, kubernetes.version)
    managed = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    kubernetes.api.patch(NODES.path(name=name), {"metadata": {"annotations": managed}})
    drivers = [{"name": driver, "nodeID": name, "topologyKeys": []}]
    kubernetes.api.create(_CSI_NODES.path(), _CSI_NODES.body({"name": name}, spec={"drivers": drivers}))
    return name


def node_of(kubernetes: Kubernetes, pod: Object) -> str:
    """The node that the pod was put on, "" while it waits."""
    path = _PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
    name: str = kubernetes.api.get(path)["spec"].get("nodeName", "")
    return name


def attachments(kubernetes: Kubernetes, volume: Object) -> list[Object]:
    """The VolumeAttachments of a PersistentVolume."""
    listed = kubernetes.api.list_all(_ATTACHMENTS.path()).items
    return [each for each in listed if each["spec"]["source"].get("persistentVolumeName") == volume["metadata"]["name"]]


@contextmanager
def attachment(kubernetes: Kubernetes, driver: str, volume: Object, node: str) -> Iterator[str]:
    """Ask for the volume on a node, past every check of Kubernetes, for the block; gives the path of the VolumeAttachment."""
    name = f"attachment-{uuid.uuid4().hex[:8]}"
    spec = {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume["metadata"]["name"]}}
    kubernetes.api.create(_ATTACHMENTS.path(), _ATTACHMENTS.body({"name": name}, spec=spec))
    path = _ATTACHMENTS.path(name=name)
    try:
        yield path
    finally:
        kubernetes.api.delete(path)
        until(lambda: _is_gone(kubernetes, path), 120, "the attachment is gone")


def _is_gone(kubernetes: Kubernetes, path: str) -> bool:
    try:
        kubernetes.api.get(path)
    except NotFound:
        return True
    return False


def _register(kubernetes: Kubernetes, name: str, version: str) -> None:
    kubernetes.api.create(NODES.path(), NODES.body({"name": name}))
    now = now_seconds()
    ready = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now, "lastTransitionTime": now}
    status: Object = {"capacity": _ROOM, "allocatable": _ROOM, "conditions": [ready]}
    status["nodeInfo"] = (
        {"kubeletVersion": version}
        | dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"), "test")
        | {"kubeProxyVersion": version, "operatingSystem": "linux", "architecture": "amd64"}
    )
    kubernetes.api.patch(NODES.path(name=name, subresource="status"), {"status": status})
    kubernetes.api.patch(NODES.path(name=name), {"spec": {"taints": None}})
