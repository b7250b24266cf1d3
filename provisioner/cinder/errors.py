"""From what Cinder answers, or doesn't, to the core's errors: one table.

A refusal tells Cinder's own words. No answer at all is `Unanswered`: the outcome is unknown, so nothing is undone on its account.
"""

from http import HTTPStatus
from typing import Any

import msgspec
import openstack.exceptions
import requests
import urllib3.exceptions
from keystoneauth1 import exceptions

from provisioner.core.errors import Conflict, Denied, InvalidRequest, NotFound, OutOfSpace, ProvisionerError, Unavailable

NO_ANSWER = (
    exceptions.ClientException,
    openstack.exceptions.SDKException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)
"""What the ways to Keystone and to Cinder raise; `unanswered` knows what each means."""


class Unanswered(Unavailable):
    """The call was cut off or took too long: it may have been acted on."""


class Failed(ProvisionerError):
    """Cinder tried, and gave up; the text is its own."""


class DeniedByCinder(Denied):
    """The credentials are refused, or may not do this."""

    def __init__(self, what: str) -> None:
        self.what = what
        ProvisionerError.__init__(self, f"Cinder denies {what}")


def answered(doing: str, status: int, content: bytes) -> ProvisionerError:
    """The error that an answer of status 300 and above means."""
    message = _message(content)
    said = f"{doing}: {message}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return DeniedByCinder(said)
        case HTTPStatus.NOT_FOUND:
            return NotFound(said)
        case HTTPStatus.CONFLICT:
            return Conflict("Cinder", said)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return OutOfSpace(f"Cinder's quota: {said}")
        case HTTPStatus.BAD_REQUEST if "status" in said:  # the volume's: it is not the request that is at fault
            return Conflict("Cinder", said)
        case HTTPStatus.BAD_REQUEST:
            return InvalidRequest("Cinder", doing, message)
        case _:
            return Unavailable(f"Cinder answered {status}: {said}")


def unanswered(doing: str, error: Exception) -> ProvisionerError:
    """The error that an exception of the SDK's session means."""
    match error:
        case exceptions.Unauthorized() | exceptions.Forbidden():
            return DeniedByCinder(f"{doing}: {error}")
        case urllib3.exceptions.SSLError():
            return Unavailable(f"Cinder can't be trusted: {doing}: {error}")
        case exceptions.ConnectFailure() | exceptions.ConnectTimeout():
            return Unanswered(f"Cinder does not answer: {doing}: {error}")
        case requests.RequestException() | urllib3.exceptions.HTTPError():
            return Unanswered(f"Cinder does not answer: {doing}: {error}")
        case exceptions.MissingRequiredOptions() | exceptions.NoMatchingPlugin():
            return InvalidRequest("clouds", doing, str(error))
        case _:
            return Unavailable(f"Cinder can't be reached: {doing}: {error}")


def _message(content: bytes) -> str:
    """Cinder wraps its message in an object whose one key names the kind of error."""
    try:
        body: Any = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return content.decode(errors="replace")[:300]
    for part in body.values() if isinstance(body, dict) else ():
        if isinstance(part, dict) and "message" in part:
            return str(part["message"])
    return str(body)[:300]
