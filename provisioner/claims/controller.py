"""The claims front end as a whole: what it watches, who works on what, and when it may.

Every replica keeps its caches warm; the one that leads works. A key on a queue says that an object is to be looked at; what is
to be done is read from the object, so that any number of changes, replicas and restarts come to the same.
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provisioner.ceph.cluster import ClusterConfig
from provisioner.claims import objects, request
from provisioner.claims.capacity import Capacities, Poll
from provisioner.claims.claim import Caches, Provisioner, Setting
from provisioner.claims.classes import Classes
from provisioner.claims.connected import Connected, Exports
from provisioner.claims.data_source import Originals
from provisioner.claims.handout import Handouts
from provisioner.claims.nodes import Kubelets
from provisioner.claims.outcomes import HANDLED, retry_for
from provisioner.claims.protection import BY_SOURCE, sources_of
from provisioner.claims.reclaim import Reclaimer
from provisioner.claims.resize import Resizer
from provisioner.claims.selection import Selection
from provisioner.claims.sources import driver_name
from provisioner.claims.sweep import Sweeper
from provisioner.claims.volume import Maker
from provisioner.core.choices import Choices
from provisioner.core.keys import VolumeKeys
from provisioner.core.volumes import Volumes
from provisioner.kube.events import Budget, Recorder
from provisioner.kube.leader import Elector, new_identity
from provisioner.kube.reflector import Reflector, without_managed_fields
from provisioner.kube.resources import (
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    STORAGE_CLASSES,
    Object,
    key_of,
)
from provisioner.kube.transport import Api
from provisioner.kube.workqueue import Workers, WorkQueue
from provisioner.observe.metrics import Metrics

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at whether the caches are filled and we still lead."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of this front end."""

    provisioner: str
    namespace: str
    lease: str
    csi_driver: str
    workers: int = 16
    capacity_interval: float = 60.0
    """Seconds between two looks at what the classes can still give."""


