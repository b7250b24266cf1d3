"""Which of Cinder's volumes bears a name, and whose an attachment is."""

from typing import Any

import pytest

from provisioner.cinder import records
from provisioner.cinder.offering import Offering
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Blueprint

PLAN = Blueprint(
    VolumeId(Place("openstack", "cinder"), "pvc-1"), "pvc-1", 1 << 30, Offering(type="fast"), {"claim": "a/" + 300 * "b"}
)


class OneAnswer:
    """A Cinder that knows these volumes."""

    def __init__(self, *volumes: dict[str, Any]) -> None:
        self.volumes = volumes

    def get(self, *_: object, **__: object) -> dict[str, Any]:
        return {"volumes": list(self.volumes)}


def record(uuid: str, created: str = "1", status: str = "available", name: str = "pvc-1", **attached: Any) -> dict[str, Any]:
    noted = {records.NAME: name}
    attachments = [{"attachment_id": "a", **attached}] if attached else []
    return {"id": uuid, "created_at": created, "status": status, "metadata": noted, "attachments": attachments, "size": 2}


@pytest.mark.parametrize(
    ("volumes", "order"),
    [
        ([record("b", "2"), record("a", "1")], ["a", "b"]),
        ([record("b", "1"), record("a", "1")], ["a", "b"]),
        ([record("a", "1"), record("b", "2", "in-use", device="/x")], ["b", "a"]),
        ([record("a", "1", "error"), record("b", "2")], ["b", "a"]),
        ([record("a", "1", "deleting"), record("b", "2", "error")], ["a", "b"]),
        ([record("a", name="pvc-2"), record("b")], ["b"]),
    ],
)
def test_of_several_the_attached_one_counts_then_whole_ones_then_the_oldest(
    volumes: list[dict[str, Any]], order: list[str]
) -> None:
    assert [found["id"] for found in records.named(OneAnswer(*volumes), "pvc-1")] == order  # type: ignore[arg-type]


def test_what_is_written_on_a_volume_is_read_back() -> None:
    noted = records.metadata(PLAN)
    volume = records.volume("openstack", {**record("u"), "metadata": noted})
    assert (volume.id, volume.image_id, volume.name, volume.size) == (PLAN.id, "u", "pvc-1", 2 << 30)
    assert volume.asked == {"type": "fast"}
    assert not volume.published
    assert all(len(value) <= 255 for value in noted.values())


def test_ours_is_the_attachment_at_our_mountpoint_and_without_a_server() -> None:
    assert records.attachment(record("u", device="/ceph-provisioner"), "ceph-provisioner") == "a"
    assert records.others(record("u", device="/dev/vdb", server_id="s"), "ceph-provisioner") == ["s"]
    assert records.attachment(record("u", device="/ceph-provisioner", server_id="s"), "ceph-provisioner") == ""


@pytest.mark.parametrize(
    ("status", "attached", "is_wreck"),
    [("error", {}, True), ("error", {"device": "/x"}, False), ("available", {}, False), ("deleting", {}, True)],
)
def test_only_what_nobody_ever_had_is_a_wreck(status: str, attached: dict[str, str], is_wreck: bool) -> None:
    assert records.is_wreck(record("u", status=status, **attached)) is is_wreck
