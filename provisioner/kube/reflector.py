"""A collection of the API server, mirrored: listed once, then watched, and every change told.

The official clients' informers build typed objects, hang on a connection that died without a word, or reconnect without
pause. This one keeps dicts, bounds every wait, notices what was deleted while it could not look, and asks a troubled server
less and less often.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provisioner.kube.backoff import Backoff
from provisioner.kube.errors import ApiError, Gone, KubeError, Silent, TooManyRequests
from provisioner.kube.resources import Object, key_of
from provisioner.kube.store import Indexer, Store
from provisioner.kube.transport import Api, Params, Trim
from provisioner.kube.watch import Watch

log = logging.getLogger(__name__)

OnChange = Callable[[Object | None, Object | None], None]
"""Is told the old and the new state; None before an object was there and after it is gone."""


def without_managed_fields(item: Object) -> Object:
    """Drop the bookkeeping of server-side apply, which is a third of an object and of no use to a controller."""
    item["metadata"].pop("managedFields", None)
    return item


_BACKOFF = Backoff(first=0.5, factor=2.0, most=15.0, jitter=0.5)

_TOO_SHORT = 1.0
"""Seconds; a server (or a proxy) that ends each watch sooner, without a word, would have us ask without pause."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a reflector times its questions, in seconds."""

    watch: float = 300.0
    """A watch is asked to last one to two times this long."""
    silence: float = 90.0
    """After so long without a word, not even a bookmark, the watch is begun anew, to see if the server still answers."""
    page: int = 500
    backoff: Backoff = _BACKOFF


class Reflector:
    """Keeps a Store equal to the collection at `path`, in a thread of its own.

    `on_change` is called from that thread, after the store has the news, in the order of the server's versions; it must be
    quick and must not raise (put a key on a queue). An object that was deleted and made again under the same name is told
    as gone, then as new. What happened unseen, between two lists, is told as one change from the last state known.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        on_change: OnChange,
        *,
        selectors: Params | None = None,
        indexers: Mapping[str, Indexer] | None = None,
        trim: Trim = without_managed_fields,
        pace: Pace | None = None,
    ) -> None:
        """`selectors` are the API's `labelSelector` and `fieldSelector`; `trim` may drop what nobody will read."""
        self.store = Store(indexers)
        self.path = path
        self.lists = 0
        """How many times the whole collection was read."""
        self.trouble = ""
        """Why there are no news at the moment, if so."""
        self._api, self._on_change, self._trim = api, on_change, trim
        self._selectors, self._pace = dict(selectors or {}), pace or Pace()
        self._version = ""
        self._failures = 0
        self._heard = time.monotonic()
        self._synced, self._stopping = threading.Event(), threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name=f"reflect {path}", daemon=True)

    def start(self) -> None:
        """Begin; the store is empty until `wait_synced`."""
        self._thread.start()

    def wait_synced(self, timeout: float) -> bool:
        """Wait until the first list is in the store and told; false if that took longer than `timeout` seconds."""
        return self._synced.wait(timeout)

    @property
    def synced(self) -> bool:
        """Whether the first list is in the store."""
        return self._synced.is_set()

    @property
    def alive(self) -> bool:
        """Whether news still arrive; false after `stop`, and if `on_change` raised."""
        return self._thread.is_alive()

    def silent_for(self) -> float:
        """Seconds since the server last said anything about this collection."""
        return time.monotonic() - self._heard

    def stop(self, timeout: float = 5.0) -> bool:
        """End the thread; false if it had not ended after `timeout` seconds."""
        self._stopping.set()
        watch = self._watch
        if watch is not None:
            watch.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
            except KubeError as error:
                self._recover(error)

    def _recover(self, error: KubeError) -> None:
        """After a broken connection, watch on from the last version; after a refusal, list again: it may be gone."""
        self.trouble = str(error)
        if isinstance(error, ApiError) and not isinstance(error, TooManyRequests):
            self._version = ""
        if isinstance(error, Gone):
            log.info("%s: %s; listing again", self.path, error)
        elif not self._stopping.is_set():
            log.warning("%s: %s", self.path, error)
        self._pause()

    def _pause(self) -> None:
        self._failures += 1
        self._stopping.wait(self._pace.backoff.after(self._failures))

    def _list(self) -> None:
        listing = self._api.list_all(self.path, self._selectors, self._pace.page, self._trim)
        self.lists += 1
        self._heard = time.monotonic()
        gone = self.store.keys()
        for item in listing.items:
            self._put(item)
            gone.discard(key_of(item))
        for key in gone:
            self._remove(key, None)
        self._version = listing.resource_version
        self._synced.set()

    def _follow(self) -> None:
        """Watch until the server ends it."""
        started, quiet = time.monotonic(), True
        seconds = self._pace.watch * (1 + random.random())  # noqa: S311 - spreading, no secret
        watch = self._api.watch(self.path, self._version, self._selectors, seconds, self._pace.silence)
        self._watch, self.trouble, self._heard = watch, "", time.monotonic()
        if self._stopping.is_set():
            watch.close()
        try:
            for kind, item in watch:
                self._heard, self._failures, quiet = time.monotonic(), 0, False
                self._apply(kind, item)
        except Silent:
            log.debug("%s: nothing for %s s, watching on", self.path, self._pace.silence)
        if quiet and time.monotonic() - started < _TOO_SHORT:
            self._pause()

    def _apply(self, kind: str, item: Object) -> None:
        if kind in ("ADDED", "MODIFIED"):
            self._put(self._trim(item))
        elif kind == "DELETED":
            self._remove(key_of(item), self._trim(item))
        self._version = item["metadata"]["resourceVersion"]

    def _put(self, item: Object) -> None:
        old = self.store.put(item)
        if old is None:
            self._on_change(None, item)
        elif old["metadata"].get("uid") != item["metadata"].get("uid"):
            self._on_change(old, None)
            self._on_change(None, item)
        elif old["metadata"].get("resourceVersion") != item["metadata"].get("resourceVersion"):
            self._on_change(old, item)

    def _remove(self, key: str, last: Object | None) -> None:
        """`last` is the state it was deleted in, newer than what the store has, if the server told."""
        old = self.store.remove(key)
        if old is not None:
            self._on_change(last or old, None)
