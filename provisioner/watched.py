"""Files that are replaced while we run: whether they changed, and what they say now."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from provisioner.core.errors import InvalidRequest

log = logging.getLogger(__name__)

T = TypeVar("T")


def stamp(path: str | Path) -> tuple[int, int, int]:
    """Changes whenever the file does; zeros where there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


class WatchedFile(Generic[T]):
    """What a file says as it is now; thread-safe. A file that turns bad is reported, and the last good one stays."""

    def __init__(self, path: Path, parse: Callable[[Path], T], tell: Callable[[T], str]) -> None:
        """`tell` says for the log what a change brought. Raises InvalidRequest for a file that can't be used."""
        self._path, self._parse, self._tell = path, parse, tell
        self._lock = threading.Lock()
        self._stamp = stamp(path)
        self._now = parse(path)

    def now(self) -> T:
        """What the file says today."""
        if stamp(self._path) != self._stamp:
            with self._lock:
                self._reread(stamp(self._path))
        return self._now

    def _reread(self, today: tuple[int, int, int]) -> None:
        if today == self._stamp:
            return
        try:
            self._now = self._parse(self._path)
            log.info("%s changed: %s", self._path, self._tell(self._now))
        except InvalidRequest as error:
            log.error("%s; going on with what it said before", error)
        self._stamp = today  # only now: until then, whoever sees the change waits for what it brings
