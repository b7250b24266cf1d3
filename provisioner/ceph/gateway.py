"""HTTP to a radosgw: its admin API and a little of S3, signed, bounded in time, with its errors in the core's words.

Of botocore only the signatures and the pool of connections are used: its clients load megabytes of service models, and know
nothing of the admin API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

import msgspec
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, HTTPClientError  # type: ignore[import-untyped]
from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]

from provisioner.core.errors import (
    AlreadyExists,
    Denied,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    ProvisionerError,
    Unavailable,
)

_REGION = "us-east-1"
"""What every radosgw takes, whatever its zone group is called."""
_ABSENT = ("NoSuchUser", "NoSuchBucket", "NoSuchKey")
_TAKEN = ("UserAlreadyExists", "BucketAlreadyExists", "KeyExists")


@dataclass(frozen=True, slots=True)
class Keys:
    """One user's S3 keys. The secret never shows in a repr, a log or an error."""

    access: str
    secret: str = field(repr=False)


class _KeyPair(msgspec.Struct):
    access_key: str
    secret_key: str


class _KeyFile(msgspec.Struct):
    keys: list[_KeyPair]


class Gateway:
    """One radosgw; thread-safe."""

    def __init__(self, endpoint: str, keys: Path, ca: str = "", timeout: int = 15) -> None:
        """`keys` holds what `radosgw-admin user create` prints for a user with the caps users=*, buckets=*, metadata=read.

        `ca` names the file of an authority to trust in place of the system's. Raises InvalidRequest.
        """
        split = urlsplit(endpoint)
        if split.scheme not in ("http", "https") or not split.netloc or split.path.strip("/"):
            raise InvalidRequest("--rgw-endpoint", endpoint, "must be http://HOST[:PORT] or https://HOST[:PORT]")
        self.host = split.netloc
        self._base, self._keys = f"{split.scheme}://{split.netloc}", keys
        self._http = URLLib3Session(verify=ca or True, timeout=(min(timeout, 5), timeout), max_pool_connections=32)
        self._own()

    def admin(self, method: str, resource: str, **parameters: object) -> Any:
        """Call the admin API; gives what it answers, decoded, or None. `_` in a parameter's name stands for `-`."""
        asked = {name.replace("_", "-"): str(value) for name, value in parameters.items()} | {"format": "json"}
        answer = self._call(method, f"/admin/{resource}", asked, self._own())
        return msgspec.json.decode(answer) if answer else None

    def make_bucket(self, name: str, owner: Keys) -> None:
        """Make a bucket that belongs to the keys' user; one that does already is fine. AlreadyExists if it is another's."""
        try:
            self._call("PUT", f"/{name}", {}, owner)
        except _Refused as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "TooManyBuckets"):
                raise

    def _own(self) -> Keys:
        """Our own keys as the file has them now."""
        try:
            pair = msgspec.json.decode(self._keys.read_bytes(), type=_KeyFile).keys[0]
        except OSError as error:
            raise InvalidRequest("--rgw-keys", self._keys, error.strerror or str(error)) from error
        except (msgspec.DecodeError, IndexError):
            why = 'must hold {"keys": [{"access_key": ..., "secret_key": ...}]}'
            raise InvalidRequest("--rgw-keys", self._keys, why) from None
        return Keys(pair.access_key, pair.secret_key)

    def _call(self, method: str, path: str, parameters: Mapping[str, str], keys: Keys) -> bytes:
        # %20 and not +: the signature is over what is sent
        query = urlencode(parameters, quote_via=quote, safe="-_.~")
        request = AWSRequest(method=method, url=f"{self._base}{path}?{query}" if query else f"{self._base}{path}")
        S3SigV4Auth(Credentials(keys.access, keys.secret), "s3", _REGION).add_auth(request)
        try:
            answer = self._http.send(request.prepare())
            content: bytes = answer.content
        except (BotoCoreError, HTTPClientError) as error:
            raise Unavailable(f"the gateway at {self._base}: {type(error).__name__}") from error
        if answer.status_code >= 300:
            raise _explained(f"{method} {path}", answer.status_code, content)
        return content


class _Refused(Unavailable):
    """A refusal that the table does not know."""

    def __init__(self, what: str, status: int, code: str) -> None:
        self.code = code
        super().__init__(f"the gateway answers {what} with {status} {code}")


def _explained(what: str, status: int, content: bytes) -> ProvisionerError:
    code = _code(content)
    if code in _ABSENT:
        return NotFound(what)
    if code in _TAKEN:
        return AlreadyExists(what, [code])
    if code in ("QuotaExceeded",):
        return OutOfSpace("the gateway's quota")
    if status in (401, 403):
        return Denied(f"the gateway's {what}: {code}")
    return _Refused(what, status, code)


def _code(content: bytes) -> str:
    """The error's name: admin calls tell it in JSON, S3 in XML."""
    try:
        return str(msgspec.json.decode(content, type=dict[str, Any]).get("Code", ""))
    except msgspec.DecodeError:
        pass
    try:
        return ElementTree.fromstring(content).findtext("Code", "")  # noqa: S314 - the gateway is trusted with our keys
    except ElementTree.ParseError:
        return ""
