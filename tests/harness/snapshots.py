"""Snapshots as Kubernetes has them, taken by a sidecar or written by hand as an administrator does."""

import uuid
from contextlib import suppress

from provisioner.kube.errors import NotFound
from provisioner.kube.resources import (
    PERSISTENT_VOLUME_CLAIMS,
    REFERENCE_GRANTS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Object,
    Resource,
)
from tests.harness.kubernetes import Kubernetes
from tests.harness.waiting import until

SNAPSHOT_CLASSES = Resource("snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass", namespaced=False)
API_GROUP = "snapshot.storage.k8s.io"


def source(item: Object, **fields: str) -> Object:
    """What stands in `dataSource` of a claim that is made from a claim or a snapshot."""
    group = {"apiGroup": API_GROUP} if item["kind"] == VOLUME_SNAPSHOTS.kind else {}
    return {**group, "kind": item["kind"], "name": item["metadata"]["name"], **fields}


def make_snapshot_class(kubernetes: Kubernetes, driver: str, policy: str = "Delete") -> str:
    name = f"snapshots-{uuid.uuid4().hex[:8]}"
    kubernetes.api.create(SNAPSHOT_CLASSES.path(), SNAPSHOT_CLASSES.body({"name": name}, driver=driver, deletionPolicy=policy))
    return name


def take(kubernetes: Kubernetes, snapshot_class: str, claim: Object, name: str = "") -> Object:
    """Ask for a snapshot of the claim."""
    namespace = claim["metadata"]["namespace"]
    spec = {"volumeSnapshotClassName": snapshot_class, "source": {"persistentVolumeClaimName": claim["metadata"]["name"]}}
    metadata = {"namespace": namespace, "name": name or f"snapshot-{uuid.uuid4().hex[:8]}"}
    return kubernetes.api.create(VOLUME_SNAPSHOTS.path(namespace), VOLUME_SNAPSHOTS.body(metadata, spec=spec))


def write(kubernetes: Kubernetes, driver: str, handle: str, *, size: str = "1Gi", mode: str = "Filesystem") -> Object:
    """A snapshot and its content written by hand: bound, ready, and with the handle that a driver would have given."""
    name, namespace = f"snapshot-{uuid.uuid4().hex[:8]}", "default"
    spec: Object = {"source": {"volumeSnapshotContentName": name}}
    snapshot = kubernetes.api.create(
        VOLUME_SNAPSHOTS.path(namespace), VOLUME_SNAPSHOTS.body({"namespace": namespace, "name": name}, spec=spec)
    )
    reference = {"namespace": namespace, "name": name, "uid": snapshot["metadata"]["uid"]}
    spec = {"driver": driver, "deletionPolicy": "Retain", "source": {"snapshotHandle": handle}}
    spec |= {"volumeSnapshotRef": reference, "sourceVolumeMode": mode}
    kubernetes.api.create(VOLUME_SNAPSHOT_CONTENTS.path(), VOLUME_SNAPSHOT_CONTENTS.body({"name": name}, spec=spec))
    status: Object = {"snapshotHandle": handle, "readyToUse": True}
    kubernetes.api.patch(VOLUME_SNAPSHOT_CONTENTS.path(name=name, subresource="status"), {"status": status})
    status = {"boundVolumeSnapshotContentName": name, "readyToUse": True, "restoreSize": size}
    return kubernetes.api.patch(VOLUME_SNAPSHOTS.path(namespace, name, "status"), {"status": status})


def snapshot_now(kubernetes: Kubernetes, snapshot: Object) -> Object:
    return kubernetes.api.get(VOLUME_SNAPSHOTS.path(snapshot["metadata"]["namespace"], snapshot["metadata"]["name"]))


def content_of(kubernetes: Kubernetes, snapshot: Object) -> Object:
    """The VolumeSnapshotContent behind the snapshot."""
    name = snapshot_now(kubernetes, snapshot)["status"]["boundVolumeSnapshotContentName"]
    return kubernetes.api.get(VOLUME_SNAPSHOT_CONTENTS.path(name=name))


def wait_ready(kubernetes: Kubernetes, snapshot: Object, seconds: float = 30) -> Object:
    """Wait until the snapshot can be used; give it."""

    def ready() -> Object | None:
        now = snapshot_now(kubernetes, snapshot)
        return now if (now.get("status") or {}).get("readyToUse") else None

    return until(ready, seconds, "the snapshot is ready", lambda: str(snapshot_now(kubernetes, snapshot)))


def allow_other_mode(kubernetes: Kubernetes, snapshot: Object) -> None:
    """What an administrator does who trusts the asker with the volume mode."""
    content = content_of(kubernetes, snapshot)["metadata"]["name"]
    noted = {"snapshot.storage.kubernetes.io/allow-volume-mode-change": "true"}
    kubernetes.api.patch(VOLUME_SNAPSHOT_CONTENTS.path(name=content), {"metadata": {"annotations": noted}})


def grant(kubernetes: Kubernetes, source_item: Object, to_namespace: str) -> None:
    """Let the claims of a namespace be made from the item."""
    namespace = source_item["metadata"]["namespace"]
    group = API_GROUP if source_item["kind"] == VOLUME_SNAPSHOTS.kind else ""
    spec = {
        "from": [{"group": "", "kind": "PersistentVolumeClaim", "namespace": to_namespace}],
        "to": [{"group": group, "kind": source_item["kind"], "name": source_item["metadata"]["name"]}],
    }
    metadata = {"namespace": namespace, "name": f"grant-{uuid.uuid4().hex[:8]}"}
    kubernetes.api.create(REFERENCE_GRANTS.path(namespace), REFERENCE_GRANTS.body(metadata, spec=spec))


def delete(kubernetes: Kubernetes, item: Object) -> None:
    """Delete a claim or a snapshot, and wait until it is gone."""
    if item["kind"] == PERSISTENT_VOLUME_CLAIMS.kind:
        kubernetes.delete_claim(item)
        kubernetes.wait_gone(item, 60)
        return
    with suppress(NotFound):
        kubernetes.api.delete(VOLUME_SNAPSHOTS.path(item["metadata"]["namespace"], item["metadata"]["name"]))
    until(lambda: _is_gone(kubernetes, item), 60, "the snapshot is gone")


def delete_everything(kubernetes: Kubernetes) -> None:
    """Delete all snapshots and all claims, and wait until they are gone."""
    for snapshot in kubernetes.api.list_all(VOLUME_SNAPSHOTS.path()).items:
        delete(kubernetes, snapshot)
    claims = kubernetes.claims()
    for claim in claims:
        kubernetes.delete_claim(claim)
    for claim in claims:
        kubernetes.wait_gone(claim, 60)


def _is_gone(kubernetes: Kubernetes, snapshot: Object) -> bool:
    try:
        snapshot_now(kubernetes, snapshot)
    except NotFound:
        return True
    return False
