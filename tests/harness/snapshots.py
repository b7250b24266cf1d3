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
from tests.harness.kubernetes import PATIENCE, Kubernetes
from tests.harness.waiting import until

SNAPSHOT_CLASSES = Resource("snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass", namespaced=False)
GROUPS = Resource("groupsnapshot.storage.k8s.io", "v1", "volumegroupsnapshots", "VolumeGroupSnapshot", namespaced=True)
GROUP_CLASSES = Resource(
    "groupsnapshot.storage.k8s.io", "v1", "volumegroupsnapshotclasses", "VolumeGroupSnapshotClass", namespaced=False
)
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
    return kubernetes.api.get(_path(snapshot))


def content_of(kubernetes: Kubernetes, snapshot: Object) -> Object:
    """The VolumeSnapshotContent behind the snapshot."""
    name = snapshot_now(kubernetes, snapshot)["status"]["boundVolumeSnapshotContentName"]
    return kubernetes.api.get(VOLUME_SNAPSHOT_CONTENTS.path(name=name))


def wait_ready(kubernetes: Kubernetes, snapshot: Object, seconds: float = PATIENCE) -> Object:
    """Wait until the snapshot can be used; give it."""

    def ready() -> Object | None:
        now = snapshot_now(kubernetes, snapshot)
        return now if (now.get("status") or {}).get("readyToUse") else None

    return until(ready, seconds, "the snapshot is ready", lambda: str(snapshot_now(kubernetes, snapshot)))


def make_group_class(kubernetes: Kubernetes, driver: str) -> str:
    name = f"groups-{uuid.uuid4().hex[:8]}"
    kubernetes.api.create(GROUP_CLASSES.path(), GROUP_CLASSES.body({"name": name}, driver=driver, deletionPolicy="Delete"))
    return name


def take_group(kubernetes: Kubernetes, group_class: str, labels: dict[str, str]) -> Object:
    """Ask for a snapshot of all claims in the default namespace that bear the labels, at one moment."""
    metadata = {"namespace": "default", "name": f"group-{uuid.uuid4().hex[:8]}"}
    spec = {"volumeGroupSnapshotClassName": group_class, "source": {"selector": {"matchLabels": labels}}}
    return kubernetes.api.create(GROUPS.path("default"), GROUPS.body(metadata, spec=spec))


def wait_group_ready(kubernetes: Kubernetes, group: Object, seconds: float = PATIENCE) -> Object:
    """Wait until the whole group can be used; give it."""

    def ready() -> Object | None:
        found = kubernetes.api.get(_path(group))
        return found if (found.get("status") or {}).get("readyToUse") else None

    return until(ready, seconds, "the group is ready", lambda: str(kubernetes.api.get(_path(group))))


def members_of(kubernetes: Kubernetes, group: Object) -> list[Object]:
    """The snapshots that the group consists of."""
    listed = kubernetes.api.list_all(VOLUME_SNAPSHOTS.path(group["metadata"]["namespace"])).items
    name = group["metadata"]["name"]
    return [each for each in listed if (each.get("status") or {}).get("volumeGroupSnapshotName") == name]


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
    """Delete a claim, a snapshot or a group, and wait until it is gone."""
    if item["kind"] == PERSISTENT_VOLUME_CLAIMS.kind:
        kubernetes.delete_claim(item)
        kubernetes.wait_gone(item)
        return
    with suppress(NotFound):
        kubernetes.api.delete(_path(item))
    until(lambda: is_gone(kubernetes, item), PATIENCE, f"{item['kind']} is gone", lambda: str(kubernetes.api.get(_path(item))))


def delete_everything(kubernetes: Kubernetes) -> None:
    """Delete all groups, snapshots and claims, and wait until they are gone."""
    for resource in (GROUPS, VOLUME_SNAPSHOTS):
        for item in kubernetes.api.list_all(resource.path()).items:
            delete(kubernetes, item)
    claims = kubernetes.claims()
    for claim in claims:
        kubernetes.delete_claim(claim)
    for claim in claims:
        kubernetes.wait_gone(claim)


def is_gone(kubernetes: Kubernetes, item: Object) -> bool:
    try:
        kubernetes.api.get(_path(item))
    except NotFound:
        return True
    return False


def _path(item: Object) -> str:
    resource = GROUPS if item["kind"] == GROUPS.kind else VOLUME_SNAPSHOTS
    return resource.path(item["metadata"]["namespace"], item["metadata"]["name"])
