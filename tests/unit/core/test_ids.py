"""Names and ids: pure functions with one answer each. Takes a second or two."""

import contextlib
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioner.core.errors import InvalidRequest, NotFound
from provisioner.core.ids import HASHED, ID_BYTES, RESERVED, Place, VolumeId, check_place, image_name

PLACE = Place("dev", "rbd")
LONGEST_SNAPSHOT_PART = 48

parts = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/@\x7f", min_codepoint=32), min_size=1, max_size=60
)
places = st.builds(Place, parts, parts, st.one_of(st.just(""), parts))
plain_names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,40}\Z").filter(lambda name: not name.startswith(RESERVED))


@given(places, parts)
def test_an_id_reads_back_as_itself(place: Place, image: str) -> None:
    written = VolumeId(place, image)
    assert VolumeId.parse(str(written)) == written


@given(places, parts, places, parts)
def test_two_volumes_never_share_an_id(place: Place, image: str, other_place: Place, other_image: str) -> None:
    one, other = VolumeId(place, image), VolumeId(other_place, other_image)
    assume(one != other)
    assert str(one) != str(other)


@given(st.text())
def test_any_text_either_names_a_volume_or_nothing(text: str) -> None:
    with contextlib.suppress(NotFound):
        assert str(VolumeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "dev",
        "dev/rbd",
        "dev/rbd/",
        "/rbd/image",
        "dev//image",
        "dev/rbd//image",
        "dev/rbd/ns/image/more",
        "dev/rbd/image@snapshot",
        "dev/rbd/im\nage",
        "dev/rbd/im\x00age",
        "dev/rbd/\udc80",
        "dev/rbd/" + 2000 * "x",
        "dev/rbd/" + 500 * "\N{SNOWMAN}",
    ],
)
def test_text_that_can_name_nothing_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        VolumeId.parse(text)


def test_an_id_with_dots_is_read_whole() -> None:
    assert VolumeId.parse("a.b/c.d/e.f/g.h") == VolumeId(Place("a.b", "c.d", "e.f"), "g.h")


@given(plain_names)
def test_a_plain_name_is_the_image_s_name(name: str) -> None:
    assert image_name(PLACE, name) == name


@given(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60))
def test_every_name_gives_an_image_whose_ids_fit_and_read_back(name: str) -> None:
    volume = VolumeId(PLACE, image_name(PLACE, name))
    assert len(str(volume).encode()) + LONGEST_SNAPSHOT_PART <= ID_BYTES
    assert VolumeId.parse(str(volume)) == volume


@given(
    st.lists(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60), unique=True, min_size=2, max_size=20)
)
def test_different_names_never_share_an_image(names: list[str]) -> None:
    assert len({image_name(PLACE, name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b", "a@b", ".hidden", "-rf", "_x", "a b", "é", "a\nb", "a\x00b", "ns/x@s", "rbd_id.x y", "😀"]
)
def test_a_hostile_name_is_hashed(name: str) -> None:
    made = image_name(PLACE, name)
    assert made.startswith(HASHED)
    assert set(made.removeprefix(HASHED)) <= set(string.hexdigits)


@pytest.mark.parametrize("prefix", RESERVED)
def test_a_name_with_a_prefix_of_ours_is_hashed(prefix: str) -> None:
    assert image_name(PLACE, prefix + "x") != prefix + "x"


def test_nobody_can_ask_for_the_hashed_name_of_another() -> None:
    hashed = image_name(PLACE, "a/b")
    assert image_name(PLACE, hashed) != hashed


def test_the_longest_plain_name_leaves_room_for_snapshot_ids() -> None:
    room = ID_BYTES - LONGEST_SNAPSHOT_PART - len("dev/rbd/")
    assert image_name(PLACE, room * "n") == room * "n"
    assert image_name(PLACE, (room + 1) * "n").startswith(HASHED)


@pytest.mark.parametrize("name", ["", "\ud800", 257 * "n", 129 * "é"])
def test_a_name_that_is_none_is_refused_with_the_field(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        image_name(PLACE, name)
    assert refused.value.field == "name"


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (Place("", "rbd"), "clusterID"),
        (Place("a/b", "rbd"), "clusterID"),
        (Place("dev", ""), "pool"),
        (Place("dev", "r@d"), "pool"),
        (Place("dev", "r\nd"), "pool"),
        (Place("dev", "rbd", "a/b"), "radosNamespace"),
        (Place("dev", 100 * "p"), "pool"),
        (Place("dev", "rbd", 40 * "n"), "pool"),
    ],
)
def test_a_place_no_id_can_name_is_refused_with_the_field(place: Place, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_place(place)
    assert refused.value.field == field


def test_a_place_that_ids_can_name_is_accepted() -> None:
    assert check_place(Place("dev", "rbd", "team-a")) == Place("dev", "rbd", "team-a")
