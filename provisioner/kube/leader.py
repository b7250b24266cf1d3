"""One of several replicas leads: a Lease that the leader renews and the others watch run out.

Leading only spares double work; nothing's correctness rests on it, since a leader that is stopped and thawed may act for a
moment beside its successor.

The rules are those of client-go, so that a replica of ours and any other client may share a Lease: who sees an unchanged
record for the record's own duration, on its own clock that never goes back, may take it; who can't renew in time stops before
that. The official Python package's elector has neither: it compares wall clocks, bounds no request by the time that is left,
does not release on exit, and brings the client that we don't use.
"""

import logging
import math
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.kube.backoff import Clock
from provisioner.kube.errors import Conflict, KubeError, NotFound
from provisioner.kube.resources import LEASES, Object
from provisioner.kube.times import now_micro
from provisioner.kube.transport import Api

log = logging.getLogger(__name__)

_SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; `lease` > `renew` > `retry`."""

    lease: float = 15.0
    """The others may take over when the record hasn't changed for this long."""
    renew: float = 10.0
    """The leader steps down when it could not renew for this long."""
    retry: float = 2.0
    """Between two looks, of the leader and of the others."""

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry * (1 + _SPREAD) > 0:
            raise ValueError(f"a lease of {self.lease} s must outlast {self.renew} s, and that {self.retry} s")


