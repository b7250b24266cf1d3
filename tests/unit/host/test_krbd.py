"""Options of a kernel mapping, and devices told apart by what sysfs says of them. Takes no time."""

import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from provisioner.core.errors import InUse, InvalidRequest, Unavailable
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Opening
from provisioner.host.blocks import tag
from provisioner.host.commands import Commands
from provisioner.host.devices import krbd
from provisioner.host.devices.krbd import KrbdDevices, map_options
from provisioner.host.ports import Attachment

VOLUME = VolumeId(Place("dev", "rbd", "space"), "pvc-1")
V1, V2 = ("10.0.0.1:6789",), ("10.0.0.1:3300", "10.0.0.2:3300")


def opening(monitors: tuple[str, ...] = V1) -> Opening:
    return Opening(VOLUME, "fsid", "1f", 1 << 20, monitors, Credentials("u", "U0VDUkVU"))


def mapping(bus: Path, number: int, **told: str) -> Path:
    entry = bus / "devices" / str(number)
    entry.mkdir(parents=True)
    for name, text in told.items():
        (entry / name).write_text(text + "\n")
    return entry


def test_a_mapping_names_its_user_its_key_and_its_namespace_and_never_the_key_itself() -> None:
    options = map_options(Attachment(opening()))
    assert options.split(",")[:3] == ["name=u", f"key={tag(VOLUME)}", "_pool_ns=space"]
    assert "U0VDUkVU" not in options


def test_what_only_reads_is_mapped_so() -> None:
    assert "ro" in map_options(Attachment(opening(), read_only=True)).split(",")


@pytest.mark.parametrize(("monitors", "asked", "mode"), [(V1, "", ""), (V2, "", "prefer-crc"), (V2, "ms_mode=secure", "secure")])
def test_monitors_of_the_second_protocol_are_spoken_to_in_it(monitors: tuple[str, ...], asked: str, mode: str) -> None:
    options = dict(o.partition("=")[::2] for o in map_options(Attachment(opening(monitors), options=asked)).split(","))
    assert options.get("ms_mode", "") == mode


@pytest.mark.parametrize("option", ["secret=x", "name=admin", "key=other", "_pool_ns=else", "a b", "x\ny"])
def test_what_is_ours_to_say_is_refused(option: str) -> None:
    with pytest.raises(InvalidRequest):
        map_options(Attachment(opening(), options=f"lock_on_read,{option}"))


def test_a_node_that_knows_where_it_is_reads_near() -> None:
    assert map_options(Attachment(opening()), "read_from_replica=localize").endswith(",read_from_replica=localize")


def test_a_mapping_is_found_by_its_tag_and_no_other(tmp_path: Path) -> None:
    devices = KrbdDevices(Commands(), bus=tmp_path)
    assert devices.find(VOLUME) is None
    mapping(tmp_path, 3, config_info="10.0.0.1:6789 name=u,key=somebody rbd pvc-1 -")
    mapping(tmp_path, 7, config_info=f"10.0.0.1:6789 name=u,key={tag(VOLUME)},ro rbd pvc-1 -", client_addr="10.0.0.9:0/77")
    assert devices.find(VOLUME) == Path("/dev/rbd7")
    assert devices.address(VOLUME) == "10.0.0.9:0/77"


def test_a_mapping_to_be_forced_says_so_in_the_name_of_its_key_and_is_found_all_the_same(tmp_path: Path) -> None:
    options = map_options(Attachment(opening(), forced=True))
    assert f"key={tag(VOLUME)}.force" in options.split(",")
    mapping(tmp_path, 5, config_info=f"10.0.0.1:6789 {options} rbd pvc-1 -")
    assert KrbdDevices(Commands(), bus=tmp_path).find(VOLUME) == Path("/dev/rbd5")


def test_an_image_that_was_mapped_by_hand_is_in_use(tmp_path: Path) -> None:
    told = {"cluster_fsid": "fsid", "pool": "rbd", "pool_ns": "space", "name": "pvc-1", "current_snap": "-"}
    mapping(tmp_path, 4, config_info="10.0.0.1:6789 name=admin rbd pvc-1 -", **told)
    with pytest.raises(InUse, match="/dev/rbd4"):
        KrbdDevices(Commands(), bus=tmp_path).attach(Attachment(opening()))


def test_a_client_apart_shares_nothing() -> None:
    apart = KrbdDevices(Commands()).apart(Attachment(opening(), options="lock_on_read"))
    assert apart.options == "lock_on_read,noshare"


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bus that takes no word, as a kernel's that waits for a cluster; deadlines of a moment."""
    for seconds in ("_MAP_SECONDS", "_UNMAP_SECONDS"):
        monkeypatch.setattr(krbd, seconds, 0.3)
    monkeypatch.setattr(krbd, "offered_key", lambda *_: nullcontext())  # not every machine that runs tests lets keys in
    doors = [tmp_path / "add_single_major", tmp_path / "remove_single_major"]
    for door in doors:
        os.mkfifo(door)
    yield tmp_path
    for door in doors:  # whoever waits there may go
        os.close(os.open(door, os.O_RDONLY | os.O_NONBLOCK))


def test_a_map_and_an_unmap_that_hang_are_unavailable_in_time_and_not_begun_a_second_time(stuck: Path) -> None:
    devices, before = KrbdDevices(Commands(), bus=stuck), threading.active_count()
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"^mapping .* did not come to an end"):
            devices.attach(Attachment(opening()))
    mapping(stuck, 7, config_info=f"10.0.0.1:6789 name=u,key={tag(VOLUME)} rbd pvc-1 -")
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"^unmapping .* did not come to an end"):
            devices.detach(VOLUME)
    assert threading.active_count() == before + 2
