"""VolumeRuntime through the socket, asked as volumepoollet asks, with `rbd` and `ceph auth` as the other side. About 12 s."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import rbd
from google.protobuf import text_format

import provisioner
from csi.pb import csi_pb2
from provisioner.iri.pb.volume.v1alpha1 import api_pb2 as pb
from tests.contract.driver import Driver, refused
from tests.contract.iri import CLASSES, GIB, LABEL, MIB, Runtime, labels, new_uid, opened, running, volume
from tests.harness.ceph import Ceph
from tests.harness.waiting import until


def purged(runtime: Runtime) -> None:
    list(runtime.store.purge(lambda: True))


def entity(found: pb.Volume) -> str:
    return f"client.{found.status.access.secret_data['userID'].decode()}"


def test_version_names_the_runtime(runtime: Runtime) -> None:
    told = runtime.stub.Version(pb.VersionRequest(version="0.1.0"), timeout=5)
    assert (told.runtime_name, told.runtime_version) == ("ceph-provisioner", provisioner.__version__)


def test_status_offers_the_classes_with_what_their_pool_holds(runtime: Runtime, ceph: Ceph) -> None:
    offered = runtime.stub.Status(pb.StatusRequest(), timeout=30).volume_class_status
    told = [{"name": c.name, "capabilities": {"tps": c.capabilities.tps, "iops": c.capabilities.iops}} for c in
            (each.volume_class for each in offered)]  # fmt: skip
    assert told == [{key: each[key] for key in ("name", "capabilities")} for each in CLASSES]
    pools = {pool["name"]: pool["stats"] for pool in ceph.command("df")["pools"]}  # type: ignore[index, call-overload]
    room = pools[ceph.pool]["max_avail"] + pools[ceph.pool]["stored"]
    assert all(abs(each.quantity - room) < 512 * MIB for each in offered)


def test_create_answers_available_with_all_that_a_client_needs(runtime: Runtime, ceph: Ceph) -> None:
    uid = new_uid()
    made = runtime.create(uid, 2 * GIB)
    assert made.metadata.id == uid
    assert made.status.state == pb.VOLUME_AVAILABLE
    assert made.status.resources.storage_bytes == ceph.info(uid)["size"] == 2 * GIB
    access = made.status.access
    assert (access.driver, access.attributes["image"]) == ("ceph", f"{ceph.pool}/{uid}")
    assert access.attributes["monitors"].split(",") == [each.removeprefix("v1:") for each in ceph.monitors]
    assert re.fullmatch("[0-9a-f]{16}", access.handle)
    assert sorted(access.secret_data) == ["userID", "userKey"]


def test_the_credentials_write_and_read_this_volume(runtime: Runtime) -> None:
    made = runtime.create(size=8 * MIB)
    data = os.urandom(MIB)
    with opened(made.status.access) as image:
        image.write(data, MIB)
    with opened(made.status.access) as image:
        assert image.read(MIB, MIB) == data


def test_the_credentials_do_not_open_another_volume(runtime: Runtime) -> None:
    mine, other = runtime.create(size=MIB), runtime.create(size=MIB)
    with pytest.raises(rbd.PermissionError), opened(mine.status.access, other.status.access.attributes["image"]):
        pass


def test_the_user_is_the_volumes_own_and_its_key_is_nowhere_else(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=MIB)
    (entry,) = ceph.command("auth get", entity=entity(made))  # type: ignore[misc]
    key = made.status.access.secret_data["userKey"].decode()
    assert entry["key"] == key
    assert made.metadata.id in entry["caps"]["osd"]
    assert key not in json.dumps(ceph.image_metadata(made.metadata.id)) + json.dumps(ceph.omap("ceph-provisioner.events"))


def test_a_repeat_gives_the_same_volume(runtime: Runtime, ceph: Ceph) -> None:
    uid = new_uid()
    asked = pb.CreateVolumeRequest(volume=volume(uid, MIB))
    first = runtime.stub.CreateVolume(asked, timeout=30).volume
    made = ceph.info(uid)["id"]
    assert runtime.stub.CreateVolume(asked, timeout=30).volume == first
    assert ceph.info(uid)["id"] == made
    assert runtime.told(uid) == ["VolumeCreated"]


def test_many_repeats_at_once_are_one_volume(runtime: Runtime) -> None:
    asked = pb.CreateVolumeRequest(volume=volume(uid := new_uid(), MIB))
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: runtime.stub.CreateVolume(asked, timeout=30).volume, range(12)))
    assert {each.status.access.handle for each in answers} == {answers[0].status.access.handle}
    assert [each.metadata.id for each in runtime.by_uid(uid)] == [uid]


def test_the_poollets_loop_makes_grows_and_deletes(runtime: Runtime, ceph: Ceph) -> None:
    uid = new_uid()
    made = runtime.reconcile(uid, GIB)
    assert made is not None
    assert runtime.reconcile(uid, GIB) == made
    grown = runtime.reconcile(uid, 3 * GIB)
    assert grown is not None
    assert grown.status.resources.storage_bytes == ceph.info(uid)["size"] == 3 * GIB
    runtime.reconcile(uid, deleted=True)
    assert uid not in ceph.images()
    assert entity(made) not in ceph.users()


def test_an_odd_size_is_rounded_up_and_yet_no_difference_to_the_poollet(runtime: Runtime) -> None:
    made = runtime.create(uid := new_uid(), MIB + 1)
    assert (made.spec.resources.storage_bytes, made.status.resources.storage_bytes) == (MIB + 1, 2 * MIB)
    assert runtime.reconcile(uid, MIB + 1) == made


def test_a_volume_in_use_grows(runtime: Runtime) -> None:
    made = runtime.create(size=MIB)
    with opened(made.status.access) as image:
        runtime.expand(made.metadata.id, 2 * MIB)
        until(lambda: image.size() == 2 * MIB, 60, "the client has heard of it")


def test_a_volume_in_use_is_not_deleted_and_its_client_keeps_its_key(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(uid := new_uid(), MIB)
    with opened(made.status.access) as image:
        image.write(b"x", 0)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "in use by 127.0.0.1"):
            runtime.delete(uid)
    assert entity(made) in ceph.users()
    assert runtime.told(uid)[-1] == "VolumeDeletionFailed"
    until(lambda: not ceph.watchers(f"rbd_header.{ceph.info(uid)['id']}"), 60, "the client is gone")
    runtime.delete(uid)


def test_what_was_never_there_is_not_found_and_lists_nothing(runtime: Runtime) -> None:
    for absent in (new_uid(), "a/b", "\x00", "ü" * 2000):
        with refused(grpc.StatusCode.NOT_FOUND):
            runtime.delete(absent)
        with refused(grpc.StatusCode.NOT_FOUND):
            runtime.expand(absent, GIB)
        assert runtime.listed(id=absent) == []


def test_lists_go_by_every_label_exactly(runtime: Runtime) -> None:
    one, other = runtime.create(size=MIB), runtime.create(size=MIB)
    mine = dict(one.metadata.labels)
    assert runtime.listed(label_selector=mine) == [one]
    by_name = {key: mine[key] for key in (f"{LABEL}namespace", f"{LABEL}name")}
    assert [each.metadata.id for each in runtime.listed(label_selector=by_name)] == [one.metadata.id]
    assert runtime.listed(label_selector=mine | {f"{LABEL}namespace": "sho"}) == []
    assert runtime.listed(label_selector=mine, id=other.metadata.id) == []
    ids = {each.metadata.id for each in runtime.listed()}
    assert {one.metadata.id, other.metadata.id} <= ids


def test_annotations_and_the_time_of_making_come_back(runtime: Runtime) -> None:
    asked, uid = time.time(), new_uid()
    request = pb.CreateVolumeRequest(volume=volume(uid, MIB, annotations={"note": "ö"}))
    made = runtime.stub.CreateVolume(request, timeout=30).volume
    assert dict(made.metadata.annotations) == {"note": "ö"}
    assert asked - 2 <= made.metadata.created_at / 1e9 <= time.time() + 1
    assert made.metadata.deleted_at == 0


def test_a_class_decides_how_the_image_is_laid_out(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(class_name="slow", size=MIB)
    assert ceph.info(made.metadata.id)["features"] == ["layering"]


def test_a_class_bounds_how_fast_a_volume_is_and_expansion_keeps_it(runtime: Runtime, ceph: Ceph) -> None:
    made = runtime.create(size=MIB)
    limits = {"conf_rbd_qos_iops_limit": "15000", "conf_rbd_qos_bps_limit": "262144000"}
    bursts = {"conf_rbd_qos_iops_burst": "150000", "conf_rbd_qos_bps_burst_seconds": "15"}
    assert (limits | bursts).items() <= ceph.image_metadata(made.metadata.id).items()
    runtime.expand(made.metadata.id, 4 * MIB)
    assert (limits | bursts).items() <= ceph.image_metadata(made.metadata.id).items()


def test_another_class_for_the_same_uid_is_refused(runtime: Runtime) -> None:
    runtime.create(uid := new_uid(), MIB)
    with refused(grpc.StatusCode.ALREADY_EXISTS, uid):
        runtime.create(uid, MIB, "slow")


def test_the_class_file_is_read_again_when_it_changes(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path) as own:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "volume.spec.class", "'new'", "fast, slow, plain"):
            own.create(class_name="new", size=MIB)
        own.classes.write_text("- {name: new, capabilities: {tps: 1, iops: 2}}")
        assert own.create(class_name="new", size=MIB).status.state == pb.VOLUME_AVAILABLE
        own.classes.write_text("- {name: [}")
        assert own.create(class_name="new", size=MIB).status.state == pb.VOLUME_AVAILABLE


def test_a_class_may_bring_its_own_user(ceph: Ceph, tmp_path: Path) -> None:
    user = ceph.make_user(f"shared-{new_uid()[:8]}", mon="profile rbd", osd=f"profile rbd pool={ceph.pool}")
    key = tmp_path / "key"
    key.write_text(user.key + "\n")
    with running(ceph, tmp_path) as own:
        own.classes.write_text(json.dumps([{"name": "own", "user": {"userID": user.name, "keyFile": str(key)}}]))
        users = ceph.users()
        made = own.create(class_name="own", size=MIB)
        assert entity(made) == f"client.{user.name}"
        with opened(made.status.access) as image:
            image.write(b"x", 0)
        until(lambda: not ceph.watchers(f"rbd_header.{ceph.info(made.metadata.id)['id']}"), 60, "the client is gone")
        own.delete(made.metadata.id)
        assert ceph.users() == users


def changed(**fields: object) -> pb.Volume:
    asked = volume(new_uid(), MIB)
    for path, value in fields.items():
        if path == "text":
            text_format.Merge(str(value), asked)
        else:
            asked.metadata.labels[path] = str(value)
    return asked


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (changed(text='spec { class: "gold" }'), "INVALID_ARGUMENT", ("volume.spec.class", "gold")),
        (changed(text='spec { class: "" }'), "INVALID_ARGUMENT", ("volume.spec.class",)),
        (changed(text="spec { resources { storage_bytes: 0 } }"), "OUT_OF_RANGE", ("volume.spec.resources.storage_bytes",)),
        (changed(text="spec { resources { storage_bytes: -1 } }"), "OUT_OF_RANGE", ("volume.spec.resources.storage_bytes",)),
        (changed(text=f"spec {{ resources {{ storage_bytes: {1 << 62} }} }}"), "OUT_OF_RANGE", ("storage_bytes",)),
        (changed(text='metadata { id: "mine" }'), "INVALID_ARGUMENT", ("volume.metadata.id", "mine")),
        (changed(note="x" * 65536), "INVALID_ARGUMENT", ("volume.metadata.labels[note]", "longer")),
        (changed(**{f"k{n}": "x" * 4000 for n in range(5)}), "INVALID_ARGUMENT", ("volume.metadata.labels", "longer")),
    ],
)
def test_bad_input_is_refused_by_name_and_makes_nothing(
    runtime: Runtime, ceph: Ceph, asked: pb.Volume, code: str, words: tuple[str, ...]
) -> None:
    uid = asked.metadata.labels[f"{LABEL}uid"]
    with refused(grpc.StatusCode[code], *words):
        runtime.stub.CreateVolume(pb.CreateVolumeRequest(volume=asked), timeout=30)
    assert uid not in ceph.images()
    assert runtime.told(uid) == ["VolumeCreationFailed"]


def test_volumes_never_shrink(runtime: Runtime, ceph: Ceph) -> None:
    runtime.create(uid := new_uid(), 2 * MIB)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "resources.storage_bytes", "never shrink"):
        runtime.expand(uid, MIB)
    assert ceph.info(uid)["size"] == 2 * MIB


def test_a_uid_that_no_image_can_be_named_by_works_all_the_same(runtime: Runtime) -> None:
    made = runtime.create(uid := "a/b@c", MIB)
    assert made.metadata.id.startswith("cp-")
    assert runtime.by_uid(uid) == [made]
    runtime.delete(made.metadata.id)
    assert runtime.by_uid(uid) == []


def test_events_are_told_within_their_window_and_after_a_restart(ceph: Ceph, tmp_path: Path) -> None:
    before, uid = int(time.time()), new_uid()
    with running(ceph, tmp_path) as own:
        own.create(uid, MIB)
        own.expand(uid, 2 * MIB)
    with running(ceph, tmp_path) as own:
        own.delete(uid)
        assert own.told(uid, before, int(time.time()) + 1) == ["VolumeCreated", "VolumeExpanded", "VolumeDeleted"]
        assert own.told(uid, 0, before - 1) == own.told(uid, int(time.time()) + 100) == []
        (event, *_) = own.stub.ListEvents(pb.ListEventsRequest(filter=pb.EventFilter(id=uid)), timeout=30).events
    assert event.spec.involved_object_meta.labels[f"{LABEL}namespace"] == "shop"
    assert (event.spec.type, event.spec.action) == ("Normal", "CreateVolume")
    assert before <= event.spec.event_time <= time.time()


def test_a_volume_of_csi_is_not_ironcores_to_see_or_to_delete(runtime: Runtime, driver: Driver, ceph: Ceph) -> None:
    name = new_uid()
    driver.create(name, MIB)
    assert runtime.by_uid(name) == runtime.listed(id=name) == []
    assert name not in [each.metadata.id for each in runtime.listed()]
    with refused(grpc.StatusCode.NOT_FOUND):
        runtime.delete(name)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "runtime interface"):
        runtime.create(name, MIB)
    assert name in ceph.images()


def test_a_volume_of_ironcore_is_a_volume_to_csi(runtime: Runtime, driver: Driver, ceph: Ceph) -> None:
    made = runtime.create(uid := new_uid(), GIB, "plain")
    driver.create(other := new_uid(), GIB)
    mine, theirs = ceph.image_metadata(uid), ceph.image_metadata(other)
    named = {"ceph-provisioner.labels", "ceph-provisioner.created", "ceph-provisioner.fingerprint"}
    assert {key for key in mine if mine[key].replace(uid, other) != theirs.get(key)} - named == {"ceph-provisioner.published"}
    asked = driver.controller.ControllerExpandVolume
    size = csi_pb2.CapacityRange(required_bytes=2 * GIB)
    asked(csi_pb2.ControllerExpandVolumeRequest(volume_id=driver.id_of(uid), capacity_range=size), timeout=30)
    assert runtime.by_uid(uid)[0].status.resources.storage_bytes == 2 * GIB
    driver.delete(driver.id_of(uid))
    assert runtime.by_uid(uid) == []
    until(lambda: purged(runtime) or entity(made) not in ceph.users(), 60, "the purge has taken the user with the image")


def test_a_list_is_refused_rather_than_empty_while_ceph_is_silent(ceph: Ceph, tmp_path: Path) -> None:
    with running(ceph, tmp_path, timeout=2) as own:
        own.create(uid := new_uid(), MIB)
        with ceph.frozen_osd(), refused(grpc.StatusCode.UNAVAILABLE):
            own.by_uid(uid)
        assert [each.metadata.id for each in own.by_uid(uid)] == [uid]


def test_labels_of_the_request_are_what_the_list_tells(runtime: Runtime) -> None:
    wanted = labels(uid := new_uid()) | {"downward-api.volumepoollet.ironcore.dev/team": "a"}
    runtime.stub.CreateVolume(pb.CreateVolumeRequest(volume=volume(uid, MIB, labels=wanted)), timeout=30)
    assert dict(runtime.by_uid(uid)[0].metadata.labels) == wanted
