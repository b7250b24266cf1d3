"""The Cinder store against a real Cinder, without Kubernetes. About 40 s. As users of Keystone's: test_cinder_keystone."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from provisioner.cinder.api import Api, Clouds
from provisioner.cinder.cloud import POOL, CloudConfig
from provisioner.cinder.errors import Failed
from provisioner.cinder.offering import GIB, Offering
from provisioner.cinder.store import CinderStore
from provisioner.core.errors import AlreadyExists, HasDependants, InUse, InvalidRequest, NotFound, OutOfSpace
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import CreateRequest, SizeRange
from provisioner.core.volumes import Volumes
from tests.harness.ceph import Ceph
from tests.harness.cinder import Cinder

PLACE = Place("c", POOL)


@dataclass
class Process:
    """A store as one process has it."""

    config: CloudConfig
    store: CinderStore = field(init=False)
    volumes: Volumes = field(init=False)

    def __post_init__(self) -> None:
        self.store = CinderStore(Clouds(lambda: {"c": self.config}))
        self.volumes = Volumes(self.store)

    def request(self, name: str, size: int = GIB, volume_type: str = "rbd") -> CreateRequest:
        labels = {"provisioner": "tests", "claim-uid": name}
        return CreateRequest(name, PLACE, SizeRange(size), Offering(type=volume_type), labels)


class Killed(BaseException):
    """The process ends here."""


class DyingApi(Api):
    """Ends its process after so many calls that change something were acted on."""

    def __init__(self, config: CloudConfig, lives: int) -> None:
        super().__init__(config)
        self.lives = lives

    def _call(self, method: str, path: str, doing: str, **options: Any) -> Any:
        answer = super()._call(method, path, doing, **options)
        if method != "GET":
            self.lives -= 1
            if not self.lives:
                raise Killed(doing)
        return answer


class DyingClouds(Clouds):
    """One such door."""

    def __init__(self, config: CloudConfig, lives: int) -> None:
        super().__init__(lambda: {"c": config})
        self._dying = DyingApi(config, lives)

    def api(self, name: str) -> Api:
        return self._dying


def dying(process: Process, lives: int) -> Process:
    """A process that ends after so many changes."""
    made = Process(process.config)
    made.store = CinderStore(DyingClouds(process.config, lives))
    made.volumes = Volumes(made.store)
    return made


@pytest.fixture
def process(cinder: Cinder) -> Process:
    """Knows the Cinder by its door without Keystone."""
    return Process(CloudConfig("c", endpoint=cinder.endpoint))


@pytest.fixture
def name(cinder: Cinder) -> Iterator[str]:
    """A name of this test's own; whatever bears it at the end is taken away."""
    made = f"pvc-{uuid.uuid4()}"
    yield made
    for record in cinder.named(made):
        cinder.remove(record["id"])


def test_a_request_repeated_by_another_process_finds_the_same_volume(process: Process, name: str) -> None:
    made = process.volumes.create(process.request(name))
    assert Process(process.config).volumes.create(process.request(name)) == made
    with pytest.raises(AlreadyExists, match="type is 'rbd', asked for 'iscsi'"):
        Process(process.config).volumes.create(process.request(name, volume_type="iscsi"))


def test_of_a_create_that_came_twice_one_volume_stays(process: Process, cinder: Cinder, name: str) -> None:
    first = process.volumes.create(process.request(name))
    noted = cinder.named(name)[0]["metadata"]
    cinder.make_volume(name, metadata=noted, volume_type="rbd")
    again = Process(process.config).volumes.create(process.request(name))
    assert again.image_id == first.image_id
    assert [record["id"] for record in cinder.named(name)] == [first.image_id]


def test_deleting_is_fine_wherever_killed_processes_left_off(process: Process, cinder: Cinder, ceph: Ceph, name: str) -> None:
    made = process.volumes.create(process.request(name))
    cinder.act(made.image_id, "os-reserve")
    process.volumes.delete(made.id, None, made.image_id)
    process.volumes.delete(made.id, None, made.image_id)
    cinder.wait_nothing_left(ceph, name)


def test_connecting_goes_on_from_a_reservation_and_gives_the_same_again(process: Process, cinder: Cinder, name: str) -> None:
    made = process.volumes.create(process.request(name))
    cinder.act(made.image_id, "os-reserve")
    connection = process.store.connect(made)
    assert connection.kind == "rbd"
    assert process.store.connect(made) == connection
    assert process.volumes.get(made.id).published
    assert [each["host_name"] for each in cinder.named(name)[0]["attachments"]] == ["ceph-provisioner"]


