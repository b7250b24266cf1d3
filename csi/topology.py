"""From where a volume can be reached: which of a class's pools suits the asker, and what is answered about it.

A pool of `topologyConstrainedPools` is reached from the segments that it names, a cluster from those that the config file
gives it; what names none is reached from everywhere.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from csi.convert import Class
from csi.pb import csi_pb2
from provisioner.core.choices import Candidate, Choices
from provisioner.core.errors import InvalidRequest, ProvisionerError
from provisioner.core.ids import Place, check_place
from provisioner.core.model import Capacity, CreateRequest, Volume
from provisioner.core.topology import PARAMETER, Segments, keys_of
from provisioner.core.volumes import Volumes

_NOTHING = Capacity(0, 0)


class NoPool(ProvisionerError):
    """No pool of the class can be reached from where the volume is wanted."""

    def __init__(self, pools: Iterable["_Pool"]) -> None:
        told = "; ".join(f"{pool.candidate.place} from {_words(pool.segments)}" for pool in pools)
        super().__init__(f"accessibility_requirements: no pool of the class can be reached from there ({told})")


@dataclass(frozen=True, slots=True)
class _Pool:
    candidate: Candidate
    segments: Segments


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of every class. `segments` gives those of a cluster; `driver` opens keys that no asker spelled."""

    volumes: Volumes
    choices: Choices
    segments: Callable[[str], Segments]
    driver: str

    def create(self, request: CreateRequest, chosen: Class, needs: csi_pb2.TopologyRequirement) -> Volume:
        """Make the volume where it can be reached from. Raises NoPool, and what `Volumes.create` and `Choices.create` raise."""
        pools = self._of(chosen)
        wanted = _suitable(pools, needs)
        if not wanted:
            raise NoPool(pools)
        if not chosen.parameters.pools:
            return self.volumes.create(request)
        everywhere = [pool.candidate for pool in pools]
        return self.choices.create(request, everywhere, [pool.candidate for pool in wanted])

    def topology(self, made: Volume, chosen: Class, needs: csi_pb2.TopologyRequirement) -> list[csi_pb2.Topology]:
        """From where the volume can be reached, in the asker's own keys; nothing for everywhere."""
        pool = next((pool for pool in self._of(chosen) if pool.candidate.place == made.id.place), None)
        if pool is None or not pool.segments:
            return []
        for topology in (*needs.preferred, *needs.requisite):
            if (keys := keys_of(pool.segments, topology.segments)) is not None:
                return [csi_pb2.Topology(segments=keys)]
        return [csi_pb2.Topology(segments={self._key(label): value for label, value in pool.segments.items()})]

    def capacity(self, chosen: Class, topology: csi_pb2.Topology) -> Capacity:
        """What the roomiest pool can give that is reached from the topology (an empty one: from anywhere)."""
        pools = [pool for pool in self._of(chosen) if not topology.segments or _reached(pool, topology)]
        rooms = [self.volumes.capacity(pool.candidate.place, pool.candidate.data_pool) for pool in pools]
        return max(rooms, key=lambda room: room.available, default=_NOTHING)

    def made_so(self, found: Volume, chosen: Class) -> bool:
        """Tell whether the class could have made the volume."""
        layouts = {
            pool.candidate.place: replace(chosen.parameters.layout, data_pool=pool.candidate.data_pool)
            for pool in self._of(chosen)
        }
        layout = layouts.get(found.id.place)
        return layout is not None and layout.described() == {key: value for key, value in found.asked.items() if key != "source"}

    def _of(self, chosen: Class) -> list[_Pool]:
        """The class's pools, in its order."""
        home, data_pool, around = chosen.place, chosen.parameters.layout.data_pool, self.segments(chosen.place.cluster)
        pools = [
            _Pool(Candidate(_place(home, pool.pool), pool.data_pool or data_pool), {**around, **dict(pool.segments)})
            for pool in chosen.parameters.pools
        ]
        return pools or [_Pool(Candidate(home, data_pool), around)]

    def _key(self, label: str) -> str:
        return label if "/" in label else f"topology.{self.driver}/{label}"


def _suitable(pools: Sequence[_Pool], needs: csi_pb2.TopologyRequirement) -> list[_Pool]:
    """The pools that can be reached from where it is asked for: in order of the preferred topologies, then the others."""
    topologies = [*needs.preferred, *needs.requisite]
    if not topologies:
        return list(pools)
    found = list[_Pool]()
    for topology in topologies:
        found += [pool for pool in pools if pool not in found and _reached(pool, topology)]
    return found


def _reached(pool: _Pool, topology: csi_pb2.Topology) -> bool:
    return keys_of(pool.segments, topology.segments) is not None


def _place(home: Place, pool: str) -> Place:
    try:
        return check_place(Place(home.cluster, pool, home.namespace))
    except InvalidRequest as error:
        raise InvalidRequest(f"parameters.{PARAMETER}", pool, error.why) from error


def _words(segments: Segments) -> str:
    return ", ".join(f"{label}={value}" for label, value in segments.items()) or "everywhere"
