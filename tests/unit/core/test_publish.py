"""Handing a volume out: its user must open nothing else."""

from typing import cast

import pytest

from provisioner.core.errors import Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Grant, Volume
from provisioner.core.ports import VolumeStore
from provisioner.core.volumes import Volumes

VOLUME = Volume(VolumeId(Place("dev", "rbd"), "pvc-1"), "1a2b3c", "pvc-1", 1 << 30, {}, {}, "")


class Store:
    """Knows one volume, and which ids are like its own."""

    def __init__(self, alike: list[str]) -> None:
        self.told, self.steps = alike, list[str]()

    def alike(self, _volume: Volume, _credentials: Credentials | None) -> list[str]:
        return self.told

    def find(self, _volume: VolumeId, _credentials: Credentials | None) -> Volume:
        return VOLUME

    def discard(self, _volume: Volume, _credentials: Credentials | None) -> None:
        self.steps.append("discard")

    def grant(self, _volume: Volume, _credentials: Credentials | None) -> Grant:
        self.steps.append("grant")
        return Grant([], Credentials("cp-x", "key"))

    def mark_published(self, _volume: Volume, _credentials: Credentials | None) -> None:
        self.steps.append("mark")


def test_volume_is_marked_after_its_user_was_made() -> None:
    store = Store([])
    Volumes(cast(VolumeStore, store)).publish(VOLUME)
    assert store.steps == ["grant", "mark"]


def test_volume_whose_id_is_like_anothers_gets_no_user_and_is_made_again() -> None:
    store = Store(["1a2b3c4d"])
    with pytest.raises(Unavailable, match="1a2b3c4d"):
        Volumes(cast(VolumeStore, store)).publish(VOLUME)
    assert store.steps == ["discard"]