def test_a_volume_that_somebody_else_attached_is_neither_connected_nor_deleted(
    process: Process, cinder: Cinder, name: str
) -> None:
    made = process.volumes.create(process.request(name))
    cinder.act(made.image_id, "os-attach", mountpoint="/dev/vdb", host_name="another", mode="rw")
    with pytest.raises(InUse, match="another"):
        process.store.connect(made)
    with pytest.raises(InUse, match="another"):
        process.volumes.delete(made.id)
    assert cinder.named(name)[0]["status"] == "in-use"


def test_a_volume_with_a_snapshot_is_not_deleted(process: Process, cinder: Cinder, name: str) -> None:
    made = process.volumes.create(process.request(name))
    taken = cinder.take_snapshot(made.image_id, "kept")
    with pytest.raises(HasDependants, match="kept"):
        process.volumes.delete(made.id)
    cinder.remove_snapshot(taken)
    process.volumes.delete(made.id)


def test_more_than_the_quota_is_refused_with_cinders_words(process: Process, name: str, cinder: Cinder) -> None:
    with pytest.raises(OutOfSpace, match=r"exceeds allowed gigabytes quota.*\(size: 5000 GiB\)"):
        process.volumes.create(process.request(name, 5000 * GIB))
    assert cinder.named(name) == []


def test_a_volume_type_that_there_isn_t_is_named(process: Process, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"parameters.type 'gold': .*gold"):
        process.volumes.create(process.request(name, volume_type="gold"))


def test_a_zone_that_there_isn_t_is_named(process: Process, cinder: Cinder, name: str) -> None:
    wanted = replace(process.request(name), layout=Offering(type="rbd", zone="mars"))
    with pytest.raises(InvalidRequest, match=r"parameters.availability 'mars': .*mars"):
        process.volumes.create(wanted)
    assert cinder.named(name) == []


def test_what_no_backend_can_make_is_told_with_the_reason_and_leaves_nothing(process: Process, cinder: Cinder, name: str) -> None:
    cinder.ensure_type("nowhere", volume_backend_name="there is none")
    with pytest.raises(Failed, match=r"Cinder could not make volume .*schedule allocate volume"):
        process.volumes.create(process.request(name, volume_type="nowhere"))
    assert cinder.named(name) == []


def test_growing_and_listing_tell_what_cinder_made(process: Process, name: str) -> None:
    made = process.volumes.create(process.request(name))
    process.store.connect(made)
    assert process.volumes.expand(made.id, SizeRange(GIB + 1)).size == 2 * GIB
    (listed,) = [each for each in process.volumes.volumes(PLACE) if each.name == name]
    assert (listed.size, listed.published, listed.labels["claim-uid"]) == (2 * GIB, True, name)
    assert 0 < process.volumes.capacity(PLACE).available <= 1000 * GIB


def test_what_is_not_there_is_not_found(process: Process) -> None:
    with pytest.raises(NotFound):
        process.volumes.get(VolumeId(PLACE, "pvc-never"))


@pytest.mark.parametrize(("lives", "step"), enumerate(("making", "reserving", "initialize_connection", "attaching"), 1))
def test_a_kill_on_the_way_up_neither_leaks_nor_doubles(
    process: Process, cinder: Cinder, name: str, lives: int, step: str
) -> None:
    mortal = dying(process, lives)
    with pytest.raises(Killed, match=step):
        mortal.store.connect(mortal.volumes.create(mortal.request(name)))
    again = Process(process.config)
    made = again.volumes.create(again.request(name))
    assert again.store.connect(made).kind == "rbd"
    (record,) = cinder.named(name)
    assert (record["status"], len(record["attachments"])) == ("in-use", 1)


def test_a_kill_while_it_grows_lets_the_next_try_find_it_grown(process: Process, name: str) -> None:
    made = process.volumes.create(process.request(name))
    process.store.connect(made)
    with pytest.raises(Killed, match="growing"):
        dying(process, 1).volumes.expand(made.id, SizeRange(2 * GIB))
    assert Process(process.config).volumes.expand(made.id, SizeRange(2 * GIB)).size == 2 * GIB


@pytest.mark.parametrize(("lives", "step"), enumerate(("detaching", "terminate_connection", "unreserving", "deleting"), 1))
def test_a_kill_on_the_way_down_leaves_a_way_to_nothing(
    process: Process, cinder: Cinder, ceph: Ceph, name: str, lives: int, step: str
) -> None:
    made = process.volumes.create(process.request(name))
    process.store.connect(made)
    with pytest.raises(Killed, match=step):
        dying(process, lives).volumes.delete(made.id, None, made.image_id)
    process.volumes.delete(made.id, None, made.image_id)
    cinder.wait_nothing_left(ceph, name)
