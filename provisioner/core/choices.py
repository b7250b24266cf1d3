"""One volume in one of several pools: the choice is made once, whoever asks again, from wherever.

The name of the image is still the request's, but it could be made in two pools. So the choice is reserved first, exclusively,
in a place that depends on the class only: its home. The reservation is an index, never the truth: it goes before the volume
goes, and where it is missing the class's pools are looked through for the volume before another choice is made.

One of all processes at a time chooses for a name: who finds no room in a pool, and goes on to the next, must be sure that
nobody else finds room there since, and answers with it, or dies.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from provisioner.core.errors import (
    AlreadyExists,
    Denied,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    ProvisionerError,
    Unavailable,
)
from provisioner.core.ids import Place, VolumeId, check_place, image_name
from provisioner.core.model import CreateRequest, Credentials, Volume, now
from provisioner.core.topology import PARAMETER, ConstrainedPool, Segments, keys_of
from provisioner.core.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place that a volume may be made in, and the pool for its data, "" for none of its own."""

    place: Place
    data_pool: str = ""


@dataclass(frozen=True, slots=True)
class Reachable:
    """A candidate, and the segments that it can be reached from; none for everywhere."""

    candidate: Candidate
    segments: Segments

    def is_reached_from(self, topology: Segments) -> bool:
        """Tell whether the topology, by whole keys, agrees in all segments."""
        return keys_of(self.segments, topology) is not None


class NoPool(ProvisionerError):
    """No pool of the class can be reached from where the volume is wanted."""

    def __init__(self, pools: Iterable[Reachable]) -> None:
        told = "; ".join(f"{pool.candidate.place} from {_words(pool.segments)}" for pool in pools)
        super().__init__(f"no pool of the class can be reached from where the volume is wanted ({told})")


def reachable(home: Place, data_pool: str, pools: Sequence[ConstrainedPool], around: Segments) -> list[Reachable]:
    """The pools of a class, in its order; `around` says from where the whole cluster can be reached. Raises InvalidRequest."""
    listed = [
        Reachable(Candidate(_place(home, pool.pool), pool.data_pool or data_pool), {**around, **dict(pool.segments)})
        for pool in pools
    ]
    return listed or [Reachable(Candidate(home, data_pool), around)]


def suitable(pools: Sequence[Reachable], topologies: Sequence[Segments]) -> list[Reachable]:
    """The pools that can be reached from one of the topologies, in their order; all without any. Raises NoPool."""
    if not topologies:
        return list(pools)
    found = list[Reachable]()
    for topology in topologies:
        found += [pool for pool in pools if pool not in found and pool.is_reached_from(topology)]
    if not found:
        raise NoPool(pools)
    return found


class Reservations(Protocol):
    """Where names are reserved: one place for each, set if there is none. Errors as of `VolumeStore`."""

    def alone(self, home: Place, name: str, credentials: Credentials | None) -> AbstractContextManager[object]:
        """Choose for the name alone, among all processes, for the block. Raises Conflict."""

    def reserved(self, home: Place, name: str, credentials: Credentials | None) -> Place | None:
        """The place that is reserved for the name."""

    def reserve(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> bool:
        """Reserve a place; False if the name has one, which may be the same."""

    def release(self, home: Place, name: str, place: Place, credentials: Credentials | None) -> None:
        """Take a reservation away, if it is of that place; gone already is fine."""


class Choices:
    """Making volumes of classes with several pools."""

    def __init__(self, volumes: Volumes, reservations: Reservations) -> None:
        self._volumes, self._reservations = volumes, reservations

    def create(self, request: CreateRequest, pools: Sequence[Candidate], wanted: Sequence[Candidate]) -> Volume:
        """Make the volume in the first of `wanted` that has room, or give the one that was made in any of the class's `pools`.

        `request.place` is the home. Raises what `Volumes.create` raises, and AlreadyExists for a volume that lies in none of
        the wanted pools, and Conflict while another makes it.
        """
        with self._reservations.alone(request.place, request.name, request.credentials):
            return self._create(request, pools, wanted)

    def _create(self, request: CreateRequest, pools: Sequence[Candidate], wanted: Sequence[Candidate]) -> Volume:
        first = self.chosen_before(request, pools)
        if first is not None and first not in wanted:
            self._give_up_what_is_not_wanted(request, first)
            first = None
        refusal = OutOfSpace("every pool")
        for candidate in ([first] if first else []) + [each for each in wanted if each != first]:
            try:
                return self._create_at(request, candidate)
            except OutOfSpace as error:
                if self._volumes.settle(_id(request, candidate), request.credentials) is not None:
                    return self._create_at(request, candidate)
                self._release(request, candidate)
                refusal = error
        raise refusal

    def chosen_before(self, request: CreateRequest, pools: Sequence[Candidate]) -> Candidate | None:
        """What an earlier request for the name chose, as far as that still stands."""
        place = self._reservations.reserved(request.place, request.name, request.credentials)
        if place is not None:
            return next((pool for pool in pools if pool.place == place), Candidate(place))
        return next((pool for pool in pools if self._is_there(request, pool)), None)

    def _create_at(self, request: CreateRequest, candidate: Candidate) -> Volume:
        home, name, began = request.place, request.name, now()
        if not self._reservations.reserve(home, name, candidate.place, request.credentials):
            self._require(request, candidate)
        layout = replace(request.layout, data_pool=candidate.data_pool)
        try:
            made = self._volumes.create(replace(request, place=candidate.place, layout=layout, home=home))
        except (InvalidRequest, Denied):
            self._release(request, candidate)
            raise
        self._require(request, candidate, made if made.created >= began else None)
        return made

    def _require(self, request: CreateRequest, candidate: Candidate, made: Volume | None = None) -> None:
        """Raise Unavailable unless the choice still stands: the volume may be deleted meanwhile, or our lock have lapsed.

        What was `made` meanwhile, and is promised to nobody, goes again.
        """
        place = self._reservations.reserved(request.place, request.name, request.credentials)
        if place == candidate.place:
            return
        if place is not None and made is not None:
            self._volumes.delete(made.id, request.credentials, made.image_id)
        raise Unavailable(f"{request.name!r} was reserved for {place or 'no pool any more'} meanwhile: ask again")

    def _give_up_what_is_not_wanted(self, request: CreateRequest, chosen: Candidate) -> None:
        if self._is_there(request, chosen):
            told = f"it lies in {chosen.place}, which can't be reached from where it is asked for"
            raise AlreadyExists(f"volume {_id(request, chosen)}", [told])
        self._release(request, chosen)

    def _is_there(self, request: CreateRequest, candidate: Candidate) -> bool:
        try:
            self._volumes.get(_id(request, candidate), request.credentials)
        except (NotFound, InvalidRequest, Denied):  # no volume, no such pool, or none that this key makes anything in
            return False
        return True

    def _release(self, request: CreateRequest, candidate: Candidate) -> None:
        self._reservations.release(request.place, request.name, candidate.place, request.credentials)


def _place(home: Place, pool: str) -> Place:
    try:
        return check_place(Place(home.cluster, pool, home.namespace))
    except InvalidRequest as error:
        raise InvalidRequest(f"parameters.{PARAMETER}", pool, error.why) from error


def _words(segments: Segments) -> str:
    return ", ".join(f"{label}={value}" for label, value in segments.items()) or "everywhere"


def _id(request: CreateRequest, candidate: Candidate) -> VolumeId:
    return VolumeId(candidate.place, image_name(candidate.place, request.name))
