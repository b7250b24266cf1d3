"""All volumes of all clusters, page by page.

A token says after which image the walk goes on; nothing is remembered, so tokens outlive us. Images come in the order of their
internal ids, which never change: what is made or deleted meanwhile moves nothing from one page to another.
"""

import base64
import binascii
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from provisioner.core.errors import Denied, InvalidRequest, ProvisionerError
from provisioner.core.ids import Place
from provisioner.core.model import Credentials, Page, Volume

log = logging.getLogger(__name__)

PAGE = 1000
"""Entries of the longest page: what surely fits a message of 4 MiB, which is all that peers take."""


class BadToken(ProvisionerError):
    """A starting token that no listing gave out; the caller has to begin anew."""

    def __init__(self, token: str) -> None:
        super().__init__(f"starting_token {token!r} is none of ours: list again from the start")


class ReadPage(Protocol):
    """One page of one place, as `VolumeStore.page` gives it."""

    def __call__(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        """List volumes after the internal id `after`."""


class _Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a listing stopped: in which place, after which image."""

    cluster: str
    pool: str
    namespace: str
    after: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Walks through every place of every cluster, in order."""

    clusters: Callable[[], Collection[str]]
    places: Callable[[str], Sequence[Place]]
    read_page: ReadPage

    def page(self, token: str, entries: int) -> tuple[list[Volume], str]:
        """At most `entries` volumes (0: as many as are good for a page) and the token to go on with, "" at the end.

        A pool that we may not read is left out, with a warning. Raises BadToken, Unavailable, and Denied if all are.
        """
        limit, found = min(entries or PAGE, PAGE), list[Volume]()
        refusals, readable = list[Denied](), False
        for place, start in self._from(_read(token) if token else None):
            try:
                token = self._fill(found, limit, place, start)
            except Denied as error:
                refusals.append(error)
                log.warning("%s is not listed: %s", place, error)
                continue
            readable = True
            if token:
                return found, token
        if refusals and not readable:  # an empty answer would say that there are no volumes
            raise refusals[0]
        return found, ""

    def _fill(self, found: list[Volume], limit: int, place: Place, after: str) -> str:
        """Read volumes of the place up to the limit; gives the token to go on with there, "" at its end."""
        while len(found) < limit:
            try:
                page = self.read_page(place, after, limit - len(found), None)
            except InvalidRequest:  # the pool is gone since we looked, and its volumes with it
                return ""
            found += page.volumes
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


def _order(place: Place) -> tuple[str, str, str]:
    return (place.cluster, place.pool, place.namespace)


def _written(place: Place, after: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(_Position(*_order(place), after))).decode()


def _read(token: str) -> _Position:
    try:
        return msgspec.json.decode(base64.b64decode(token, altchars=b"-_", validate=True), type=_Position)
    except (binascii.Error, ValueError) as error:
        raise BadToken(token) from error
