"""All volumes, or all snapshots, of all clusters, page by page.

A token says after which image the walk goes on; nothing is remembered, so tokens outlive us. Images come in the order of their
internal ids, which never change: what is made or deleted meanwhile moves nothing from one page to another.
"""

import base64
import binascii
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from provisioner.core.errors import Denied, InvalidRequest, ProvisionerError
from provisioner.core.ids import Place
from provisioner.core.model import Credentials

log = logging.getLogger(__name__)

T = TypeVar("T", covariant=True)
P = TypeVar("P")

PAGE = 1000
"""Entries of the longest page: what surely fits a message of 4 MiB, which is all that peers take."""


class BadToken(ProvisionerError):
    """A starting token that no listing gave out; the caller has to begin anew."""

    def __init__(self, token: str) -> None:
        super().__init__(f"starting_token {token!r} is none of ours: list again from the start")


class Part(Protocol[T]):
    """Part of a place's volumes or snapshots, and where the next one begins: "" at the end."""

    @property
    def items(self) -> Sequence[T]:
        """What is in it, in order of internal ids."""

    @property
    def after(self) -> str:
        """What to go on behind."""


class ReadPage(Protocol[T]):
    """One page of one place, as the core gives it."""

    def __call__(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Part[T]:
        """List at most `limit` behind `after`."""


class _Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a listing stopped: in which place, after which image."""

    cluster: str
    pool: str
    namespace: str
    after: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """Walks through every place of every cluster, in order."""

    clusters: Callable[[], Collection[str]]
    places: Callable[[str], Sequence[Place]]
    read_page: ReadPage[T]

    def page(self, token: str, entries: int, credentials: Credentials | None = None) -> tuple[list[T], str]:
        """At most `entries` of them (0: as many as are good for a page) and the token to go on with, "" at the end.

        A pool that we may not read is left out, with a warning. Raises BadToken, Unavailable, and Denied if all are.
        """
        limit, found = min(entries or PAGE, PAGE), list[T]()
        refusals, readable = list[Denied](), False
        for place, start in self._from(_read(token) if token else None):
            try:
                token = self._fill(found, limit, place, start, credentials)
            except Denied as error:
                refusals.append(error)
                log.warning("%s is not listed: %s", place, error)
                continue
            readable = True
            if token:
                return found, token
        if refusals and not readable:  # an empty answer would say that there is nothing
            raise refusals[0]
        return found, ""

    def _fill(self, found: list[T], limit: int, place: Place, after: str, credentials: Credentials | None) -> str:
        """Read what the place has up to the limit; gives the token to go on with there, "" at its end."""
        while len(found) < limit:
            try:
                page = self.read_page(place, after, limit - len(found), credentials)
            except InvalidRequest:  # the pool is gone since we looked, and all in it
                return ""
            found += page.items
            after = page.after
            if not after:
                return ""
        return _written(place, after)

    def _from(self, position: _Position | None) -> Iterator[tuple[Place, str]]:
        for cluster in sorted(self.clusters()):
            if position is not None and cluster < position.cluster:
                continue
            for place in sorted(self.places(cluster), key=_order):
                if position is None or _order(place) > (position.cluster, position.pool, position.namespace):
                    yield place, ""
                elif _order(place) == (position.cluster, position.pool, position.namespace):
                    yield place, position.after


def after_in(items: Sequence[T], key: Callable[[T], tuple[float, str]], token: str, entries: int) -> tuple[list[T], str]:
    """A page of a short list that is at hand, in order of `key`, and the token to go on with. Raises BadToken."""
    position = _decoded(token, tuple[float, str]) if token else None
    left = [item for item in sorted(items, key=key) if position is None or key(item) > position]
    found = left[: min(entries or PAGE, PAGE)]
    return found, _encoded(key(found[-1])) if len(found) < len(left) else ""


def _order(place: Place) -> tuple[str, str, str]:
    return (place.cluster, place.pool, place.namespace)


def _written(place: Place, after: str) -> str:
    return _encoded(_Position(*_order(place), after))


def _read(token: str) -> _Position:
    return _decoded(token, _Position)


def _encoded(position: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()


def _decoded(token: str, kind: type[P]) -> P:
    try:
        return msgspec.json.decode(base64.b64decode(token, altchars=b"-_", validate=True), type=kind)
    except (binascii.Error, ValueError) as error:
        raise BadToken(token) from error
