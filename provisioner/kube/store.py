"""A cache of one kind of object, kept by a reflector and read by everybody."""

import threading
from collections.abc import Callable, Iterable, Mapping

from provisioner.kube.resources import Object, key_of

Indexer = Callable[[Object], Iterable[str]]
"""Says under which values an object is found, such as the uid of the claim that a volume is bound to."""


class Store:
    """Objects by key (`namespace/name` or `name`), and by whatever the indexers say; thread-safe.

    The objects are shared: a reader must not change them. What is read here may be old by the time it takes the news to
    arrive, so it may spare a question to the API server, but not answer one that a write rests on.
    """

    def __init__(self, indexers: Mapping[str, Indexer] | None = None) -> None:
        self._indexers = dict(indexers or {})
        self._lock = threading.Lock()
        self._items: dict[str, Object] = {}
        self._indices: dict[str, dict[str, set[str]]] = {name: {} for name in self._indexers}

    def get(self, key: str) -> Object | None:
        """The object of that key."""
        with self._lock:
            return self._items.get(key)

    def by_index(self, index: str, value: str) -> list[Object]:
        """The objects that an indexer finds under a value."""
        with self._lock:
            return [self._items[key] for key in sorted(self._indices[index].get(value, ()))]

    def items(self) -> list[Object]:
        """All objects there are now."""
        with self._lock:
            return list(self._items.values())

    def keys(self) -> set[str]:
        """The keys of all objects there are now."""
        with self._lock:
            return set(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Object) -> Object | None:
        """Keep an object; gives the one it takes the place of. For the reflector only."""
        key = key_of(item)
        with self._lock:
            old = self._items.get(key)
            if old is not None:
                self._unindex(key, old)
            self._items[key] = item
            for name, indexer in self._indexers.items():
                for value in indexer(item):
                    self._indices[name].setdefault(value, set()).add(key)
            return old

    def remove(self, key: str) -> Object | None:
        """Forget an object; gives it if it was there. For the reflector only."""
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._unindex(key, old)
            return old

    def _unindex(self, key: str, old: Object) -> None:
        for name, indexer in self._indexers.items():
            for value in indexer(old):
                keys = self._indices[name].get(value)
                if keys is not None:
                    keys.discard(key)
                    if not keys:
                        del self._indices[name][value]
