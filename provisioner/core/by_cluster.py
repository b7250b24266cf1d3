"""Several stores behind one port: each step goes to the store that knows the place it is about."""

from collections.abc import Callable, Container
from typing import Any, cast

from provisioner.core.ids import Place
from provisioner.core.ports import VolumeStore


def by_cluster(usual: VolumeStore, other: VolumeStore, others: Callable[[], Container[str]]) -> VolumeStore:
    """A store that is `other` for the clusters that `others` names at that moment, and `usual` for the rest."""
    return cast(VolumeStore, _ByCluster(usual, other, others))


class _ByCluster:
    """Every step of the port tells its place first: as a cluster's name, a place, an id, or something that has an id."""

    def __init__(self, usual: VolumeStore, other: VolumeStore, others: Callable[[], Container[str]]) -> None:
        self._usual, self._other, self._others = usual, other, others

    def __getattr__(self, step: str) -> Callable[..., Any]:
        def forwarded(subject: Any, *rest: Any) -> Any:
            store = self._other if _cluster(subject) in self._others() else self._usual
            return getattr(store, step)(subject, *rest)

        return forwarded


def _cluster(subject: Any) -> str:
    if isinstance(subject, str):
        return subject
    place = subject if isinstance(subject, Place) else getattr(subject, "id", subject).place
    return str(place.cluster)
