"""What a claim asks for: read and checked from the claim alone, without asking anybody."""

from dataclasses import dataclass

from provisioner.claims import objects
from provisioner.claims.quantity import to_bytes
from provisioner.core.errors import InvalidRequest, OutOfRange
from provisioner.core.model import SizeRange
from provisioner.kube.resources import PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS, Object

STORAGE = "spec.resources.requests.storage"
SOURCE = "spec.dataSource"
_SOURCES = {(kind.group, kind.kind) for kind in (PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS)}
"""Data sources that a provisioner answers for; every other kind has a populator of its own."""

_CLONE_REQUEST = "k8s.io/CloneRequest"
"""Annotation on a claim, `[namespace/]name` of another one: what the standalone-cinder provisioner had for dataSource."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The object that a claim names as the source of its content."""

    group: str
    kind: str
    namespace: str
    name: str

    @property
    def is_snapshot(self) -> bool:
        """Tell whether it is a VolumeSnapshot."""
        return self.kind == VOLUME_SNAPSHOTS.kind

    @property
    def key(self) -> str:
        """What tells it from every other source."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return self.key


def requested_bytes(claim: Object) -> int:
    """What the claim requests, whether or not that can be had."""
    return to_bytes(STORAGE, _requested(claim))


def size_of(claim: Object) -> SizeRange:
    """What the claim requests, and limits, in bytes. Raises InvalidRequest naming the field, for no size that can be had too."""
    limit = ((claim["spec"].get("resources") or {}).get("limits") or {}).get("storage", "0")
    size = SizeRange(requested_bytes(claim), to_bytes("spec.resources.limits.storage", limit))
    try:
        size.choose()
    except OutOfRange as error:
        raise OutOfRange(STORAGE, _requested(claim), error.why) from error
    return size


def is_populated_by_others(claim: Object) -> bool:
    """Tell whether the claim's data comes from a kind of object that is no volume: its populator makes a claim of its own."""
    source = _source(claim)
    return bool(source) and _kind_of(source) not in _SOURCES


def source_of(claim: Object) -> Reference | None:
    """Name the volume or snapshot that the claim's content comes from; None for an empty one and for a populator's."""
    source = _source(claim)
    if not source or (kind := _kind_of(source)) not in _SOURCES:
        return None
    return Reference(*kind, source.get("namespace") or claim["metadata"]["namespace"], source.get("name", ""))


def reference_to(item: Object) -> Reference:
    """Name a claim or a snapshot as it is named where it is a source."""
    metadata, kind = item["metadata"], item.get("kind", PERSISTENT_VOLUME_CLAIMS.kind)
    group = VOLUME_SNAPSHOTS.group if kind == VOLUME_SNAPSHOTS.kind else PERSISTENT_VOLUME_CLAIMS.group
    return Reference(group, kind, metadata["namespace"], metadata["name"])


def refuse_what_cannot_work(claim: Object) -> None:
    """Raise InvalidRequest for a claim that no class could serve."""
    if selector := claim["spec"].get("selector"):
        raise InvalidRequest("spec.selector", selector, "a volume made for a claim can't be selected by labels")
    modes = objects.access_modes(claim)
    if "ReadWriteMany" in modes and objects.volume_mode(claim) != "Block":
        raise InvalidRequest(
            "spec.accessModes", ",".join(modes), "ReadWriteMany needs volumeMode Block: no file system on RBD has two writers"
        )


def _requested(claim: Object) -> str:
    requests = (claim["spec"].get("resources") or {}).get("requests") or {}
    said: str = requests.get("storage", "0")
    return said


def _source(claim: Object) -> Object:
    """What the claim names as its source, in today's fields or as the standalone-cinder provisioner's claims did."""
    found: Object = claim["spec"].get("dataSourceRef") or claim["spec"].get("dataSource") or {}
    if not found and (asked := objects.annotations(claim).get(_CLONE_REQUEST)):
        namespace, _, name = asked.rpartition("/")
        return {"kind": PERSISTENT_VOLUME_CLAIMS.kind, "namespace": namespace, "name": name}
    return found


def _kind_of(source: Object) -> tuple[str, str]:
    return source.get("apiGroup") or "", source.get("kind", "")
