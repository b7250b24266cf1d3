"""The node service as the manifests run it: in a container, with what the DaemonSet of `overlays/csi` gives it and no more.

Its image can't be had here. In its place the one busybox image is used, over which this machine's own programs are mounted for
reading; all else (rights, mounts, sockets, the config file, the keys) is as rendered, but for the kubelet's directory.
"""

import json
import sys
from pathlib import Path
from typing import Any

from hack.kubernetes.image import NAME as IMAGE
from hack.kubernetes.node import NAME as NODE
from provisioner.kube.resources import CONFIG_MAPS, SECRETS, Object
from tests.harness.kubernetes import NAMESPACE, ROOT
from tests.harness.manifests import rendered
from tests.harness.pods import PODS, PodCluster
from tests.harness.program import PROGRAM

_MERGED = {"/bin": "/usr/bin", "/sbin": "/usr/sbin", "/lib": "/usr/lib", "/lib64": "/usr/lib64", "/usr": "/usr"}
"""Debian's directories in /usr, and the names by which programs know them."""
_PORT = "9872"


def run_as_pod(pods: PodCluster, port: int) -> Object:
    """Make what the DaemonSet would make for this node; its status is at `port`."""
    _make_inputs(pods)
    (daemon_set,) = [item for item in rendered(ROOT / "manifests/overlays/csi") if item["kind"] == "DaemonSet"]
    text = json.dumps(daemon_set["spec"]["template"])
    template = json.loads(text.replace("/var/lib/kubelet", str(pods.kubelet)).replace(_PORT, str(port)))
    spec = template["spec"] | {"nodeName": NODE, "terminationGracePeriodSeconds": 10}
    (container,) = spec["containers"]
    container |= {"image": IMAGE, "imagePullPolicy": "Never", "command": [str(PROGRAM)]}
    container["args"] += ["--mounter=fuse"]
    container["env"].append({"name": "PYTHONPATH", "value": str(ROOT)})
    for number, (inside, outside) in enumerate(_programs().items()):
        name = f"programs-{number}"
        container["volumeMounts"].append({"name": name, "mountPath": inside, "readOnly": True})
        spec["volumes"].append({"name": name, "hostPath": {"path": outside, "type": "Directory"}})
    body = PODS.body({"namespace": NAMESPACE, "name": "node", "labels": template["metadata"]["labels"]}, spec=spec)
    return pods.kubernetes.api.create(PODS.path(NAMESPACE), body)


def _programs() -> dict[str, str]:
    ours = {str(path): str(path) for path in (ROOT, Path(sys.prefix).resolve())}
    return _MERGED | ours | {sys.prefix: str(Path(sys.prefix).resolve())}


def _make_inputs(pods: PodCluster) -> None:
    """The ConfigMap and the Secret that an administrator makes."""
    api, keys = pods.kubernetes.api, "/etc/ceph-provisioner/ceph"
    cluster: dict[str, Any] = {"conf": f"{keys}/ceph.conf", "user": pods.ceph.user, "keyring": f"{keys}/keyring"}
    config = json.dumps({"clusters": {"dev": {**cluster, "pools": [pods.pool]}}})
    api.create(CONFIG_MAPS.path(NAMESPACE), CONFIG_MAPS.body({"name": "ceph-provisioner-csi"}, data={"config.yaml": config}))
    files = {"ceph.conf": Path(pods.ceph.conf).read_text(), "keyring": Path(pods.ceph.keyring).read_text()}
    api.create(SECRETS.path(NAMESPACE), SECRETS.body({"name": "ceph"}, stringData=files))
