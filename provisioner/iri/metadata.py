"""What every object of the runtime interface bears, kept in the labels of whatever stands for it in Ceph.

The core's labels describe a volume to people; ours say besides that it was made through this door, and for whom.
"""

import datetime
from collections.abc import Mapping

from provisioner.core.errors import InvalidRequest
from provisioner.iri.pb.meta.v1alpha1.api_pb2 import ObjectMetadata

CLASS = "iri.class"
"""The label that makes something an object of this front end: the name of its class."""
_LABEL, _ANNOTATION = "iri.label/", "iri.annotation/"

LONGEST_VALUE, MOST = 4096, 16384
"""Bytes of the longest label or annotation, and of all of an object's together: listings have to fit into gRPC's 4 MiB."""


def kept_labels(field: str, given: ObjectMetadata, class_name: str) -> dict[str, str]:
    """What of an object's metadata is kept, as labels. Raises InvalidRequest for what is too long to be kept."""
    _check(f"{field}.labels", given.labels)
    _check(f"{field}.annotations", given.annotations)
    kept = {_LABEL + key: value for key, value in given.labels.items()}
    return kept | {_ANNOTATION + key: value for key, value in given.annotations.items()} | {CLASS: class_name}


def object_metadata(object_id: str, kept: Mapping[str, str], created: str) -> ObjectMetadata:
    """The metadata again; `created` in RFC 3339."""
    return ObjectMetadata(
        id=object_id,
        labels=labels(kept),
        annotations=_with_prefix(_ANNOTATION, kept),
        created_at=nanoseconds(created),
    )


def labels(kept: Mapping[str, str]) -> dict[str, str]:
    """The object's own labels."""
    return _with_prefix(_LABEL, kept)


def matches(kept: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Tell whether the object bears each of the labels, with just that value."""
    return all(kept.get(_LABEL + key) == value for key, value in selector.items())


def nanoseconds(moment: str) -> int:
    """Nanoseconds since 1970 of a moment in RFC 3339; 0 for what is none."""
    try:
        return int(datetime.datetime.fromisoformat(moment).timestamp()) * 1_000_000_000
    except ValueError:
        return 0


def _with_prefix(prefix: str, kept: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in kept.items() if key.startswith(prefix)}


def _check(field: str, given: Mapping[str, str]) -> None:
    total = 0
    for key, value in given.items():
        longest = max(len(key.encode()), len(value.encode()))
        total += len(key.encode()) + len(value.encode())
        if longest > LONGEST_VALUE:
            raise InvalidRequest(f"{field}[{key[:64]}]", f"{value[:32]}...", f"is longer than {LONGEST_VALUE} bytes")
    if total > MOST:
        raise InvalidRequest(field, f"{total} bytes", f"all together are longer than {MOST} bytes")