class Controller:
    """Watches and works until stopped."""

    def __init__(
        self,
        api: Api,
        lease_api: Api,
        volumes: Volumes,
        choices: Choices,
        keys: VolumeKeys,
        clusters: Callable[[], Mapping[str, ClusterConfig]],
        options: Options,
        metrics: Metrics,
        exports: Exports | None = None,
    ) -> None:
        """Wires the parts; nothing is asked of the API server yet. Raises InvalidRequest for an option that can't be."""
        self._api, self._options, self._metrics = api, options, metrics
        self._csi_driver = driver_name(options.csi_driver)
        identity = new_identity()
        self._recorder = Recorder(api, options.provisioner, identity, Budget(queued=8192))
        self._claims = Reflector(
            api,
            PERSISTENT_VOLUME_CLAIMS.path(),
            self._claim_changed,
            indexers={BY_SOURCE: sources_of},
            trim=without_managed_fields,
        )
        self._pvs = Reflector(api, PERSISTENT_VOLUMES.path(), self._volume_changed, trim=without_managed_fields)
        self._classes = Reflector(api, STORAGE_CLASSES.path(), self._class_changed, trim=without_managed_fields)
        self._claim_queue, self._volume_queue = WorkQueue(), WorkQueue()
        self._tries = _Tries()
        self._exports = exports
        self._resolver = Classes(api, clusters, exports.clouds if exports else tuple)
        self._volumes, self._choices, self._keys = volumes, choices, keys
        self._elector = Elector(lease_api, options.namespace, options.lease, identity, self._lead, self._follow)
        self._leading, self._started = threading.Event(), threading.Event()
        self._workers = [
            Workers(self._claim_queue, options.workers, self._work_on_claim, "claim"),
            Workers(self._volume_queue, max(options.workers // 2, 1), self._work_on_volume, "volume"),
        ]
        self._show_depths()

    def start(self) -> None:
        """Watch, and campaign for leadership. Raises KubeError if the API server can't be asked who it is."""
        for reflector in self._reflectors():
            reflector.start()
        self._recorder.start()
        self._build(self._kubernetes_id())
        for workers in self._workers:
            workers.start()
        self._capacity_poll.start()
        self._elector.start()
        self._started.set()

    def stop(self, timeout: float = 20.0) -> None:
        """End the work at hand, then give the lease away at once, then the rest."""
        deadline = time.monotonic() + timeout
        for workers in self._workers:
            workers.stop(0)
        for workers in self._workers:
            workers.stop(max(deadline - time.monotonic(), 0))
        if self._started.is_set():
            self._capacity_poll.stop(max(deadline - time.monotonic(), 0))
            self._elector.stop()
        self._recorder.stop()
        for reflector in self._reflectors():
            reflector.stop()

    def unhealthy(self) -> list[str]:
        """What is broken beyond hope: a thread that should run doesn't."""
        if not self._started.is_set():
            return []
        dead = [f"watch of {reflector.path} ended" for reflector in self._reflectors() if not reflector.alive]
        return dead if self._elector.alive else [*dead, "the campaign for the lease ended"]

    def unready(self) -> list[str]:
        """What keeps this replica from being of use."""
        unsynced = [f"{reflector.path} was not read yet" for reflector in self._reflectors() if not reflector.synced]
        return unsynced + [f"{r.path}: {r.trouble}" for r in self._reflectors() if r.trouble]

    def _reflectors(self) -> list[Reflector]:
        return [self._classes, self._pvs, self._claims]

    def _build(self, kubernetes: str) -> None:
        setting = Setting(self._options.provisioner, kubernetes)
        handouts = Handouts(self._api, self._volumes, self._resolver, self._keys, self._options.namespace)
        kubelets = Kubelets(self._api)
        exports = self._exports
        connected = Connected(exports, self._volumes, handouts, kubelets, self._recorder) if exports else None
        caches = Caches(self._claims.store, self._pvs.store, self._classes.store)
        self._provisioner = Provisioner(
            self._api,
            self._volumes,
            self._resolver,
            handouts,
            Maker(self._api, setting.provisioner, self._csi_driver),
            Originals(self._api, setting.provisioner, self._csi_driver),
            kubelets,
            caches,
            self._recorder,
            setting,
            self._saved,
            Selection(self._choices, kubelets),
            connected,
        )
        self._reclaimer = Reclaimer(self._api, self._volumes, self._resolver, handouts, connected)
        self._resizer = Resizer(self._api, self._volumes, self._resolver, self._pvs.store, self._recorder, setting.provisioner)
        self._sweeper = Sweeper(self._api, self._volumes, self._resolver, setting)
        self._capacity_poll = self._poll(kubelets)

    def _poll(self, kubelets: Kubelets) -> Poll:
        options, driver = self._options, self._csi_driver
        capacities = Capacities(
            self._api, self._volumes, self._resolver, kubelets, options.namespace, options.provisioner, driver
        )
        interval, on_told = options.capacity_interval, self._metrics.on_capacity
        return Poll(capacities, self._classes.store.items, self._has_taken_up, interval, on_told)

    def _has_taken_up(self) -> bool:
        return self._leading.is_set() and self._classes.synced

    def _kubernetes_id(self) -> str:
        return objects.uid(self._api.get(NAMESPACES.path(name="kube-system")))

    def _lead(self) -> None:
        self._leading.set()
        self._metrics.leading.set(1)
        threading.Thread(target=self._take_up, name="take up", daemon=True).start()

    def _take_up(self) -> None:
        """What a new leader does first: look at everything, then at what its predecessor may have left in Ceph."""
        while not all(reflector.wait_synced(_LOOK) for reflector in self._reflectors()):
            if not self._leading.is_set():
                return
        for item in self._claims.store.items():
            self._claim_queue.add(key_of(item))
        for item in self._pvs.store.items():
            self._volume_queue.add(key_of(item))
        self._capacity_poll.wake()
        self._sweep_sources()
        self._metrics.orphans.set(self._sweeper.sweep(self._classes.store.items()).orphans)

    def _sweep_sources(self) -> None:
        try:
            self._provisioner.sweep()
        except HANDLED as error:
            log.warning("sources of claims that are gone are not looked for: %s", error)

    def _follow(self) -> None:
        self._leading.clear()
        self._metrics.leading.set(0)

    def _claim_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and (old is None or _claim_signature(old) != _claim_signature(new)):
            self._claim_queue.add(key_of(new))
        if new is not None and objects.is_settled(new) and old is not None and not objects.is_settled(old):
            self._wake_copies_of(new)

    def _wake_copies_of(self, claim: Object) -> None:
        """Claims that are to be copies of this one had to wait until it was bound."""
        for copy in self._claims.store.by_index(BY_SOURCE, request.reference_to(claim).key):
            self._claim_queue.add(key_of(copy))

    def _volume_changed(self, old: Object | None, new: Object | None) -> None:
        known = new or old
        if known is None or not objects.is_served_by(known, self._options.provisioner):
            return
        if new is None:
            self._wake_claim_of(known)
        elif old is None or _volume_signature(old) != _volume_signature(new):
            self._volume_queue.add(key_of(new))

    def _wake_claim_of(self, volume: Object) -> None:
        """A volume that goes before its claim was bound to it leaves a claim that nothing else would wake."""
        reference = volume["spec"].get("claimRef")
        if reference:
            self._claim_queue.add(f"{reference['namespace']}/{reference['name']}")

    def _class_changed(self, old: Object | None, new: Object | None) -> None:
        if self._started.is_set() and (old is None or new is None):
            self._capacity_poll.wake()
        if new is None or new.get("provisioner") != self._options.provisioner:
            return
        for claim in self._claims.store.items():
            if objects.class_name(claim) == new["metadata"]["name"] and not objects.is_bound(claim):
                self._claim_queue.add(key_of(claim))

    def _work_on_claim(self, key: str) -> None:
        self._attempt(self._claim_queue, key, self._claims.store.get(key), self._bring_claim)

    def _work_on_volume(self, key: str) -> None:
        volume = self._pvs.store.get(key)
        if volume is None or objects.is_served_by(volume, self._options.provisioner):
            self._attempt(self._volume_queue, key, volume, lambda item: self._reclaimer.reconcile(item))

    def _bring_claim(self, claim: Object) -> None:
        """A claim is first provisioned, then kept at its size."""
        self._provisioner.reconcile(claim)
        if objects.is_bound(claim):
            self._resizer.reconcile(claim)

    def _attempt(self, queue: WorkQueue, key: str, item: Object | None, reconcile: Callable[[Object], None]) -> None:
        if item is None or not self._leading.is_set():
            self._tries.forget(key)
            return
        try:
            reconcile(item)
            self._tries.forget(key)
        except HANDLED as error:
            self._failed(queue, key, item, error)

    def _failed(self, queue: WorkQueue, key: str, item: Object, error: Exception) -> None:
        retry, kind = retry_for(error), item.get("kind", "")
        seconds = retry.backoff.after(self._tries.failed(key, error))
        self._metrics.failures.labels(kind, type(error).__name__).inc()
        log.info("%s %s: %s; again in %.0f s", kind, key, error, seconds)
        if retry.told:
            self._recorder.event(item, "Warning", _what_failed(item), str(error))
        queue.add_after(key, seconds)

    def _saved(self, claim: Object) -> None:
        made = datetime.datetime.fromisoformat(claim["metadata"]["creationTimestamp"])
        self._metrics.saved.observe((datetime.datetime.now(datetime.UTC) - made).total_seconds())

    def _show_depths(self) -> None:
        for name, queue in (("claims", self._claim_queue), ("volumes", self._volume_queue)):
            self._metrics.watch(
                f"ceph_provisioner_{name}_waiting",
                f"Looks at {name} that are due.",
                lambda q=queue: q.depth().ready,  # type: ignore[misc]
            )
            self._metrics.watch(
                f"ceph_provisioner_{name}_delayed",
                f"Looks at {name} to be repeated later.",
                lambda q=queue: q.depth().delayed,  # type: ignore[misc]
            )


class _Tries:
    """How often each key failed in a row with the same kind of error."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[type[Exception], int]] = {}
        self._lock = threading.Lock()

    def failed(self, key: str, error: Exception) -> int:
        """Count a failure."""
        with self._lock:
            kind, count = self._counts.get(key, (type(error), 0))
            count = count + 1 if kind is type(error) else 1
            self._counts[key] = (type(error), count)
            return count

    def forget(self, key: str) -> None:
        """The key is well, or gone."""
        with self._lock:
            self._counts.pop(key, None)


def _what_failed(item: Object) -> str:
    """The event's reason, in the words that Kubernetes has for it."""
    if item.get("kind") == PERSISTENT_VOLUMES.kind or objects.is_being_deleted(item):
        return "VolumeFailedDelete"
    return "VolumeResizeFailed" if objects.is_bound(item) else "ProvisioningFailed"


def _claim_signature(claim: Object) -> tuple[object, ...]:
    """What of a claim decides what is to be done: our own finalizer and notes on it must not wake us."""
    return (
        objects.uid(claim),
        claim["spec"],
        (claim.get("status") or {}).get("phase"),
        objects.is_being_deleted(claim),
        objects.asked_of(claim),
        objects.selected_node(claim),
    )


def _volume_signature(volume: Object) -> tuple[object, ...]:
    return (
        objects.uid(volume),
        (volume.get("status") or {}).get("phase"),
        volume["spec"].get("persistentVolumeReclaimPolicy"),
        objects.is_being_deleted(volume),
    )
