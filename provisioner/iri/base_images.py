"""OS images as shared base images: pulled once per digest, then cloned. And the volumes that wait for one.

A base image is a volume of the core with a snapshot; the snapshot says that it is whole, so it is taken last. What was left half
written is written again. A volume that waits is nowhere but in this process's memory: the poollet asks for it again after a
restart, and nothing lies about if it does not.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from provisioner.core.content import Artifact, ArtifactSource, ContentStore
from provisioner.core.errors import Conflict, ProvisionerError, Unavailable
from provisioner.core.ids import Place, SnapshotId
from provisioner.core.model import CreateRequest, SizeRange, SnapshotRequest
from provisioner.core.snapshots import Snapshots
from provisioner.core.volumes import Volumes

log = logging.getLogger(__name__)

REFERENCE, DIGEST = "iri.os-image", "iri.os-digest"
"""Labels of base images."""
_SOON, _LATER = 2.0, 300.0
"""Seconds until a failed pull is tried again: at first, and at most."""
_AT_ONCE = 2

Tell = Callable[[str, str, str], None]
"""Is told "Normal" or "Warning", a reason and a message about a pull."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What base images are made with."""

    volumes: Volumes
    snapshots: Snapshots
    source: ArtifactSource
    content: ContentStore


class BaseImages:
    """The base images of one place."""

    def __init__(self, parts: Parts, place: Place) -> None:
        self._parts, self._place = parts, place
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull")
        self._pulls: dict[str, Pull] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()

    def resolve(self, reference: str, architecture: str) -> Artifact:
        """What a reference means now."""
        return self._parts.source.resolve(reference, architecture)

    def there(self, artifact: Artifact) -> SnapshotId | None:
        """The snapshot to clone, if the base image is whole."""
        found = self._parts.snapshots.named(self._place, self._name(artifact, with_place=True))
        return None if found is None else found.id

    def pull(self, artifact: Artifact) -> "Pull":
        """Begin to pull an image, or join whoever does."""
        with self._lock:
            pull = self._pulls.get(artifact.digest)
            if pull is None:
                pull = self._pulls[artifact.digest] = Pull(artifact)
                self._threads.submit(self._run, pull)
            return pull

    def stop(self) -> None:
        """Begin nothing new; what is half pulled is pulled again by the next process."""
        self._stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, pull: "Pull") -> None:
        pause = _SOON
        while not self._stop.is_set():
            try:
                snapshot = self._pulled(pull)
            except ProvisionerError as error:
                if not pull.wanted():
                    break
                pull.fail(error)
                self._stop.wait(pause)
                pause = min(pause * 2, _LATER)
                continue
            self._forget(pull)
            pull.done.set_result(snapshot)
            return
        self._forget(pull)
        pull.done.set_exception(Unavailable("nobody waits for the image any more"))

    def _forget(self, pull: "Pull") -> None:
        with self._lock:
            self._pulls.pop(pull.artifact.digest, None)

    def _pulled(self, pull: "Pull") -> SnapshotId:
        if (there := self.there(pull.artifact)) is not None:
            return there
        artifact = pull.artifact
        kept = {REFERENCE: artifact.reference, DIGEST: artifact.digest}
        request = CreateRequest(self._name(artifact), self._place, SizeRange(artifact.size), labels=kept)
        base = self._parts.volumes.create(request)
        pull.tell("Normal", "ImagePullStarted", f"{artifact.reference}, {artifact.size} bytes")
        self._parts.content.fill(base, self._bytes(artifact), pull.progress)
        taken = self._parts.snapshots.create(SnapshotRequest(self._name(artifact, with_place=True), base.id, labels=kept))
        pull.tell("Normal", "ImagePulled", f"{artifact.reference} is {artifact.digest}")
        return taken.id

    def _bytes(self, artifact: Artifact) -> Iterator[bytes]:
        for chunk in self._parts.source.read(artifact):
            if self._stop.is_set():
                raise Unavailable("the server is shutting down")
            yield chunk

    def _name(self, artifact: Artifact, *, with_place: bool = False) -> str:
        """The base image's name; its snapshot's tells the place, too, since snapshots' names are unique in a cluster."""
        name = f"os-{artifact.digest.removeprefix('sha256:')[:32]}"
        return f"{name}-{hashlib.sha256(str(self._place).encode()).hexdigest()[:8]}" if with_place else name


class Pull:
    """One image on its way, and who wants to hear of it."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.done: Future[SnapshotId] = Future()
        self.failure = ""
        """Why it does not go on at the moment, "" if it does."""
        self._listeners: dict[str, Tell] = {}
        self._percent = 0
        self._lock = threading.Lock()

    def listen(self, who: str, tell: Tell) -> None:
        """Have `tell` called, and the pull wanted, until `leave`."""
        with self._lock:
            self._listeners[who] = tell

    def leave(self, who: str) -> None:
        """Want it no more."""
        with self._lock:
            self._listeners.pop(who, None)

    def wanted(self) -> bool:
        """Whether anybody still waits."""
        with self._lock:
            return bool(self._listeners)

    def tell(self, kind: str, reason: str, message: str) -> None:
        """Tell everybody who waits."""
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(kind, reason, message)

    def progress(self, done: int) -> None:
        """Tell of each tenth. What moves does not fail."""
        percent = done * 100 // self.artifact.size
        self.failure = ""
        if percent // 10 > self._percent // 10 and percent < 100:
            self.tell("Normal", "ImagePulling", f"{percent} % of {self.artifact.size} bytes")
        self._percent = percent

    def fail(self, error: ProvisionerError) -> None:
        """It is tried again; unless another process is at it, everybody is told why."""
        self._percent = 0
        if isinstance(error, Conflict):
            return
        log.warning("image %s: %s; it is tried again", self.artifact.reference, error)
        if not isinstance(error, Unavailable):
            self.failure = str(error)
        self.tell("Warning", "ImagePullFailed", str(error))
