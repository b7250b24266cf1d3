"""Each step goes to the store that knows the place."""

from typing import cast

import pytest

from provisioner.core.by_cluster import by_cluster
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Layout, Volume, Wreck
from provisioner.core.ports import VolumeStore


class Echo:
    """Answers every step with its own name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, step: str) -> object:
        return lambda *_: self.name


STORE = by_cluster(cast(VolumeStore, Echo("ceph")), cast(VolumeStore, Echo("cinder")), lambda: ["openstack"])


@pytest.mark.parametrize(("cluster", "answers"), [("dev", "ceph"), ("openstack", "cinder")])
def test_by_whatever_the_step_is_about(cluster: str, answers: str) -> None:
    place = Place(cluster, "p")
    volume = VolumeId(place, "v")
    whole = Volume(volume, "1", "v", 1, {}, {}, "")
    assert STORE.find(volume, None) == answers
    assert STORE.make(Blueprint(volume, "v", 1, Layout(), {}), None) == answers
    assert STORE.salvage(Wreck(volume, "1", dying=True), None) == answers  # type: ignore[func-returns-value]
    assert STORE.resize(whole, 2, None) == answers  # type: ignore[comparison-overlap]
    assert STORE.page(place, "", 1, None) == answers
    assert STORE.monitors(cluster, None) == answers
