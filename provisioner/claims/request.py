"""What a claim asks for: read and checked from the claim alone, without asking anybody."""

from provisioner.claims import objects
from provisioner.claims.quantity import to_bytes
from provisioner.core.errors import InvalidRequest, OutOfRange, Unsupported
from provisioner.core.model import SizeRange
from provisioner.kube.resources import Object

_STORAGE = "spec.resources.requests.storage"
_SOURCES = {("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")}
"""Data sources that a provisioner answers for; every other kind has a populator of its own."""


def requested_bytes(claim: Object) -> int:
    """What the claim requests, whether or not that can be had."""
    return to_bytes(_STORAGE, _requested(claim))


def size_of(claim: Object) -> SizeRange:
    """What the claim requests, and limits, in bytes. Raises InvalidRequest naming the field, for no size that can be had too."""
    limit = ((claim["spec"].get("resources") or {}).get("limits") or {}).get("storage", "0")
    size = SizeRange(requested_bytes(claim), to_bytes("spec.resources.limits.storage", limit))
    try:
        size.choose()
    except OutOfRange as error:
        raise OutOfRange(_STORAGE, _requested(claim), error.why) from error
    return size


def is_populated_by_others(claim: Object) -> bool:
    """Tell whether the claim's data comes from a kind of object that is no volume: its populator makes a claim of its own."""
    source = _source(claim)
    return bool(source) and (source.get("apiGroup") or "", source.get("kind", "")) not in _SOURCES


def refuse_what_cannot_work(claim: Object) -> None:
    """Raise InvalidRequest or Unsupported for a claim that no class could serve."""
    if selector := claim["spec"].get("selector"):
        raise InvalidRequest("spec.selector", selector, "a volume made for a claim can't be selected by labels")
    if source := _source(claim):
        name = f"{source.get('kind')}/{source.get('name')}"
        raise Unsupported(f"spec.dataSource {name!r}: making a volume from another one is not supported yet")
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
    found: Object = claim["spec"].get("dataSourceRef") or claim["spec"].get("dataSource") or {}
    return found
