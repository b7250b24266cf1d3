"""What rbd-nbd is told, and its devices told apart by their cookies. Takes no time."""

from pathlib import Path

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Opening
from provisioner.host.devices import nbd
from provisioner.host.ports import Attachment

VOLUME = VolumeId(Place("dev", "rbd", "space"), "pvc-1")
IMAGE = Opening(VOLUME, "fsid", "1f", 1 << 20, ("10.0.0.1:6789",), Credentials("u", "U0VDUkVU"))


def test_the_words_name_the_image_and_its_cookie_and_never_the_key() -> None:
    words = nbd.command(Attachment(IMAGE), None)
    assert words[-1] == "rbd/space/pvc-1"
    assert words[words.index("--cookie") + 1] == f"cp:{VOLUME}"
    assert "map" in words
    assert "U0VDUkVU" not in " ".join(words)


def test_a_device_that_lost_its_process_is_taken_over() -> None:
    words = nbd.command(Attachment(IMAGE, read_only=True), Path("/dev/nbd3"))
    assert words[words.index("--device") + 1] == "/dev/nbd3"
    assert "attach" in words
    assert "--read-only" in words


def test_a_class_has_the_last_word_on_timeouts() -> None:
    words = nbd.command(Attachment(IMAGE, options="reattach-timeout=7,exclusive,try-netlink"), None)
    assert words[words.index("--reattach-timeout") + 1] == "7"
    assert words.count("--try-netlink") == 1
    assert "--exclusive" in words


@pytest.mark.parametrize("option", ["keyfile=/etc/passwd", "io-timeout=1 --conf", "cookie=other", "device=/dev/sda"])
def test_what_is_no_option_of_a_mapping_is_refused(option: str) -> None:
    with pytest.raises(InvalidRequest):
        nbd.command(Attachment(IMAGE, options=option), None)


def test_a_process_is_known_by_its_name_and_its_cookie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = f"cp:{VOLUME}"
    lines = {1: ["/usr/bin/rbd-nbd", "map", "--cookie", cookie], 2: ["grep", cookie], 3: ["rbd-nbd", "--cookie", f"{cookie}0"]}
    for pid, words in lines.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes("\0".join([*words, ""]).encode())
    monkeypatch.setattr("provisioner.host.processes.PROC", tmp_path)
    assert nbd.processes(cookie) == [1]
