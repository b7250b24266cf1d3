"""Options for devices, file systems and daemons, read and written. Takes no time."""

import json
from pathlib import Path

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.core.ids import Place, VolumeId
from provisioner.core.mapping import options_for
from provisioner.core.model import Credentials, Opening
from provisioner.host.blocks import tag
from provisioner.host.devices.fuse import daemon_command
from provisioner.host.filesystem import mount_options, options_of
from provisioner.host.ports import Attachment

VOLUME = VolumeId(Place("dev", "rbd", "space"), "pvc-1")


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("", "rbd", ""),
        ("lock_on_read,queue_depth=1024", "rbd", "lock_on_read,queue_depth=1024"),
        ("lock_on_read,queue_depth=1024", "rbd-nbd", "lock_on_read,queue_depth=1024"),
        ("krbd:lock_on_read;nbd:try-netlink", "rbd", "lock_on_read"),
        ("krbd:lock_on_read;nbd:try-netlink", "rbd-nbd", "try-netlink"),
        ("krbd:lock_on_read;nbd:try-netlink", "fuse", ""),
        ("crush_location=rack:a|host:b", "rbd", "crush_location=rack:a|host:b"),
    ],
)
def test_each_kind_of_device_finds_its_options(text: str, kind: str, options: str) -> None:
    assert options_for(kind, text) == options


def test_options_for_an_unknown_kind_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="iscsi"):
        options_for("rbd", "iscsi:a;krbd:b")


def test_mkfs_options_are_split_as_by_a_shell_and_name_no_files() -> None:
    assert options_of("-L 'a b' -m0") == ["-L", "a b", "-m0"]
    for text in ("-d /etc/shadow", "'open"):
        with pytest.raises(InvalidRequest):
            options_of(text)


def test_what_only_reads_replays_no_journal() -> None:
    assert mount_options("ext4", ["noatime"], read_only=True, untouched=True) == ["ro", "noload", "noatime"]
    assert mount_options("xfs", [], read_only=False, untouched=False) == ["nouuid"]


def test_the_daemons_command_line_names_the_image_and_no_key() -> None:
    image = Opening(VOLUME, "f", "1f", 1 << 20, ("10.0.0.1:6789", "[fd00::1]:6789"), Credentials("u", "SECRET=="))
    words = daemon_command(Attachment(image, read_only=True), Path("/run/x/image"), "/proc/self/fd/9")
    assert "SECRET" not in " ".join(words)
    assert words.index("--monitor") < words.index("--blockdev"), "one that still opens its image is found by its socket"
    node = json.loads(words[words.index("--blockdev") + 1])
    assert (node["pool"], node["namespace"], node["image"], node["read-only"]) == ("rbd", "space", "pvc-1", True)
    assert node["server"] == [{"host": "10.0.0.1", "port": "6789"}, {"host": "fd00::1", "port": "6789"}]
    assert not json.loads(words[words.index("--export") + 1])["writable"]


def test_a_volumes_tag_is_short_and_its_own() -> None:
    assert len(tag(VOLUME)) == 35
    assert tag(VOLUME) != tag(VolumeId(Place("dev", "rbd"), "pvc-1"))
