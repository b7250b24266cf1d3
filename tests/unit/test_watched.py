"""Files that are replaced while we run. Takes no time."""

import os
from pathlib import Path

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.watched import WatchedFile, stamp


def _words(path: Path) -> list[str]:
    words = path.read_text().split() if path.exists() else []
    if "bad" in words:
        raise InvalidRequest("--words", path, "is bad")
    return words


def _write(path: Path, text: str) -> None:
    """Replace the file as a person's editor and a kubelet do: the old one's inode lives on until the new one is there."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("one")
    return path


def test_a_file_is_parsed_once_until_it_changes(path: Path) -> None:
    parsed = list[Path]()
    file = WatchedFile(path, lambda each: parsed.append(each) or _words(each), " ".join)
    assert (file.now(), file.now(), len(parsed)) == (["one"], ["one"], 1)
    _write(path, "two")
    assert (file.now(), file.now(), len(parsed)) == (["two"], ["two"], 2)


def test_a_file_that_turns_bad_is_told_once_and_the_last_good_one_stays(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = WatchedFile(path, _words, " ".join)
    _write(path, "bad")
    assert (file.now(), file.now()) == (["one"], ["one"])
    assert [each.levelname for each in caplog.records] == ["ERROR"]


def test_a_file_that_can_t_be_used_at_first_is_refused(path: Path) -> None:
    path.write_text("bad")
    with pytest.raises(InvalidRequest):
        WatchedFile(path, _words, " ".join)


def test_a_stamp_tells_one_content_from_another_and_from_none(path: Path) -> None:
    first = stamp(path)
    _write(path, "three")
    assert len({first, stamp(path), stamp(path.with_name("none"))}) == 3
