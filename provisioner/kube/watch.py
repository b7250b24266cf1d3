"""A watch: one long answer of the API server, read as it comes, a JSON object a line."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec.json
import urllib3

from provisioner.kube.errors import Silent, Unreachable, from_status
from provisioner.kube.resources import Object

_CHUNK = 1 << 16


class Watch:
    """The events of a watch, to be iterated once, by one thread; `close` ends it from any thread.

    Yields `(type, object)`, with type ADDED, MODIFIED, DELETED or BOOKMARK. Ends when the server ends the watch, as it does
    after the time asked for. Raises ApiError for the server's ERROR event (`Gone` for a version no longer kept), and
    Unreachable when the answer is cut off or can't be read; Silent when no word came in the time agreed.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = False

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        try:
            for line in self._lines():
                yield _event(line)
        finally:
            # What is left of the answer is of no use, and so the connection can't be used again.
            self._response.close()
            self._response.release_conn()

    def close(self) -> None:
        """End the iteration, also where it waits for the server."""
        self._closed = True
        # ValueError, RuntimeError: it has ended already.
        with suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()

    def _lines(self) -> Iterator[bytes]:
        started: list[bytes] = []
        for chunk in self._chunks():
            first, *more = chunk.split(b"\n")
            started.append(first)
            if more:
                yield b"".join(started)
                yield from more[:-1]
                started = [more[-1]]
        if any(started) and not self._closed:
            raise Unreachable("the watch was cut off in the middle of an event")

    def _chunks(self) -> Iterator[bytes]:
        try:
            for chunk in self._response.stream(_CHUNK):
                if self._closed:
                    return
                yield chunk
        except urllib3.exceptions.ReadTimeoutError as error:
            raise Silent("the watch is silent") from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # ValueError, and any nonsense: what a reader of a socket meets that `close` shut under it.
            if not self._closed:
                raise Unreachable(f"the watch broke: {error}") from error


def _event(line: bytes) -> tuple[str, Object]:
    try:
        event: dict[str, Any] = msgspec.json.decode(line)
        kind, item = event["type"], event["object"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise Unreachable(f"the watch sent what is no event: {error}") from error
    if kind == "ERROR":
        raise from_status(item)
    return kind, item
