"""Volumes that wait for their OS image: known to this process only, and to the poollet as PENDING or as an ERROR.

If this process dies, or a volume can't be made when its image is there, it is on no list any more; the poollet notices, asks for
it again, and the pull goes on or is done.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace

from provisioner.core.content import Artifact
from provisioner.core.errors import ProvisionerError
from provisioner.core.ids import SnapshotId
from provisioner.core.model import CreateRequest, Volume
from provisioner.iri.base_images import BaseImages, Pull
from provisioner.iri.events import Events
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb

log = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds that a create waits for a pull: a small image from a near registry needs no second look."""


@dataclass(slots=True)
class Wish:
    """One volume that waits; `told` is what a list says of it meanwhile."""

    request: CreateRequest
    told: pb.Volume
    pull: Pull
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Maker:
    """How a volume is made and handed out, and how one that nobody waited for is taken away."""

    make: Callable[[CreateRequest], Volume]
    unmake: Callable[[Volume], None]


class Waiting:
    """The volumes that wait, by id."""

    def __init__(self, images: BaseImages, maker: Maker, events: Events) -> None:
        self._images, self._maker, self._events = images, maker, events
        self._wishes: dict[str, Wish] = {}
        self._lock = threading.Lock()

    def create(self, request: CreateRequest, artifact: Artifact, told: pb.Volume) -> Volume | None:
        """Make a volume of an image; None if it waits now. `told` is what lists say until then."""
        snapshot = self._images.there(artifact)
        if snapshot is None:
            wish = self._join(request, artifact, told)
            try:
                snapshot = wish.pull.done.result(_PATIENCE)
            except NotYet:
                return None
        return self._maker.make(replace(request, source=snapshot))

    def named(self, volume_id: str) -> pb.Volume | None:
        """What there is to tell of a volume that waits."""
        with self._lock:
            wish = self._wishes.get(volume_id)
        return None if wish is None else _told(wish)

    def all(self) -> Sequence[pb.Volume]:
        """All that wait."""
        with self._lock:
            return [_told(wish) for wish in self._wishes.values()]

    def cancel(self, volume_id: str) -> bool:
        """Wait no more; tell whether the volume did."""
        with self._lock:
            wish = self._wishes.pop(volume_id, None)
            if wish is None:
                return False
            wish.cancelled = True
        wish.pull.leave(volume_id)
        return True

    def _join(self, request: CreateRequest, artifact: Artifact, told: pb.Volume) -> Wish:
        name = told.metadata.id
        with self._lock:
            if (there := self._wishes.get(name)) is not None:
                return there
            wish = self._wishes[name] = Wish(request, told, self._images.pull(artifact))
        wish.pull.listen(name, lambda kind, reason, message: self._tell(wish, kind, reason, message))
        wish.pull.done.add_done_callback(lambda done: self._fulfil(wish, done))
        return wish

    def _tell(self, wish: Wish, kind: str, reason: str, message: str) -> None:
        tell = self._events.warning if kind == "Warning" else self._events.normal
        tell("CreateVolume", wish.told.metadata, reason, message)

    def _fulfil(self, wish: Wish, done: "Future[SnapshotId]") -> None:
        name = wish.told.metadata.id
        try:
            if not self._is_cancelled(wish):
                made = self._maker.make(replace(wish.request, source=done.result()))
                if self._is_cancelled(wish):
                    self._maker.unmake(made)
        except ProvisionerError as error:
            log.warning("volume %s: %s; the poollet will ask again", name, error)
            self._events.warning("CreateVolume", wish.told.metadata, "VolumeCreationFailed", str(error))
        finally:
            with self._lock:
                if self._wishes.get(name) is wish:
                    del self._wishes[name]

    def _is_cancelled(self, wish: Wish) -> bool:
        with self._lock:
            return wish.cancelled


def _told(wish: Wish) -> pb.Volume:
    told = pb.Volume()
    told.CopyFrom(wish.told)
    told.status.state = pb.VOLUME_ERROR if wish.pull.failure else pb.VOLUME_PENDING
    return told
