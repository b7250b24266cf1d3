"""Marks bind a request to one image: a copy, a garbled or another image's mark never passes. Takes a second."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.ceph import marks
from provisioner.ceph.headers import Header
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint, Layout

GIB = 1 << 30
ID = VolumeId(Place("dev", "rbd"), "pvc-1")
words = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
image_ids = st.text("0123456789abcdef", min_size=5, max_size=14)


def _header(image_id: str, metadata: dict[str, str]) -> Header:
    return Header(image_id, GIB, 22, 61, 0, False, 0, 0, -1, metadata)


def _plan(name: str = "pvc-1", labels: dict[str, str] | None = None) -> Blueprint:
    return Blueprint(ID, name, GIB, Layout(), labels or {})


@given(words.filter(bool), st.dictionaries(words, words, max_size=4), image_ids)
def test_a_mark_tells_what_was_asked(name: str, labels: dict[str, str], image_id: str) -> None:
    header = _header(image_id, marks.marks_for(_plan(name, labels), image_id))
    assert marks.is_ours(header)
    volume = marks.read_volume(ID, header)
    assert (volume.name, volume.labels, volume.asked) == (name, labels, Layout().described())
    assert (volume.image_id, volume.size, volume.published) == (image_id, GIB, False)


@given(image_ids, image_ids)
def test_a_mark_that_a_clone_inherited_is_not_its_own(image_id: str, clone: str) -> None:
    header = _header(clone, marks.marks_for(_plan(), image_id))
    assert marks.is_ours(header) == (image_id == clone)


def test_a_clone_inherits_neither_death_nor_publication() -> None:
    parent = {**marks.marks_for(_plan(), "10ab"), marks.DELETING: "10ab", marks.PUBLISHED: "10ab"}
    own = marks.marks_for(_plan("clone"), "10cd")
    clone = _header("10cd", {**parent, **own})
    assert marks.is_ours(clone)
    assert not marks.is_dying(clone)
    assert not marks.read_volume(ID, clone).published


@pytest.mark.parametrize("key", [marks.REQUEST, marks.FINGERPRINT])
@pytest.mark.parametrize("value", ["", "{}", "garbage", None])
def test_a_garbled_mark_is_none(key: str, value: str | None) -> None:
    metadata: dict[str, str | None] = {**marks.marks_for(_plan(), "10ab"), key: value}
    kept = {name: text for name, text in metadata.items() if text is not None}
    assert not marks.is_ours(_header("10ab", kept))


def test_a_true_fingerprint_of_an_unreadable_request_is_no_mark() -> None:
    metadata = {marks.REQUEST: "{", marks.FINGERPRINT: marks.fingerprint("{", "10ab"), marks.DELETING: "10ab"}
    assert not marks.is_ours(_header("10ab", metadata))
    assert not marks.is_dying(_header("10ab", metadata))


def test_a_later_version_s_words_beside_ours_are_read_over() -> None:
    request = msgspec.json.encode({"name": "pvc-1", "layout": {}, "source": "snap"}).decode()
    header = _header("10ab", {marks.REQUEST: request, marks.FINGERPRINT: marks.fingerprint(request, "10ab")})
    assert marks.read_volume(ID, header).name == "pvc-1"


@pytest.mark.parametrize("labels", ["", "[]", "{", '{"a": 1}'])
def test_labels_that_were_edited_by_hand_do_not_hide_the_volume(labels: str) -> None:
    header = _header("10ab", {**marks.marks_for(_plan(), "10ab"), marks.LABELS: labels})
    assert marks.read_volume(ID, header).labels == {}


def test_death_without_a_mark_of_ours_counts_for_nothing() -> None:
    assert not marks.is_dying(_header("10ab", {marks.DELETING: "10ab"}))


def test_marks_of_death_make_a_killed_create_ours_and_dying_at_once() -> None:
    assert marks.is_dying(_header("10ab", marks.marks_of_death("pvc-1", "10ab")))


def test_a_published_volume_says_so() -> None:
    header = _header("10ab", {**marks.marks_for(_plan(), "10ab"), marks.PUBLISHED: "10ab"})
    assert replace(marks.read_volume(ID, header), published=False) == marks.read_volume(
        ID, _header("10ab", {key: value for key, value in header.metadata.items() if key != marks.PUBLISHED})
    )
    assert marks.read_volume(ID, header).published
