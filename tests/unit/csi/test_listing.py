"""The walk through places, page by page, over volumes held in memory."""

import string
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi.listing import BadToken, Listing
from provisioner.core.errors import Denied, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Page, Volume

_IDS = st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), unique=True, max_size=12)
_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=3)
_PLACES = st.builds(Place, st.sampled_from(["a", "b"]), _NAMES, st.sampled_from(["", "ns"]))


@dataclass
class Shelf:
    """Volumes by place, told in order of internal id, at most `most` names at once; strangers count as names."""

    ids: dict[Place, list[str]]
    strangers: set[str] = field(default_factory=set)
    denied: set[Place] = field(default_factory=set)
    most: int = 3

    def read_page(self, place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        if place in self.denied:
            raise Denied(str(place))
        names = [name for name in sorted(self.ids[place]) if name > after][: min(limit, self.most)]
        volumes = [volume(place, name) for name in names if name not in self.strangers]
        return Page(volumes, names[-1] if len(names) == min(limit, self.most) else "")

    def listing(self) -> Listing:
        clusters = sorted({place.cluster for place in self.ids})
        return Listing(lambda: clusters, lambda name: [place for place in self.ids if place.cluster == name], self.read_page)


def volume(place: Place, name: str) -> Volume:
    return Volume(VolumeId(place, f"pvc-{name}"), name, f"pvc-{name}", 1, {}, {}, "")


def walk(listing: Listing, entries: int, token: str = "") -> list[Volume]:
    seen: list[Volume] = []
    while True:
        page, token = listing.page(token, entries)
        assert len(page) <= entries or not entries
        seen += page
        if not token:
            return seen


@given(st.dictionaries(_PLACES, _IDS, max_size=5), st.integers(0, 5), st.integers(1, 4), st.data())
def test_every_volume_is_told_once_in_pages_of_any_size(
    ids: dict[Place, list[str]], entries: int, most: int, data: st.DataObject
) -> None:
    every = sorted({name for names in ids.values() for name in names})
    strangers = set(data.draw(st.lists(st.sampled_from(every)))) if every else set()
    told = walk(Shelf(ids, strangers, most=most).listing(), entries)
    expected = {volume(place, name).id for place, names in ids.items() for name in names if name not in strangers}
    assert len(told) == len(expected)
    assert {each.id for each in told} == expected


@given(st.dictionaries(_PLACES, _IDS, min_size=1, max_size=4), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_what_stays_is_told_once_whatever_comes_and_goes(ids: dict[Place, list[str]], entries: int, data: st.DataObject) -> None:
    shelf = Shelf({place: list(names) for place, names in ids.items()})
    gone: set[VolumeId] = set()
    told, token = shelf.listing().page("", entries)
    told = list(told)
    while token:
        place = data.draw(st.sampled_from(sorted(shelf.ids, key=str)))
        if shelf.ids[place] and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(shelf.ids[place]))
            shelf.ids[place].remove(name)
            gone.add(volume(place, name).id)
        elif (name := data.draw(st.text("0123456789abcdef", min_size=4, max_size=4))) not in shelf.ids[place]:
            shelf.ids[place].append(name)
        page, token = shelf.listing().page(token, entries)
        told += page
    seen = [each.id for each in told]
    stayed = {volume(place, name).id for place, names in ids.items() for name in names} - gone
    assert len(seen) == len(set(seen)) or gone
    assert [each for each in stayed if seen.count(each) != 1] == []


@given(st.text())
def test_a_token_that_no_listing_gave_is_refused(token: str) -> None:
    if not token:
        return
    with pytest.raises(BadToken):
        Shelf({Place("a", "p"): ["1"]}).listing().page(token, 1)


def test_a_place_that_may_not_be_read_does_not_hide_the_others() -> None:
    open_, shut = Place("a", "open"), Place("a", "shut")
    assert [each.id.place for each in walk(Shelf({open_: ["1"], shut: ["2"]}, denied={shut}).listing(), 0)] == [open_]


def test_where_nothing_may_be_read_the_answer_is_not_that_nothing_is_there() -> None:
    place = Place("a", "shut")
    with pytest.raises(Denied):
        Shelf({place: ["1"]}, denied={place}).listing().page("", 0)


def test_a_place_that_does_not_answer_ends_the_listing() -> None:
    def stalled(place: Place, after: str, limit: int, credentials: Credentials | None) -> Page:
        raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        Listing(lambda: ["a"], lambda name: [Place("a", "p")], stalled).page("", 0)