def new_identity() -> str:
    """A name for this process that no other has, and that tells a person where it runs."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Elector:
    """Campaigns for a Lease in a thread of its own, until `stop`.

    `on_started` and `on_stopped` are called from that thread and must be quick; a leader that lost the lease campaigns again
    after `on_stopped`. Give it an Api of its own, so that a renewal never queues behind a storm of other calls. On exit, stop
    the work first and then the elector, which releases the lease so that the next one takes over at its next look.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        on_started: Callable[[], None],
        on_stopped: Callable[[], None],
        timing: Timing | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`identity` must be this process's alone: see `new_identity`."""
        self.identity, self.timing = identity, timing or Timing()
        self._on_started, self._on_stopped, self._clock = on_started, on_stopped, clock
        self._lease = _Lease(api, namespace, name)
        self._seen: Object | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._leading, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {name}", daemon=True)

    @property
    def leading(self) -> bool:
        """Whether this process leads, as far as it can know: nobody else does until `Timing.lease` after the last renewal."""
        return self._leading.is_set() and self._clock() - self._renewed_at < self.timing.renew

    @property
    def alive(self) -> bool:
        """Whether the campaign goes on; false after `stop`, and if a callback raised."""
        return self._thread.is_alive()

    @property
    def holder(self) -> str:
        """Who led when we last looked, "" for nobody."""
        return str(_spec(self._seen).get("holderIdentity") or "")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait_leading(self, timeout: float) -> bool:
        """Wait until this process leads; false if that took longer than `timeout` seconds."""
        return self._leading.wait(timeout)

    def stop(self, timeout: float = 5.0) -> bool:
        """End the campaign and release the lease; false if that took longer than `timeout` seconds."""
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._won():
                self._lead()
            self._stopping.wait(self._until_next_look())

    def _until_next_look(self) -> float:
        """Seconds; shortened so as to look just when another's record runs out."""
        usual = self.timing.retry * (1 + _SPREAD * random.random())  # noqa: S311 - spreading, no secret
        runs_out = self._seen_at + self._duration() - self._clock()
        return min(usual, runs_out + 0.05) if self.holder and runs_out > 0 else usual

    def _won(self) -> bool:
        try:
            return self._campaign(self._clock() + self.timing.renew)
        except KubeError as error:
            log.warning("lease %s: %s", self._lease, error)
            return False

    def _lead(self) -> None:
        log.info("leading: %s holds lease %s", self.identity, self._lease)
        self._leading.set()
        self._on_started()
        while self._renewed_in_time():
            if self._stopping.wait(self.timing.retry):
                break
        self._leading.clear()
        self._on_stopped()
        if self._stopping.is_set():
            self._release()
        else:
            log.error("no longer leading: lease %s is with %s", self._lease, self.holder or "nobody")

    def _renewed_in_time(self) -> bool:
        """Renew, again and again if need be; false when the time is over or another one leads."""
        while (left := (until := self._renewed_at + self.timing.renew) - self._clock()) > 0:
            try:
                return self._campaign(until)
            except KubeError as error:
                log.warning("renewing lease %s: %s", self._lease, error)
            if self._stopping.wait(min(self.timing.retry, left)):
                return True
        return False

    def _campaign(self, until: float) -> bool:
        """Take or renew the lease if that is ours to do; says whether we have it now. Raises KubeError to be tried again."""
        asked = self._clock()
        if self.holder != self.identity:
            self._look(until)
        if not self._may_take():
            return False
        try:
            self._note(self._lease.write(self._claimed(), self._seen is None, self._patience(until)))
        except (Conflict, NotFound):
            # Somebody was first: another replica, or we ourselves in a call whose answer never came.
            self._look(until)
            if self.holder not in ("", self.identity):
                return False
            raise
        self._renewed_at = asked
        return True

    def _patience(self, until: float) -> float:
        """The timeout of a call that must end by then: it bounds the connecting and the answer each."""
        return max(0.1, (until - self._clock()) / 2)

    def _look(self, until: float) -> None:
        self._note(self._lease.read(self._patience(until)))

    def _note(self, lease: Object | None) -> None:
        """Remember the record, and since when it is as it is."""
        if self._seen is None or lease is None or _spec(lease) != _spec(self._seen):
            self._seen_at = self._clock()
        self._seen = lease

    def _may_take(self) -> bool:
        return self.holder in ("", self.identity) or self._clock() - self._seen_at > self._duration()

    def _duration(self) -> float:
        """How long the record seen may stay unchanged, in seconds, as its holder said."""
        return float(_spec(self._seen).get("leaseDurationSeconds") or self.timing.lease)

    def _claimed(self) -> Object:
        """The lease as it shall be, with us as the holder."""
        spec = _spec(self._seen)
        if self.holder != self.identity:
            transitions = int(spec.get("leaseTransitions") or 0) + (self._seen is not None)
            spec |= {"leaseTransitions": transitions, "acquireTime": now_micro()}
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self.timing.lease),
            "renewTime": now_micro(),
        }
        return self._lease.body(self._seen, spec)

    def _release(self) -> None:
        """Leave the lease without a holder, if it is still ours; if that fails, it runs out by itself."""
        if self.holder != self.identity:
            return
        spec = _spec(self._seen) | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now_micro()}
        try:
            self._seen = self._lease.write(self._lease.body(self._seen, spec), False, self.timing.retry)
        except KubeError as error:
            log.warning("releasing lease %s: %s", self._lease, error)


class _Lease:
    """The Lease object, read and written with a bound on the time."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api, self._namespace, self._name = api, namespace, name
        self._path = LEASES.path(namespace, name)

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    def read(self, seconds: float) -> Object | None:
        try:
            return self._api.get(self._path, timeout=seconds)
        except NotFound:
            return None

    def body(self, seen: Object | None, spec: Object) -> Object:
        """A lease to write; with the version it was seen in, so that only one of two writers wins."""
        if seen is None:
            return LEASES.body({"namespace": self._namespace, "name": self._name}, spec=spec)
        return {**seen, "spec": spec}

    def write(self, lease: Object, new: bool, seconds: float) -> Object:
        if new:
            return self._api.create(LEASES.path(self._namespace), lease, timeout=seconds)
        return self._api.replace(self._path, lease, timeout=seconds)


def _spec(lease: Object | None) -> Object:
    """A copy of the lease's record; empty if there is none."""
    return dict((lease or {}).get("spec") or {})
