"""The metrics of one process, in a registry of its own: nothing is counted globally."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import provisioner

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Every metric this program has; names and labels are a contract with dashboards."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        build = Gauge(
            "ceph_provisioner_build_info", "Always 1; the label says which version runs.", ["version"], registry=registry
        )
        build.labels(provisioner.__version__).set(1)
        self._operations = Histogram(
            "ceph_provisioner_operation_seconds",
            "Time that an operation of the core took, by its kind and outcome.",
            ["kind", "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._calls = Histogram(
            "ceph_provisioner_kube_call_seconds",
            "Time that the API server took to answer.",
            ["verb", "resource", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rpcs = Histogram(
            "ceph_provisioner_rpc_seconds",
            "Time that a gRPC call took, by method and status code.",
            ["method", "code"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.saved = Histogram(
            "ceph_provisioner_claim_saved_seconds",
            "Time from a claim's creation to its saved PersistentVolume.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "ceph_provisioner_reconcile_failures_total",
            "Tries that failed, by kind of object and of error.",
            ["object", "error"],
            registry=registry,
        )
        self.purged = Counter(
            "ceph_provisioner_purged_images_total", "Deleted images removed from the trash.", ["pool"], registry=registry
        )
        self.kept = Gauge(
            "ceph_provisioner_trash_kept_images", "Deleted images that a client still uses.", ["pool"], registry=registry
        )
        self.orphans = Gauge(
            "ceph_provisioner_orphaned_volumes",
            "Volumes once handed out whose claim and PersistentVolume are gone: kept, for a person to judge.",
            registry=registry,
        )
        self.leading = Gauge("ceph_provisioner_leading", "1 while this replica leads.", registry=registry)

    def on_operation(self, kind: str, seconds: float, error: BaseException | None) -> None:
        """Hear of an operation of the core that ended."""
        outcome = type(error).__name__ if error else "ok"
        self._operations.labels(kind, outcome).observe(seconds)

    def on_call(self, verb: str, resource: str, status: str, seconds: float) -> None:
        """Hear of an exchange with the API server."""
        self._calls.labels(verb, resource, status).observe(seconds)

    def on_rpc(self, method: str, code: str, seconds: float) -> None:
        """Hear of a gRPC call that was answered."""
        self._rpcs.labels(method, code).observe(seconds)

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for at each scrape."""
        Gauge(name, told, registry=self.registry).set_function(value)
