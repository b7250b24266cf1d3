"""Buckets on a radosgw: one user for each, who owns it, and whose display name says what it is.

So nothing has to be remembered elsewhere: the user is made first and says what is wanted, then comes the bucket, and last
the user says that it is there. Whoever finds a user that does not say so, goes on from there. A deletion suspends the user,
which closes the bucket at once; user, bucket and objects are removed in the background, by whichever process comes to it.
"""

import datetime
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from provisioner.ceph.gateway import Gateway, Keys
from provisioner.core.buckets import Bucket, BucketAccess, BucketRequest, BucketState
from provisioner.core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, ProvisionerError, Unavailable
from provisioner.core.single_flight import SingleFlight

log = logging.getLogger(__name__)

_PREFIX = "cp-bucket."
"""Opens the name of every user of ours."""
_LONGEST = 12_000
"""Bytes of a description in a URL: the gateway takes 16 KiB in all."""
_PAGE = 1000
_AT_ONCE = 16
_FRESH = 300.0
"""Seconds that a list believes what was read of a bucket. Whether it is there, a list always asks."""
_EVERY = 600.0
"""Seconds between two looks for what other processes left to be removed."""


class _Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the display name says, in JSON."""

    bucket: str
    labels: dict[str, str]
    created: str
    state: Literal["making", "made", "dying"]
    max_bytes: int = 0
    max_objects: int = 0


@dataclass(frozen=True, slots=True)
class _Owner:
    user: str
    keys: Keys
    says: _Description


@dataclass(frozen=True, slots=True)
class _Remembered:
    bucket: Bucket
    until: float


class GatewayBuckets:
    """Implements `core.buckets.BucketStore`; thread-safe."""

    def __init__(self, gateway: Gateway, endpoint: str = "") -> None:
        """`endpoint` is the HOST[:PORT] that clients are told, the gateway's own if left out."""
        self._gateway, self._endpoint = gateway, endpoint or gateway.host
        self._known: dict[str, _Remembered] = {}
        self._dying: set[str] = set()
        self._flights = SingleFlight()
        self._lock, self._wake = threading.Lock(), threading.Event()

    def create(self, request: BucketRequest) -> Bucket:
        """Make the bucket, or give the one of that name."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        quota = request.quota
        wanted = _Description(request.name, dict(request.labels), now, "making", quota.bytes, quota.objects)
        identity = (msgspec.json.encode(request.labels, order="sorted"), quota)
        return self._flights.run("create", request.name, identity, lambda: self._create(wanted))

    def find(self, name: str) -> Bucket | None:
        """The bucket of that name, finished if a killed create left it half made."""
        owner = self._owner(_PREFIX + name)
        if owner is None or owner.says.state == "dying":
            return None
        try:
            return self._flights.run("finish", name, owner.keys.access, lambda: self._finished(owner))
        except Conflict:  # it is being made at this moment
            return self._bucket(owner)

    def all(self) -> Sequence[Bucket]:
        """Every bucket of ours that is not being deleted: one question to the gateway, and one for each that is new to us."""
        names = [user for user in self._users() if user.startswith(_PREFIX)]
        now = time.monotonic()
        with self._lock:
            self._known = {name: known for name in names if (known := self._known.get(name)) and known.until > now}
            told = {name: known.bucket for name, known in self._known.items()}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            read = [owner for owner in threads.map(self._owner, [name for name in names if name not in told]) if owner]
        alive = [self._bucket(owner) for owner in read if owner.says.state != "dying"]
        return [*told.values(), *alive]

    def delete(self, name: str) -> None:
        """Close the bucket; `remove` takes it away."""
        owner = self._owner(_PREFIX + name)
        if owner is None or owner.says.state == "dying":
            raise NotFound(f"bucket {name}")
        self._say(owner, "dying", suspended="true")
        with self._lock:
            self._known.pop(owner.user, None)
            self._dying.add(owner.user)
        self._wake.set()

    def remove(self, stop: threading.Event) -> None:
        """Take away closed buckets and their users until `stop`; those that other processes closed, too."""
        looked = -_EVERY
        while not stop.is_set():
            try:
                if time.monotonic() - looked > _EVERY:
                    self._note_dying(self._users())
                    looked = time.monotonic()
                self._remove_dying(stop)
            except ProvisionerError as error:
                log.warning("%s; removing buckets goes on later", error)
            self._wake.wait(2.0)
            self._wake.clear()

    def _create(self, wanted: _Description) -> Bucket:
        owner = self._claim(wanted)
        if owner.says.state == "dying":
            raise Unavailable(f"the former bucket {wanted.bucket} is still being removed")
        return self._finished(owner)

    def _claim(self, wanted: _Description) -> _Owner:
        """Make the user that stands for the bucket, or read the one there is."""
        words = msgspec.json.encode(wanted).decode()
        if len(quote(words)) > _LONGEST:
            raise InvalidRequest("bucket.metadata", f"{len(words)} bytes", "labels and annotations are too long for radosgw")
        user = _PREFIX + wanted.bucket
        try:
            return _read(self._gateway.admin("PUT", "user", uid=user, display_name=words, max_buckets=1))
        except AlreadyExists:
            if (there := self._owner(user)) is None:
                raise Unavailable(f"user {user} came and went") from None
            return there

    def _finished(self, owner: _Owner) -> Bucket:
        if owner.says.state == "making":
            owner = self._made(owner)
        bucket = self._bucket(owner)
        with self._lock:
            self._known[owner.user] = _Remembered(bucket, time.monotonic() + _FRESH)
        return bucket

    def _made(self, owner: _Owner) -> _Owner:
        says = owner.says
        self._gateway.make_bucket(says.bucket, owner.keys)
        if says.max_bytes or says.max_objects:
            limits = {"max_size": says.max_bytes or -1, "max_objects": says.max_objects or -1}
            self._gateway.admin("PUT", "user", quota="", uid=owner.user, quota_type="user", enabled="true", **limits)
        try:
            return self._say(owner, "made")
        except Unavailable:  # radosgw answers 500 to one of two writers
            there = self._owner(owner.user)
            if there is None or there.says.state != "made":
                raise
            return there

    def _say(self, owner: _Owner, state: Literal["made", "dying"], **changes: str) -> _Owner:
        words = msgspec.json.encode(msgspec.structs.replace(owner.says, state=state)).decode()
        return _read(self._gateway.admin("POST", "user", uid=owner.user, display_name=words, **changes))

    def _owner(self, user: str) -> _Owner | None:
        """Read a user of ours; None for none, and for one that only bears such a name."""
        try:
            return _read(self._gateway.admin("GET", "user", uid=user))
        except (NotFound, msgspec.DecodeError):
            return None

    def _users(self) -> list[str]:
        names, marker = list[str](), ""
        while True:
            page = self._gateway.admin("GET", "metadata/user", max_entries=_PAGE, **({"marker": marker} if marker else {}))
            names += page["keys"]
            if page.get("truncated") != "true":
                return names
            marker = page["marker"]

    def _bucket(self, owner: _Owner) -> Bucket:
        says = owner.says
        if says.state != "made":
            return Bucket(says.bucket, says.labels, says.created, BucketState.PENDING)
        secrets = {"AWS_ACCESS_KEY_ID": owner.keys.access.encode(), "AWS_SECRET_ACCESS_KEY": owner.keys.secret.encode()}
        access = BucketAccess(f"{says.bucket}.{self._endpoint}", secrets)
        return Bucket(says.bucket, says.labels, says.created, BucketState.AVAILABLE, access)

    def _note_dying(self, users: Iterable[str]) -> None:
        for user in users:
            owner = self._owner(user) if user.startswith(_PREFIX) else None
            if owner is not None and owner.says.state == "dying":
                with self._lock:
                    self._dying.add(user)

    def _remove_dying(self, stop: threading.Event) -> None:
        with self._lock:
            due = list(self._dying)
        for user in due:
            if stop.is_set():
                return
            self._remove(user)
            with self._lock:
                self._dying.discard(user)

    def _remove(self, user: str) -> None:
        owner = self._owner(user)
        if owner is None or owner.says.state != "dying":
            return
        try:
            self._gateway.admin("DELETE", "user", uid=user, purge_data="true")
        except NotFound:
            return
        log.info("bucket %s and its objects are removed", owner.says.bucket)


def _read(answer: Any) -> _Owner:
    says = msgspec.json.decode(answer["display_name"], type=_Description)
    (keys, *_) = answer["keys"]
    return _Owner(answer["user_id"], Keys(keys["access_key"], keys["secret_key"]), says)
