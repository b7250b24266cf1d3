"""CSIStorageCapacity objects: what each class of ours can still give, for the scheduler and for people.

A claim that waits for its first consumer is scheduled only where its class has room, if the CSIDriver object says
`storageCapacity: true`. One object stands for each class, and for the nodes that reach its cluster; it belongs to the class, and
goes with it.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from provisioner.claims import objects
from provisioner.claims.classes import Class, Classes
from provisioner.claims.nodes import Kubelets
from provisioner.claims.outcomes import HANDLED
from provisioner.claims.quantity import from_bytes
from provisioner.claims.reach import selector
from provisioner.core.errors import Denied, ProvisionerError, Unavailable
from provisioner.core.model import MIB, Capacity
from provisioner.core.volumes import Volumes
from provisioner.kube.errors import AlreadyExists, KubeError, NotFound
from provisioner.kube.resources import CSI_STORAGE_CAPACITIES, STORAGE_CLASSES, Object
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)

DRIVER = "csi.storage.k8s.io/drivername"
MANAGED_BY = "csi.storage.k8s.io/managed-by"
_SETTLE = 0.5
"""Seconds between the news of a class and the round that it begins: classes often come several at once."""


class Capacities:
    """Writes what the classes of one provisioner can give, into its own namespace."""

    def __init__(
        self,
        api: Api,
        volumes: Volumes,
        classes: Classes,
        kubelets: Kubelets,
        namespace: str,
        provisioner: str,
        driver: str,
    ) -> None:
        self._api, self._volumes, self._classes, self._kubelets = api, volumes, classes, kubelets
        self._namespace, self._provisioner = namespace, provisioner
        self._labels = {DRIVER: driver, MANAGED_BY: "ceph-provisioner-" + _short(provisioner)}

    def publish(self, storage_classes: Iterable[Object]) -> dict[str, int]:
        """Make the objects agree with the classes and with Ceph; gives the bytes available by class. Raises KubeError.

        What Ceph doesn't say now is left as it stands; a class that can't be honoured has no object.
        """
        there = {item["metadata"]["name"]: item for item in self._listed()}
        kept, asked, told = set[str](), dict[object, Capacity](), dict[str, int]()
        for raw in storage_classes:
            if raw.get("provisioner") == self._provisioner:
                kept |= self._tell(raw, there, asked, told)
        for name in there.keys() - kept:
            self._remove(name)
        return told

    def _tell(self, raw: Object, there: Mapping[str, Object], asked: dict[object, Capacity], told: dict[str, int]) -> set[str]:
        """Write one class's objects, one for each part of the nodes; gives their names, none if the class can't be honoured."""
        try:
            resolved = self._classes.resolve(raw)
            names = set[str]()
            for reached, pools in self._by_nodes(resolved).items():
                name = _name(self._provisioner, raw, dict(reached))
                names.add(name)
                try:
                    room = max((self._capacity(pool, asked) for pool in pools), key=lambda room: room.available)
                    told[resolved.name] = max(told.get(resolved.name, 0), room.available)
                    self._write(name, self._body(name, raw, dict(reached), room), there.get(name))
                except (Unavailable, Denied, KubeError) as error:
                    log.warning("capacity of StorageClass %s: %s", resolved.name, error)
            return names
        except ProvisionerError as error:
            log.info("StorageClass %s has no capacity: %s", raw["metadata"]["name"], error)
            return set()

    def _by_nodes(self, resolved: Class) -> dict[tuple[tuple[str, str], ...], list[Class]]:
        """The class's pools by the labels of the nodes that reach them; what all nodes reach counts for each part."""
        nodes = self._kubelets.labels() if any(pool.segments for pool in resolved.each_pool()) else ()
        reached = {each.place: selector(dict(each.segments), nodes) for each in resolved.each_pool()}
        return {
            tuple(sorted(labels.items())): [
                pool for pool in resolved.each_pool() if reached[pool.place].items() <= labels.items()
            ]
            for labels in reached.values()
        }

    def _listed(self) -> list[Object]:
        ours = ",".join(f"{key}={value}" for key, value in self._labels.items())
        return self._api.list_all(CSI_STORAGE_CAPACITIES.path(self._namespace), {"labelSelector": ours}).items

    def _body(self, name: str, raw: Object, reached: Mapping[str, str], room: Capacity) -> Object:
        metadata = raw["metadata"]
        owner = {"apiVersion": STORAGE_CLASSES.api_version, "kind": STORAGE_CLASSES.kind, "name": metadata["name"]}
        return CSI_STORAGE_CAPACITIES.body(
            {"name": name, "labels": self._labels, "ownerReferences": [{**owner, "uid": metadata["uid"]}]},
            storageClassName=metadata["name"],
            nodeTopology={"matchLabels": dict(reached)} if reached else {},
            capacity=from_bytes(room.available // MIB * MIB),
            maximumVolumeSize=from_bytes(room.largest),
        )

    def _capacity(self, resolved: Class, asked: dict[object, Capacity]) -> Capacity:
        """Ask Ceph, once for all classes of one place."""
        data_pool = resolved.parameters.layout.data_pool
        key = (resolved.place, data_pool, resolved.admin)
        if key not in asked:
            asked[key] = self._volumes.capacity(resolved.place, data_pool, self._classes.credentials(resolved.admin))
        return asked[key]

    def _write(self, name: str, body: Object, there: Object | None) -> None:
        if there is None:
            try:
                self._api.create(CSI_STORAGE_CAPACITIES.path(self._namespace), body)
            except AlreadyExists:  # a predecessor's last write
                log.debug("%s is there already", name)
            return
        changed = {key: body[key] for key in ("capacity", "maximumVolumeSize") if body[key] != there.get(key)}
        if changed:
            self._api.patch(CSI_STORAGE_CAPACITIES.path(self._namespace, name), changed)

    def _remove(self, name: str) -> None:
        try:
            self._api.delete(CSI_STORAGE_CAPACITIES.path(self._namespace, name))
        except NotFound:
            return


class Poll:
    """Publishes at an interval, and soon after `wake`, for as long as `is_due` says that it is for us to do."""

    def __init__(
        self,
        capacities: Capacities,
        classes: Callable[[], Iterable[Object]],
        is_due: Callable[[], bool],
        interval: float,
        on_told: Callable[[Mapping[str, int]], None],
    ) -> None:
        """`interval` is in seconds; `on_told` hears of the bytes available by class."""
        self._capacities, self._classes, self._is_due, self._interval = capacities, classes, is_due, interval
        self._on_told = on_told
        self._news, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="capacities", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """A class is new or gone, or we lead now."""
        self._news.set()

    def stop(self, timeout: float) -> None:
        """End it; a round under way is waited for, up to `timeout` seconds."""
        self._stopped.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._news.wait(self._interval) and self._stopped.wait(_SETTLE):
                return
            self._news.clear()
            if not self._is_due():
                continue
            try:
                self._on_told(self._capacities.publish(self._classes()))
            except HANDLED as error:
                log.warning("capacities are not told: %s", error)


def _name(provisioner: str, storage_class: Mapping[str, object], reached: Mapping[str, str]) -> str:
    """Name a class's object: a pure function of who we are, of the class and of its nodes, so that a repeat finds it."""
    return "csisc-" + _short(f"{provisioner} {objects.uid(storage_class)} {sorted(reached.items())}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
