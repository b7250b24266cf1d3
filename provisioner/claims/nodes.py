"""Which kind of PersistentVolume the nodes can mount: up to 1.30 a kubelet has the rbd plugin, later ones only CSI."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provisioner.core.errors import Unavailable, Unsupported
from provisioner.kube.resources import NODES, Object
from provisioner.kube.transport import Api

LAST_NATIVE = (1, 30)
_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_FRESH = 30.0
"""Seconds for which one look at the nodes serves all claims."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Native or csi, with a warning for the claim where only part of the nodes can mount it."""

    native: bool
    warning: str = ""


class Kubelets:
    """The nodes' kubelet versions and labels, looked at now and then: nodes change every few seconds, these hardly ever."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._lock = threading.Lock()
        self._seen: list[Object] = []
        self._seen_at = -_FRESH

    def versions(self) -> list[str]:
        """Kubelet versions such as "v1.30.14", one per node."""
        return [node["version"] for node in self._nodes()]

    def labels(self) -> list[Mapping[str, str]]:
        """The labels of each node."""
        return [node["labels"] for node in self._nodes()]

    def labels_of(self, name: str) -> Mapping[str, str]:
        """The labels of one node, also of one that just came. Raises Unavailable if it is not there."""
        for since in (_FRESH, 0.0):
            for node in self._nodes(since):
                if node["name"] == name:
                    return dict(node["labels"])
        raise Unavailable(f"node {name}, which the scheduler chose, is not there")

    def _nodes(self, fresh: float = _FRESH) -> list[Object]:
        with self._lock:
            if self._clock() - self._seen_at >= fresh:
                self._seen = self._api.list_all(NODES.path(), {"resourceVersion": "0"}, limit=0, trim=_trimmed).items
                self._seen_at = self._clock()
            return self._seen


def _trimmed(node: Object) -> Object:
    version = ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", "")
    return {"name": node["metadata"]["name"], "version": version, "labels": node["metadata"].get("labels") or {}}


def choose(pv_type: str, versions: list[str]) -> Choice:
    """Decide what to make. Raises Unsupported where no kubelet could ever mount a native volume.

    A node whose kubelet hasn't said its version yet tells nothing.
    """
    native = [version <= LAST_NATIVE for version in map(_parsed, versions) if version]
    if pv_type == "csi":
        return Choice(native=False)
    if pv_type == "auto":
        return Choice(native=bool(native) and all(native))
    if not native:
        return Choice(native=True, warning="no node is registered yet: kubelets up to 1.30 can mount a native rbd volume")
    if not any(native):
        oldest = min(filter(_parsed, versions), key=_parsed)
        raise Unsupported(
            f"parameters.pvType 'native': no kubelet can mount it, the oldest is {oldest} and the rbd plugin "
            "ended with 1.30; set pvType: csi in the StorageClass and run the CSI node service"
        )
    unable = len(native) - sum(native)
    return Choice(
        native=True,
        warning=f"{unable} of {len(native)} nodes have a kubelet later than 1.30 and can't mount it" if unable else "",
    )


def _parsed(version: str) -> tuple[int, ...]:
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else ()
