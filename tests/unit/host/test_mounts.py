"""Mountinfo as the kernel writes it, and paths that are mounted on. Takes no time."""

from pathlib import Path

import pytest

from provisioner.core.errors import InvalidRequest
from provisioner.host.mounts import check_path, parse_mountinfo

LINES = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
40 22 7:3 / /var/lib/a\040b\134c rw,noatime shared:2 master:1 - xfs /dev/loop3 rw,nouuid
41 22 0:5 /loop3 /targets/dev ro,relatime - devtmpfs devtmpfs rw,size=1k
42 22 0:60 / /btrfs rw - btrfs /dev/rbd0 ro
"""


def test_a_line_of_mountinfo_becomes_a_mount() -> None:
    root, spaced, node, btrfs = parse_mountinfo(LINES)
    assert (root.target, root.device, root.fs_type, root.source) == ("/", (254, 0), "ext4", "/dev/root")
    assert spaced.target == "/var/lib/a b\\c"
    assert spaced.options == {"rw", "noatime"}
    assert spaced.super_options == {"rw", "nouuid"}
    assert (node.root, node.read_only, spaced.read_only) == ("/loop3", True, False)
    assert btrfs.read_only


@pytest.mark.parametrize("text", ["", "here", "./here", "/a/../b", "/a\nb", "/" + "x" * 256, "/x" * 2100])
def test_a_crooked_path_names_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_path("target_path", text)
    assert caught.value.field == "target_path"


def test_a_link_is_refused_and_a_linked_parent_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InvalidRequest, match="is a link"):
        check_path("target_path", str(tmp_path / "link"))
    assert check_path("target_path", str(tmp_path / "link" / "new")) == tmp_path.resolve() / "real" / "new"
