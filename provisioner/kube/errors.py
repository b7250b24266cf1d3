"""What can go wrong between us and an API server, in one tree.

    KubeError
    ├── ConfigError                    no kubeconfig, or one that can't be used
    ├── Unreachable                    no whole answer: refused, TLS, timeout, cut off; a write may have happened
    │   └── Silent                     a watch without a word; there may have been nothing to say
    └── ApiError(status, reason, ...)  the server said no
        ├── Unauthorized               401
        ├── Forbidden                  403
        ├── NotFound                   404
        ├── Conflict                   409, the object has changed since it was read
        │   └── AlreadyExists          409, the name is taken
        ├── Gone                       410, the version asked for is no longer kept
        ├── Invalid                    422
        ├── TooManyRequests            429
        └── ServerFailed               5xx

`is_passing` tells the ones that the same request may survive when sent again later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec.json

_LONGEST_QUOTE = 300


class KubeError(Exception):
    """The root: `str()` of each is one sentence."""


class ConfigError(KubeError):
    """The configuration can't lead to an API server; the message names the file and the key."""


class Unreachable(KubeError):
    """No whole answer came, so that a write may have happened or not; the cause is chained."""


class Silent(Unreachable):
    """A watch had no word for as long as was agreed: dead, or nothing to say."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One of the server's reasons: what (`NamespaceTerminating`, `FieldValueInvalid`), where, and why."""

    reason: str
    field: str
    message: str


class ApiError(KubeError):
    """The server's refusal: its HTTP status, its one-word reason, its sentence and its causes."""

    def __init__(self, status: int, reason: str, message: str, causes: tuple[Cause, ...] = ()) -> None:
        self.status, self.reason, self.message, self.causes = status, reason, message, causes
        super().__init__(f"{message} ({status} {reason})")


class Unauthorized(ApiError):
    """The server does not know the caller."""


class Forbidden(ApiError):
    """The caller may not do this, or an admission rule or a quota is against it."""


class NotFound(ApiError):
    """No such object, or no such kind."""


class Conflict(ApiError):
    """The object has changed since it was read."""


class AlreadyExists(Conflict):
    """The name is taken."""


class Gone(ApiError):
    """The version to read from is no longer kept: list again."""


class Invalid(ApiError):
    """The server does not accept the object; the causes name the fields."""


class TooManyRequests(ApiError):
    """The server wants fewer requests."""


class ServerFailed(ApiError):
    """The server could not do it this time."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def is_passing(error: KubeError) -> bool:
    """Whether the same request may succeed later without anything being changed."""
    return isinstance(error, (Unreachable, TooManyRequests, ServerFailed))


def from_answer(status: int, body: bytes) -> ApiError:
    """The error an HTTP answer stands for; a body that is no Status (a proxy's page) is quoted."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    if not isinstance(said, dict) or said.get("kind") != "Status":
        said = {"message": body[:_LONGEST_QUOTE].decode(errors="replace").strip() or "no explanation"}
    return from_status({**said, "code": status})


def from_status(said: Mapping[str, Any]) -> ApiError:
    """The error that a `Status` object stands for, as an answer's body or as a watch's ERROR event."""
    status, reason = int(said.get("code") or 500), str(said.get("reason") or "Unknown")
    causes = (said.get("details") or {}).get("causes") or ()
    found = tuple(Cause(c.get("reason", ""), c.get("field", ""), c.get("message", "")) for c in causes)
    return _class_of(status, reason)(status, reason, str(said.get("message") or reason), found)


def _class_of(status: int, reason: str) -> type[ApiError]:
    if reason == "AlreadyExists":
        return AlreadyExists
    if status >= 500:
        return ServerFailed
    return _BY_STATUS.get(status, ApiError)
