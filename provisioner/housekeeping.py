"""Background work beside every front end: say that we are alive, empty the trash, tidy up, sweep, flatten, at a measured pace."""

import logging
import threading
import time

from provisioner.ceph.places import Places
from provisioner.ceph.store import CephStore
from provisioner.ceph.trash import Purge
from provisioner.core.errors import ProvisionerError
from provisioner.core.ids import Place
from provisioner.core.single_flight import Operation
from provisioner.observe.metrics import Metrics

log = logging.getLogger(__name__)


class Housekeeping:
    """Five threads over one store, until stopped."""

    def __init__(self, places: Places, store: CephStore, metrics: Metrics, per_second: float = 20.0, every: float = 3.0) -> None:
        """Purge at most `per_second` images, looking for new ones `every` so many seconds."""
        self._places, self._store, self._metrics = places, store, metrics
        self._pause, self._every = 1 / per_second, every
        self._stop = threading.Event()
        self._flattening: Operation | None = None
        self._threads = [
            threading.Thread(target=places.heartbeat, args=(self._stop,), name="heartbeat", daemon=True),
            threading.Thread(target=self._purge, name="purge", daemon=True),
            threading.Thread(target=self._reap, name="reap", daemon=True),
            threading.Thread(target=self._sweep, name="sweep", daemon=True),
            threading.Thread(target=self._flatten, name="flatten", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def operations(self) -> list[Operation]:
        """Long work under way in the background, with how far it is."""
        running = self._flattening
        return [] if running is None else [running]

    def stop(self, timeout: float = 5.0) -> None:
        """End all threads, and take this process off Ceph's lists."""
        self._stop.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        self._places.leave()

    def _purge(self) -> None:
        while not self._stop.wait(self._every):
            for place, done in self._store.purge(self._pace):
                self._note(place, done)

    def _reap(self) -> None:
        while not self._stop.wait(self._every):
            for place, done in self._store.reap(self._pace):
                if isinstance(done, ProvisionerError):
                    log.warning("%s: %s; tidying up goes on later", place, done)
                elif not done.skipped:
                    self._metrics.tombstones.labels(str(place)).set(done.kept)
                    for what in ("tombstones", "scrapped", "entries"):
                        self._metrics.reaped.labels(str(place), what).inc(getattr(done, what))

    def _sweep(self) -> None:
        while not self._stop.wait(self._every):
            for place, done in self._store.sweep(self._pace):
                if isinstance(done, ProvisionerError):
                    log.warning("%s: %s; the sweep goes on later", place, done)
                else:
                    self._metrics.reaped.labels(str(place), "orphans").inc(done.removed)

    def _flatten(self) -> None:
        while not self._stop.wait(self._every):
            for place, done in self._store.flatten(lambda: not self._stop.is_set(), self._tell):
                self._flattening = None
                if isinstance(done, ProvisionerError):
                    log.warning("%s: %s; flattening goes on later", place, done)
                elif not done.skipped:
                    self._metrics.flattened.labels(str(place)).inc(done.flattened)
                    self._metrics.flattening.labels(str(place)).set(done.waiting)

    def _tell(self, volume: str, percent: int) -> None:
        if self._flattening is None or self._flattening.volume != volume:
            self._flattening = Operation("flatten", volume, None)
        self._flattening.percent = percent

    def _note(self, place: Place, done: Purge | ProvisionerError) -> None:
        if isinstance(done, ProvisionerError):
            log.warning("%s: %s; the purge goes on later", place, done)
        elif not done.skipped:
            self._metrics.purged.labels(str(place)).inc(done.removed)
            self._metrics.kept.labels(str(place)).set(done.kept)

    def _pace(self) -> bool:
        return not self._stop.wait(self._pause)
