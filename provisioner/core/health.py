"""What can be told of a volume from the cluster's side, without a client of it: what is known to be wrong, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from provisioner.core.errors import Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Volume

Status = Literal["DEGRADED", "INACCESSIBLE", "DATA_LOSS"]


@dataclass(frozen=True, slots=True)
class Ill:
    """One thing that is wrong, in CSI's words; `reason` is for programs, `message` for people."""

    status: Status
    reason: str
    message: str


PoolIlls = Mapping[str, Sequence[Ill]]
"""What is wrong with pools, by name."""


class HealthStore(Protocol):
    """What the use cases need."""

    def examine(self, volume: VolumeId, credentials: Credentials | None) -> tuple[Volume | None, list[Ill]]:
        """What is wrong with the image; no volume where too little of it is left. Raises NotFound where nothing says it was."""

    def pools(self, cluster: str, credentials: Credentials | None) -> PoolIlls:
        """What is wrong with the pools of a cluster."""


class Health:
    """The use cases over one store."""

    def __init__(self, store: HealthStore, answers: Callable[[str], bool] = lambda _: True) -> None:
        """`answers` tells, sooner than a call would fail, whether a cluster does."""
        self._store, self._answers = store, answers

    def of(self, volume: VolumeId, credentials: Credentials | None = None) -> list[Ill]:
        """What is wrong with a volume. Raises NotFound for what isn't one, or is being deleted."""
        cluster = volume.place.cluster
        if not self._answers(cluster):
            return [_silence(f"cluster {cluster} does not answer")]
        try:
            found, ills = self._store.examine(volume, credentials)
            return _distinct([*ills, *_of_pools(volume, found, self._store.pools(cluster, credentials))])
        except Unavailable as error:
            return [_silence(str(error))]

    def among(self, volumes: Sequence[Volume]) -> list[tuple[Volume, list[Ill]]]:
        """Those of the volumes that something is wrong with. The clusters are asked once each. Raises Unavailable."""
        pools = {cluster: self._store.pools(cluster, None) for cluster in {volume.id.place.cluster for volume in volumes}}
        found = [(volume, _distinct(_of_pools(volume.id, volume, pools[volume.id.place.cluster]))) for volume in volumes]
        return [(volume, ills) for volume, ills in found if ills]


def _silence(message: str) -> Ill:
    return Ill("INACCESSIBLE", "ClusterNotAnswering", message)


def _of_pools(volume: VolumeId, found: Volume | None, pools: PoolIlls) -> list[Ill]:
    used = {volume.place.pool, found.data_pool if found else ""}
    return [ill for pool in sorted(used) for ill in pools.get(pool, ())]


def _distinct(ills: Sequence[Ill]) -> list[Ill]:
    """One of each status and reason, as CSI wants it; the messages are joined."""
    joined: dict[tuple[str, str], Ill] = {}
    for ill in ills:
        key = (ill.status, ill.reason)
        before = joined.get(key)
        joined[key] = Ill(ill.status, ill.reason, f"{before.message}; {ill.message}") if before else ill
    return list(joined.values())
