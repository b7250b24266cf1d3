"""What every role is made of: a process that ends on signals, its metrics and status page, and the clusters behind it."""

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from provisioner import memory
from provisioner.ceph.cluster import Clusters
from provisioner.ceph.places import Places
from provisioner.config import ConfigFile
from provisioner.core.single_flight import SingleFlight
from provisioner.observe.http import StatusServer
from provisioner.observe.metrics import Metrics

if TYPE_CHECKING:
    from provisioner.ceph.store import CephStore
    from provisioner.housekeeping import Housekeeping


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@dataclass(frozen=True, slots=True)
class Process:
    """One role, from its first line to its end."""

    stop: threading.Event = field(default_factory=stop_on_signals)
    metrics: Metrics = field(default_factory=Metrics)

    def flights(self) -> SingleFlight:
        """Where the same request joins itself, measured."""
        return SingleFlight(on_done=self.metrics.on_operation)

    def run(
        self, status: StatusServer, what: str, starts: Sequence[Callable[[], object]], ends: Sequence[Callable[[], object]]
    ) -> None:
        """Say what is served, begin, wait for a signal, and end in the order of `ends`; the status page goes last."""
        with ExitStack() as stack:
            status.start()
            stack.callback(status.close)
            for end in reversed(ends):
                stack.callback(end)
            click.echo(f"serving {what}; status at http://{status.address}", err=True)
            for start in starts:
                start()
            while not self.stop.wait(memory.EVERY):
                memory.give_back()


@dataclass(frozen=True, slots=True)
class Ceph:
    """The config file's clusters as a store, and the work in the background that each who makes volumes there has a part in."""

    places: Places
    store: "CephStore"
    housekeeping: "Housekeeping"


def ceph(config: ConfigFile, metrics: Metrics) -> Ceph:
    """Nothing is connected yet, and nothing runs: `housekeeping` is to be started and stopped."""
    # imported here: a node makes no volumes, and runs on every machine
    from provisioner.ceph.store import CephStore
    from provisioner.housekeeping import Housekeeping

    places = Places(Clusters(config.clusters))
    store = CephStore(places)
    return Ceph(places, store, Housekeeping(places, store, metrics))
