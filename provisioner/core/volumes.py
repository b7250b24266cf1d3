"""What may be done with a volume: the use cases that every front end calls.

Each tells its story in terms of the store's steps and is safe to repeat, to interrupt and to race: a request's name is
its identity, the image says what it is, and whoever meets another's half-done work finishes or undoes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from provisioner.core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, OutOfRange, Unavailable
from provisioner.core.ids import Place, SnapshotId, VolumeId, check_place, image_name
from provisioner.core.model import (
    Blueprint,
    Capacity,
    CreateRequest,
    Credentials,
    Found,
    Grant,
    SizeRange,
    Source,
    Stranger,
    Volume,
    Wreck,
)
from provisioner.core.ports import VolumeStore
from provisioner.core.qos import Qos, Throttle
from provisioner.core.recent import Recent
from provisioner.core.single_flight import Operation, SingleFlight

_ROUNDS = 5
"""Obstacles that one request removes (a wreck, a race lost) before it lets its asker come again."""

_PAGE = 500
_Make = Callable[[Blueprint, Credentials | None], Volume | None]


class Volumes:
    """The use cases over one store."""

    def __init__(self, store: VolumeStore, flights: SingleFlight | None = None) -> None:
        self._store = store
        self._flights = flights or SingleFlight()
        self._recent = Recent()

    def create(self, request: CreateRequest) -> Volume:
        """Make the volume, or give the one that an equal request made before.

        Raises InvalidRequest, AlreadyExists (the name is taken by something else), OutOfSpace, Denied, Unavailable.
        """
        plan = plan_for(request)
        identity = (plan.name, request.size, plan.layout, plan.qos, plan.source, request.credentials)
        return self._flights.run("create", str(plan.id), identity, lambda: self._create(plan, request))

    def get(self, volume: VolumeId, credentials: Credentials | None = None) -> Volume:
        """Give the volume as Ceph has it now. NotFound for what isn't a complete volume of ours."""
        found = self._store.find(volume, credentials)
        if isinstance(found, Wreck) and not found.dying:
            # a create may have been answered whose last step, after the name was claimed, is missing
            found = self._salvaged(found, credentials)
        if not isinstance(found, Volume):
            raise NotFound(f"volume {volume}")
        return found

    def settle(self, volume: VolumeId, credentials: Credentials | None = None) -> Volume | None:
        """Give the volume, if there is one; what killed processes left under the name is finished or cleared on the way.

        For callers who know that they asked for the name, and whom an answer of None lets forget it. Unavailable while the
        author of what lies there may still be at work.
        """
        found = self._store.find(volume, credentials)
        if found is None or isinstance(found, Volume):
            return found
        try:
            return self._flights.run("clear", str(volume), credentials, lambda: self._cleared(found, credentials))
        except Conflict:  # the author is ours, and at work
            return None

    def volumes(self, place: Place, credentials: Credentials | None = None) -> Iterator[Volume]:
        """All volumes of a place, read in pages while the caller consumes them."""
        after = ""
        while True:
            page = self._store.page(place, after, _PAGE, credentials)
            yield from page.volumes
            if not (after := page.after):
                return

    def expand(self, volume: VolumeId, size: SizeRange, credentials: Credentials | None = None) -> Volume:
        """Grow the volume to `size.required` bytes, rounded up to MiB. One that is large enough is left as it is."""
        return self._flights.run("expand", str(volume), (size, credentials), lambda: self._expand(volume, size, credentials))

    def modify(self, volume: VolumeId, changes: Qos, credentials: Credentials | None = None) -> Volume:
        """Change how fast the volume may be; what `changes` don't name stays. Whoever has it open is told.

        Raises NotFound, and InvalidRequest for changes that make no sense with what stays.
        """
        return self._flights.run(
            "modify", str(volume), (changes, credentials), lambda: self._modify(volume, changes, credentials)
        )

    def delete(self, volume: VolumeId, credentials: Credentials | None = None, image_id: str = "") -> None:
        """Take the volume away; gone already is success. With `image_id`, only if the name still means that image.

        Raises InUse, HasDependants, and AlreadyExists for an image that isn't ours.
        """
        self._flights.run(
            "delete",
            str(volume),
            (image_id, credentials),
            lambda: self._delete(volume, credentials, image_id=image_id),
        )

    def publish(self, volume: Volume, credentials: Credentials | None = None) -> Grant:
        """Hand the volume out: a key that opens it alone, and a note on the image that no sweep may take it any more."""
        if not volume.published and (alike := self._store.alike(volume, credentials)):
            self.delete(volume.id, credentials, volume.image_id)
            raise Unavailable(f"the internal id of {volume.id} begins like that of {alike[0]}: it is made again")
        grant = self._store.grant(volume, credentials)
        if not volume.published:
            self._store.mark_published(volume, credentials)
        return grant

    def mark_published(self, volume: Volume, credentials: Credentials | None = None) -> None:
        """Note on the image that it was handed out, where the asker brings a user of its own."""
        if not volume.published:
            self._store.mark_published(volume, credentials)

    def abandon(self, volume: VolumeId, credentials: Credentials | None = None) -> None:
        """Undo what was made for a request that nobody waits for any more: its user first, whose name the image knows.

        The caller knows that it asked for the name: an image without a mark that nobody ever used is taken for what its
        killed create left, as a repeated create would. Raises what `delete` raises.
        """
        self._flights.run("abandon", str(volume), credentials, lambda: self._delete(volume, credentials, abandoned=True))

    def revoke(self, volume: VolumeId, user: str, credentials: Credentials | None = None) -> None:
        """Take back what `publish` granted. Gone already is success."""
        self._store.revoke(volume, user, credentials)

    def withdraw(self, volume: Volume, credentials: Credentials | None = None) -> None:
        """Take back what `publish` granted for the volume, which may be gone. Taken back already is success."""
        self._store.withdraw(volume, credentials)

    def monitors(self, cluster: str, credentials: Credentials | None = None) -> list[str]:
        """Where a kernel client finds the cluster."""
        return self._store.monitors(cluster, credentials)

    def capacity(self, place: Place, data_pool: str = "", credentials: Credentials | None = None) -> Capacity:
        """What can still be made in the place, in bytes."""
        return self._store.capacity(check_place(place), data_pool, credentials)

    def attend(self, place: Place, credentials: Credentials | None = None) -> None:
        """Take up the background work of a place, without waiting for a request to lead there."""
        self._store.attend(place, credentials)

    def operations(self) -> list[Operation]:
        """What runs now, oldest first."""
        return self._flights.operations()

    def _create(self, plan: Blueprint, request: CreateRequest) -> Volume:
        if plan.source is not None:
            return self._make(plan, request, self._store.clone)
        # a name that is new to this process is most likely new to Ceph: making it at once spares the look
        if self._recent.is_new(str(plan.id)) and (made := self._store.make(plan, request.credentials)) is not None:
            return made
        if (there := self._store.glance(plan.id, request.credentials)) is not None:
            return self._throttled_as_asked(same_as_asked(there, plan, request.size), request)
        return self._make(plan, request, self._store.make)

    def _make(self, plan: Blueprint, request: CreateRequest, make: _Make) -> Volume:
        for _ in range(_ROUNDS):
            found = self._store.find(plan.id, request.credentials)
            if isinstance(found, Volume):
                return self._throttled_as_asked(same_as_asked(found, plan, request.size), request)
            if isinstance(found, Wreck):
                self._store.salvage(found, request.credentials)
            elif isinstance(found, Stranger):
                self._adopt(found, plan, request.credentials)
            elif (made := make(plan, request.credentials)) is not None:
                return made
        raise Unavailable(f"{plan.id} kept changing under {_ROUNDS} attempts")

    def _adopt(self, found: Stranger, plan: Blueprint, credentials: Credentials | None) -> None:
        if plan.source is not None:
            raise AlreadyExists(f"image {plan.id}", ["it was not made by this provisioner"])
        self._store.adopt(found, plan, credentials)

    def _cleared(self, found: Stranger | Wreck, credentials: Credentials | None) -> Volume | None:
        lies: Found = found
        for _ in range(_ROUNDS):
            try:
                if isinstance(lies, Stranger):
                    self._store.condemn(lies, credentials)
                    lies = self._store.find(found.id, credentials)
                elif isinstance(lies, Wreck):
                    lies = self._salvaged(lies, credentials)
            except AlreadyExists:  # somebody else's: a create would say so
                return None
            if lies is None or isinstance(lies, Volume):
                return lies
        raise Unavailable(f"{found.id} kept changing under {_ROUNDS} attempts to clear it")

    def _salvaged(self, wreck: Wreck, credentials: Credentials | None) -> Found:
        """Finish or undo what a killed operation left; gives what the name holds then: a volume, if it lacked but a last step."""
        self._store.salvage(wreck, credentials)
        return self._store.find(wreck.id, credentials)

    def _expand(self, volume: VolumeId, size: SizeRange, credentials: Credentials | None) -> Volume:
        # growing goes by the image's id, so that the directory need not be asked for it
        found = self._store.glance(volume, credentials) or self.get(volume, credentials)
        wanted = size.choose()
        if size.limit and found.size > size.limit:
            raise OutOfRange("limit", size.limit, f"{volume} has {found.size} bytes already")
        if found.size < wanted:
            found = replace(found, size=self._store.resize(found, wanted, credentials))
        # also where nothing grew now: who grew it may have been killed before this
        return self._throttle(found, lambda throttle: (throttle.qos, throttle.made_with), credentials)

    def _modify(self, volume: VolumeId, changes: Qos, credentials: Credentials | None) -> Volume:
        found = self.get(volume, credentials)
        return self._throttle(found, lambda throttle: (throttle.qos.changed(changes), throttle.made_with), credentials)

    def _throttled_as_asked(self, found: Volume, request: CreateRequest) -> Volume:
        """A repeated create changes nothing, also after a `modify`; one that asks for something else has its way."""
        if request.qos in (found.throttle.made_with, found.throttle.qos):
            return found
        return self._throttle(found, lambda _: (request.qos, request.qos), request.credentials)

    def _throttle(self, found: Volume, decide: Callable[[Throttle], tuple[Qos, Qos]], credentials: Credentials | None) -> Volume:
        for _ in range(_ROUNDS):
            qos, made_with = decide(found.throttle)
            as_is = (qos, made_with) == (found.throttle.qos, found.throttle.made_with)
            if as_is and found.throttle.fits(found.size):
                return found
            self._store.throttle(found, qos, made_with, credentials)
            found = self.get(found.id, credentials)
        raise Unavailable(f"how fast {found.id} may be kept changing under {_ROUNDS} attempts")

    def _delete(self, volume: VolumeId, credentials: Credentials | None, *, image_id: str = "", abandoned: bool = False) -> None:
        for _ in range(_ROUNDS):
            found = self._store.find(volume, credentials)
            if found is None or (image_id and found.image_id != image_id):
                return
            if isinstance(found, Wreck):
                self._store.salvage(found, credentials)
            elif isinstance(found, Stranger):
                if not abandoned:
                    raise AlreadyExists(f"image {volume}", ["it bears no mark of ours, so it is not ours to delete"])
                self._store.condemn(found, credentials)
            else:
                if abandoned:
                    self._store.withdraw(found, credentials)
                if found.home is not None:  # first, so that no killed delete leaves it: `choices` does without
                    self._store.release(found, credentials)
                self._store.discard(found, credentials)
                return
        raise Conflict(str(volume), f"it kept changing under {_ROUNDS} attempts to delete it")


