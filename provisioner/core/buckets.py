"""Buckets: the values that a front end exchanges with whatever makes them, and what it needs of that.

There are two makers: `provisioner.ceph.buckets` asks a radosgw, `provisioner.iri.obc` leaves it to whoever answers
ObjectBucketClaims. A bucket's name is its identity, as a volume's is.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from provisioner.core.errors import InvalidRequest

_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_HASHED = "cp-"


class BucketState(Enum):
    """How far a bucket is."""

    PENDING = "pending"
    AVAILABLE = "available"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Quota:
    """What a bucket may hold; 0 sets no bound."""

    bytes: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class BucketRequest:
    """One bucket to be made, once. `storage_class` and `settings` are for makers that know such."""

    name: str
    labels: Mapping[str, str]
    quota: Quota = Quota()
    storage_class: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """How a client reaches a bucket; `endpoint` is `<bucket>.<host>[:port]`, the secrets never show in a repr."""

    endpoint: str
    secrets: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it is now; `created` in RFC 3339, `why` tells of one that failed."""

    name: str
    labels: Mapping[str, str]
    created: str
    state: BucketState
    access: BucketAccess | None = None
    why: str = ""


class BucketStore(Protocol):
    """Makes buckets. Every method blocks, is bounded in time, and raises errors of the core only."""

    def create(self, request: BucketRequest) -> Bucket:
        """Make the bucket, or give the one of that name. AlreadyExists if the name is somebody else's."""

    def find(self, name: str) -> Bucket | None:
        """The bucket of that name. What a killed create left is finished on the way."""

    def all(self) -> Sequence[Bucket]:
        """Every bucket that was made here and is not being deleted. Fails rather than leave one out."""

    def delete(self, name: str) -> None:
        """Close the bucket at once, and take away what is in it in the background. NotFound."""


def bucket_name(request: str) -> str:
    """Name the bucket for a request's name: itself where S3 and DNS take it, else `cp-` and 32 hex digits of its hash."""
    if not request:
        raise InvalidRequest("name", request, "must not be empty")
    if _PLAIN.fullmatch(request) and not request.startswith(_HASHED):
        return request
    return _HASHED + hashlib.sha256(request.encode(errors="replace")).hexdigest()[:32]
