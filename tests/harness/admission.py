"""Stopping the provisioner at one step: the API server refuses exactly that write, for as long as a test wants it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.kube.errors import Forbidden
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, SECRETS, Object, Resource
from tests.harness.kubernetes import NAMESPACE, Kubernetes
from tests.harness.waiting import until

_POLICIES = Resource(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
_BINDINGS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)
_DRY = "?dryRun=All"
_HELD = "has(oldObject.metadata.finalizers) && 'ceph-provisioner.io/image' in oldObject.metadata.finalizers"
_KEEPS = "has(object.metadata.finalizers) && 'ceph-provisioner.io/image' in object.metadata.finalizers"


@contextmanager
def no_secrets(kubernetes: Kubernetes) -> Iterator[None]:
    """The Secrets of volumes can't be made."""
    probe = SECRETS.body({"namespace": NAMESPACE, "name": f"probe-{uuid.uuid4().hex[:8]}-cephx"})
    path = SECRETS.path(NAMESPACE) + _DRY
    with _refusing(
        kubernetes, "CREATE", SECRETS, "!object.metadata.name.endsWith('-cephx')", lambda: kubernetes.api.create(path, probe)
    ):
        yield


@contextmanager
def no_volumes(kubernetes: Kubernetes) -> Iterator[None]:
    """PersistentVolumes of a provisioner can't be saved; others can."""
    metadata = {"name": f"probe-{uuid.uuid4().hex[:8]}", "annotations": {"pv.kubernetes.io/provisioned-by": "probe"}}
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/probe"}}
    probe = PERSISTENT_VOLUMES.body(metadata, spec=spec)
    path = PERSISTENT_VOLUMES.path() + _DRY
    with _refusing(
        kubernetes, "CREATE", PERSISTENT_VOLUMES, "!has(object.metadata.annotations)", lambda: kubernetes.api.create(path, probe)
    ):
        yield


@contextmanager
def no_release(kubernetes: Kubernetes) -> Iterator[None]:
    """Our finalizer can't be taken off a claim."""
    claim = kubernetes.make_claim("", finalizers=["ceph-provisioner.io/image"])
    path = PERSISTENT_VOLUME_CLAIMS.path("default", claim["metadata"]["name"])
    without: Object = {"metadata": {"finalizers": ["example.com/other"]}}
    rule = f"!({_HELD}) || ({_KEEPS})"
    try:
        with _refusing(kubernetes, "UPDATE", PERSISTENT_VOLUME_CLAIMS, rule, lambda: kubernetes.api.patch(path + _DRY, without)):
            yield
    finally:
        kubernetes.patch_claim(claim, {"metadata": {"finalizers": None}})
        kubernetes.delete_claim(claim)


@contextmanager
def _refusing(kubernetes: Kubernetes, verb: str, resource: Resource, allowed: str, probe: Callable[[], object]) -> Iterator[None]:
    """Refuse what doesn't meet the CEL expression `allowed`; `probe` is a dry run of what is refused."""
    name = f"tests-{uuid.uuid4().hex[:8]}"
    rule = {"apiGroups": [resource.group], "apiVersions": ["v1"], "operations": [verb], "resources": [resource.plural]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": allowed, "message": "a test refuses it", "reason": "Forbidden"}],
    }
    kubernetes.api.create(_POLICIES.path(), _POLICIES.body({"name": name}, spec=spec))
    binding = {"policyName": name, "validationActions": ["Deny"]}
    kubernetes.api.create(_BINDINGS.path(), _BINDINGS.body({"name": name}, spec=binding))
    until(lambda: _is_refused(probe), 120, "the refusal is in force")
    try:
        yield
    finally:
        kubernetes.api.delete(_BINDINGS.path(name=name))
        kubernetes.api.delete(_POLICIES.path(name=name))
        until(lambda: not _is_refused(probe), 120, "the refusal is lifted")


def _is_refused(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except Forbidden:
        return True
    return False
