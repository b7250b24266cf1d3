"""Settling a name: what the dead left is cleared, what somebody works at or owns is left alone."""

from typing import cast

import pytest

from provisioner.core.errors import AlreadyExists, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Found, Stranger, Volume, Wreck
from provisioner.core.ports import VolumeStore
from provisioner.core.volumes import Volumes

NAME = VolumeId(Place("dev", "rbd"), "pvc-1")
VOLUME = Volume(NAME, "1a2b3c", "pvc-1", 1 << 30, {}, {}, "")
STRANGER, WRECK = Stranger(NAME, "1a2b3c"), Wreck(NAME, "1a2b3c", dying=True)


class Store:
    """Finds one thing after the other under the name."""

    def __init__(self, *lies: Found, error: Exception | None = None) -> None:
        self.lies, self.error, self.steps = list(lies), error, list[str]()

    def find(self, _volume: VolumeId, _credentials: Credentials | None) -> Found:
        return self.lies.pop(0)

    def condemn(self, _stranger: Stranger, _credentials: Credentials | None) -> None:
        self._step("condemn")

    def salvage(self, _wreck: Wreck, _credentials: Credentials | None) -> None:
        self._step("salvage")

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.error is not None:
            raise self.error


def settle(store: Store) -> Volume | None:
    return Volumes(cast(VolumeStore, store)).settle(NAME)


def test_a_volume_is_given_as_it_is() -> None:
    assert settle(Store(VOLUME)) == VOLUME


def test_an_image_without_a_mark_is_taken_away_in_both_steps() -> None:
    store = Store(STRANGER, WRECK, None)
    assert settle(store) is None
    assert store.steps == ["condemn", "salvage"]


def test_a_volume_that_came_to_be_meanwhile_is_given() -> None:
    store = Store(STRANGER, VOLUME)
    assert settle(store) == VOLUME
    assert store.steps == ["condemn"]


def test_a_volume_that_lacked_but_the_last_step_of_its_renaming_is_finished_and_given() -> None:
    store = Store(Wreck(NAME, "1a2b3c", dying=False), VOLUME)
    assert settle(store) == VOLUME
    assert store.steps == ["salvage"]


def test_nobody_hears_that_nothing_is_there_while_the_name_keeps_changing() -> None:
    with pytest.raises(Unavailable, match="kept changing"):
        settle(Store(*[WRECK] * 9))


def test_somebody_elses_image_stays() -> None:
    assert settle(Store(STRANGER, error=AlreadyExists("image", ["it holds data"]))) is None


def test_nobody_hears_that_nothing_is_there_while_its_author_may_be_alive() -> None:
    with pytest.raises(Unavailable):
        settle(Store(WRECK, error=Unavailable("being made")))
