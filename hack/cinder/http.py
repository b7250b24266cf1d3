"""Calls to the APIs of a Cinder and a Keystone on loopback, bounded in time."""

import json
import urllib.error
import urllib.request
from typing import Any


class NoAnswerError(Exception):
    """Nobody answered, or with an error; the text says what."""


def call(method: str, url: str, token: str, body: object = None) -> Any:
    """What the API answers, parsed. Raises NoAnswerError."""
    headers = {"Content-Type": "application/json", **({"X-Auth-Token": token} if token else {})}
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise NoAnswerError(f"{method} {url}: {error.code} {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise NoAnswerError(f"{method} {url}: {error}") from error
