"""What Cinder answers, in the core's words."""

import json

import pytest
import requests
import urllib3
from keystoneauth1 import exceptions

from provisioner.cinder.errors import DeniedByCinder, Unanswered, answered, unanswered
from provisioner.core.errors import Conflict, Denied, InvalidRequest, NotFound, OutOfSpace, ProvisionerError, Unavailable


def answer(message: str = "as Cinder says") -> bytes:
    return json.dumps({"fault": {"code": 400, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (413, OutOfSpace),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_a_refusal_tells_what_was_being_done_and_cinders_own_words(status: int, kind: type[ProvisionerError]) -> None:
    error = answered("making volume x", status, answer())
    assert type(error) is kind or isinstance(error, kind)
    assert "making volume x" in str(error)
    assert "as Cinder says" in str(error)


def test_a_volume_in_the_wrong_state_is_busy_and_not_a_wrong_request() -> None:
    said = "Invalid volume: Volume status must be available to reserve, but the status is attaching."
    assert isinstance(answered("reserving", 400, answer(said)), Conflict)


def test_an_answer_that_is_no_json_is_told_as_it_is() -> None:
    assert "Bad Gateway" in str(answered("looking", 502, b"<html>Bad Gateway</html>"))


def test_a_redirection_is_no_answer_to_anything() -> None:
    assert isinstance(answered("looking", 302, b""), Unavailable)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectFailure("refused"),
        exceptions.ConnectTimeout("late"),
        requests.ConnectionError("cut"),
        urllib3.exceptions.ProtocolError("cut"),
        urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("cinder"), "/v3", "late"),
    ],
)
def test_no_answer_leaves_the_outcome_open(error: Exception) -> None:
    assert isinstance(unanswered("making volume x", error), Unanswered)
    assert isinstance(unanswered("making volume x", error), Unavailable)


def test_wrong_credentials_are_denied_by_cinder() -> None:
    error = unanswered("making volume x", exceptions.Unauthorized("no"))
    assert isinstance(error, DeniedByCinder)
    assert str(error).startswith("Cinder denies making volume x")
