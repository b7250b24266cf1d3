"""From where a volume can be reached: which of a class's pools suits the asker, and what is answered about it.

A pool of `topologyConstrainedPools` is reached from the segments that it names, a cluster from those that the config file
gives it; what names none is reached from everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from csi.convert import Class
from csi.pb import csi_pb2
from provisioner.core.choices import Choices, Reachable, reachable, suitable
from provisioner.core.model import Capacity, CreateRequest, Volume
from provisioner.core.topology import Segments, keys_of
from provisioner.core.volumes import Volumes

_NOTHING = Capacity(0, 0)


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
        wanted = suitable(pools, [topology.segments for topology in (*needs.preferred, *needs.requisite)])
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
        pools = [pool for pool in self._of(chosen) if not topology.segments or pool.is_reached_from(topology.segments)]
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

    def _of(self, chosen: Class) -> list[Reachable]:
        """The class's pools, in its order."""
        parameters, around = chosen.parameters, self.segments(chosen.place.cluster)
        return reachable(chosen.place, parameters.layout.data_pool, parameters.pools, around)

    def _key(self, label: str) -> str:
        return label if "/" in label else f"topology.{self.driver}/{label}"
