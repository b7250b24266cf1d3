"""Our reading of quantities against Kubernetes' own: it compares a pod's request with its limit. About 2 s."""

import pytest

from provisioner.claims.quantity import to_bytes
from provisioner.kube.errors import Invalid
from provisioner.kube.resources import Object, Resource
from tests.harness.kubernetes import Kubernetes

_PODS = Resource("", "v1", "pods", "Pod", namespaced=True)


def try_pod(kubernetes: Kubernetes, request: str, limit: int) -> None:
    """Have the API server check a pod that requests so much memory under a limit in bytes; nothing is made."""
    resources: Object = {"requests": {"memory": request}, "limits": {"memory": str(limit)}}
    body = _PODS.body({"name": "never"}, spec={"containers": [{"name": "main", "image": "none", "resources": resources}]})
    kubernetes.api.create(_PODS.path("default") + "?dryRun=All", body)


@pytest.mark.parametrize(
    "text",
    [
        "1Gi",
        "1.5Gi",
        ".5Mi",
        "1.Ki",
        "+1Ki",
        "1G",
        "1k",
        "1500m",
        "3n",
        "1000001u",
        "1e9",
        "1.5E3",
        "25e-1",
        "1E",
        "7Ei",
        "123456789",
    ],
)
def test_a_quantity_is_as_many_bytes_as_kubernetes_takes_it_for(kubernetes: Kubernetes, text: str) -> None:
    size = to_bytes("size", text)
    try_pod(kubernetes, text, size)
    with pytest.raises(Invalid, match="must be less than or equal to memory limit"):
        try_pod(kubernetes, text, size - 1)
