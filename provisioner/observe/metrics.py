"""The metrics of one process, in a registry of its own: nothing is counted globally."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import provisioner

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Every metric this program has; names and labels are a contract with dashboards."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        timed = partial(Histogram, buckets=_SECONDS, registry=self.registry)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)

        build = gauge("ceph_provisioner_build_info", "Always 1; the label says which version runs.", ["version"])
        build.labels(provisioner.__version__).set(1)
        told = "Time that an operation of the core took, by its kind and outcome."
        self._operations = timed("ceph_provisioner_operation_seconds", told, ["kind", "outcome"])
        told = "Time that the API server took to answer."
        self._calls = timed("ceph_provisioner_kube_call_seconds", told, ["verb", "resource", "status"])
        told = "Time that a gRPC call took, by method and status code."
        self._rpcs = timed("ceph_provisioner_rpc_seconds", told, ["method", "code"])
        told = "Time that a KMS took for a request of a volume's key, by the KMS, the request's kind and its outcome."
        self._kms = timed("ceph_provisioner_kms_request_seconds", told, ["kms", "request", "outcome"])
        told = "Time from a claim's creation to its saved PersistentVolume."
        self.saved = timed("ceph_provisioner_claim_saved_seconds", told)
        told = "Tries that failed, by kind of object and of error."
        self.failures = counter("ceph_provisioner_reconcile_failures_total", told, ["object", "error"])
        told = "Deleted images removed from the trash."
        self.purged = counter("ceph_provisioner_purged_images_total", told, ["pool"])
        told = "Clients of nodes that were fenced when a volume was taken from them."
        self._fences = counter("ceph_provisioner_fenced_clients_total", told, ["node"])
        told = "Deleted images that a client still uses or a clone needs."
        self.kept = gauge("ceph_provisioner_trash_kept_images", told, ["pool"])
        told = "Deleted volumes whose snapshots are kept."
        self.tombstones = gauge("ceph_provisioner_tombstones", told, ["pool"])
        told = "What nobody asks for any more and was tidied up: tombstones, builds, entries of the snapshot index, orphans."
        self.reaped = counter("ceph_provisioner_reaped_total", told, ["pool", "what"])
        told = "Clones flattened in the background."
        self.flattened = counter("ceph_provisioner_flattened_images_total", told, ["pool"])
        told = "Clones that wait to be flattened, or are."
        self.flattening = gauge("ceph_provisioner_flatten_waiting_images", told, ["pool"])
        told = "Volumes once handed out whose claim and PersistentVolume are gone: kept, for a person to judge."
        self.orphans = gauge("ceph_provisioner_orphaned_volumes", told)
        told = "Bytes that a StorageClass can still give, as its CSIStorageCapacity says."
        self._capacity = gauge("ceph_provisioner_class_available_bytes", told, ["storage_class"])
        self.leading = gauge("ceph_provisioner_leading", "1 while this replica leads.")

    def on_operation(self, kind: str, seconds: float, error: BaseException | None) -> None:
        """Hear of an operation of the core that ended."""
        outcome = type(error).__name__ if error else "ok"
        self._operations.labels(kind, outcome).observe(seconds)

    def on_fence(self, node: str) -> None:
        """Hear of a client of a node that was fenced."""
        self._fences.labels(node).inc()

    def on_call(self, verb: str, resource: str, status: str, seconds: float) -> None:
        """Hear of an exchange with the API server."""
        self._calls.labels(verb, resource, status).observe(seconds)

    def on_kms(self, kms: str, request: str, seconds: float, error: BaseException | None) -> None:
        """Hear of a request to a KMS that ended."""
        self._kms.labels(kms, request, type(error).__name__ if error else "ok").observe(seconds)

    def on_capacity(self, available: Mapping[str, int]) -> None:
        """Hear of the bytes available by class; classes that are left out are gone."""
        self._capacity.clear()
        for name, size in available.items():
            self._capacity.labels(name).set(size)

    def on_rpc(self, method: str, code: str, seconds: float) -> None:
        """Hear of a gRPC call that was answered."""
        self._rpcs.labels(method, code).observe(seconds)

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for at each scrape."""
        Gauge(name, told, registry=self.registry).set_function(value)
