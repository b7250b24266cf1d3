"""What `kubectl apply -k` does: a kustomization rendered, and each object applied by the server, warnings and all."""

import json
import ssl
import subprocess
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import yaml

from hack.kustomize.build import kustomize
from tests.harness.kubernetes import Kubernetes

Item = dict[str, Any]


def rendered(directory: Path) -> list[Item]:
    """What the kustomization in a directory makes, in its order."""
    done = subprocess.run([kustomize(print), directory], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


class Applier:
    """The administrator of a cluster, who applies objects and hears what the server has to say."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._api, config = kubernetes.api, yaml.safe_load(kubernetes.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._connection = HTTPSConnection(cluster["server"].removeprefix("https://"), timeout=60, context=context)
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def apply(self, item: Item) -> list[str]:
        """Apply it as `kubectl apply --server-side --validate=strict` would; gives what the server complains of."""
        query = "fieldManager=tests&force=true&fieldValidation=Strict"
        headers = {"Content-Type": "application/apply-patch+yaml"}
        self._connection.request("PATCH", f"{self._path(item)}?{query}", json.dumps(item), headers)
        answer = self._connection.getresponse()
        said = answer.read().decode()
        warnings = answer.headers.get_all("Warning") or []
        return warnings if answer.status < 300 else [*warnings, json.loads(said)["message"]]

    def _path(self, item: Item) -> str:
        version, kind, metadata = item["apiVersion"], item["kind"], item["metadata"]
        if (version, kind) not in self._paths:
            self._discover(version)
        plural, namespaced = self._paths[version, kind]
        namespace = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        return f"{_root(version)}{namespace}/{plural}/{metadata['name']}"

    def _discover(self, version: str) -> None:
        for each in self._api.get(_root(version))["resources"]:
            if "/" not in each["name"]:
                self._paths[version, each["kind"]] = (each["name"], each["namespaced"])


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
