"""Claims, PersistentVolumes and classes for tests of the claims front end: the least that a real one has."""

from typing import Any

from provisioner.claims import objects
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, Object

UID = "8f4d3e2a-0000-4000-8000-000000000001"
PROVISIONER = "example.com/rbd"


def claim(*, annotations: dict[str, str] | None = None, status: Object | None = None, **spec: Any) -> Object:
    return PERSISTENT_VOLUME_CLAIMS.body(
        {"namespace": "team", "name": "data", "uid": UID, "resourceVersion": "7", "annotations": annotations or {}},
        spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec},
        status=status or {},
    )


def volume(*, phase: str = "Bound", policy: str = "Delete", leaving: bool = False, finalizer: bool = True, **spec: Any) -> Object:
    metadata: Object = {"name": f"pvc-{UID}", "uid": "pv-uid", "resourceVersion": "9"}
    metadata["annotations"] = {objects.PROVISIONED_BY: PROVISIONER, objects.VOLUME: f"dev/rbd/pvc-{UID}"}
    metadata["finalizers"] = ["kubernetes.io/pv-protection", *([objects.VOLUME_FINALIZER] if finalizer else [])]
    if leaving:
        metadata["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    body = {"capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": policy, "rbd": {}, **spec}
    return PERSISTENT_VOLUMES.body(metadata, spec=body, status={"phase": phase})


def storage_class(parameters: dict[str, str] | None = None, **fields: Any) -> Object:
    return STORAGE_CLASSES.body({"name": "fast"}, provisioner=PROVISIONER, parameters=parameters or {}, **fields)