def plan_for(request: CreateRequest) -> Blueprint:
    """Check a request and name its image. Raises InvalidRequest with the field and value at fault."""
    place = check_place(request.place)
    image = VolumeId(place, image_name(place, request.name))
    size = request.size.choose()
    request.layout.check_size(size)
    if request.source is not None:
        _check_source(request.source, request)
    return Blueprint(image, request.name, size, request.layout, request.labels, request.qos, request.source, request.home)


def _check_source(source: Source, request: CreateRequest) -> None:
    place = source.volume.place if isinstance(source, SnapshotId) else source.place
    if place.cluster != request.place.cluster:
        raise InvalidRequest("source", source, f"content can't be taken from another cluster than {request.place.cluster}")
    if "layering" not in request.layout.features:
        raise InvalidRequest("imageFeatures", ",".join(sorted(request.layout.features)), "a clone needs layering")


def same_as_asked(found: Volume, plan: Blueprint, size: SizeRange) -> Volume:
    """Give `found` if it is what the plan would have made; AlreadyExists names each difference."""
    asked = plan.asked
    differs = [
        f"{key} is {found.asked.get(key, '')!r}, asked for {asked.get(key, '')!r}"
        for key in sorted(asked.keys() | found.asked.keys())
        if asked.get(key) != found.asked.get(key)
    ]
    if found.name != plan.name:
        differs.append(f"it was made for the name {found.name!r}")
    if not size.admits(found.size):
        bound = f"at most {size.limit}" if size.limit and found.size > size.limit else f"at least {size.required}"
        differs.append(f"size is {found.size} bytes, asked for {bound}")
    if differs:
        raise AlreadyExists(f"volume {found.id}", differs)
    return found
