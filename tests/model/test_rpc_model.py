"""CSI as a few dictionaries say it is: any calls in any order, through two real controllers, on a real Ceph. Takes about 60 s.

Each call goes to one controller, to both at once, twice to one, or to one that is killed over it: there is one right answer, and
all askers get it. CEPH_PROVISIONER_TEST_EXAMPLES=1000 is the long form.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import rados
import rbd
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from csi.pb import csi_pb2
from provisioner.ceph import clones, flatten
from provisioner.ceph.groups import GROUPS as GROUPS_OF
from provisioner.core.attachments import Node
from provisioner.core.ids import Place
from tests.contract.driver import MIB, capability, create_request
from tests.harness.ceph import Ceph
from tests.harness.doors import Doors, Way, open_doors
from tests.harness.store import Provisioner, image_id, index, omap, unexplained
from tests.harness.waiting import until
from tests.model.values import Snapshot, Volume

EXAMPLES = int(os.environ.get("CEPH_PROVISIONER_TEST_EXAMPLES", "40"))
STEPS, LIVES = 30, 20
"""Steps of an example, and examples to a kill."""

Code, Mode = grpc.StatusCode, csi_pb2.VolumeCapability.AccessMode
Source = csi_pb2.VolumeContentSource
VOLUMES, SNAPSHOTS, GROUPS, NODES = ("v1", "v2", "v3"), ("s1", "s2", "s3"), ("g1", "g2"), ("n1", "n2")
WAYS = st.sampled_from(
    [Way((0,)), Way((1,)), Way((0, 1)), Way((0, 0)), Way((1, 1))] * 8 + [Way((0, 1), 0.01), Way((1,), 0.0), Way((0,), 0.03)]
)
SIZES = {4 * MIB: 4 * MIB, 5 * MIB + 1: 6 * MIB, 8 * MIB: 8 * MIB}
"""Bytes that are asked for, and made."""
SOME_SIZE = st.sampled_from(sorted(SIZES))
FEATURES = ("layering", "layering,exclusive-lock,object-map,fast-diff,deep-flatten")
WHERE = (0, MIB - 4, 4 * MIB - 8)
"""Where in a volume its pattern stands; behind that, all is zeros."""
NOTHING = 0
USES = {
    "writer": capability(Mode.SINGLE_NODE_WRITER),
    "readers": capability(Mode.MULTI_NODE_READER_ONLY, block=True),
    "writers": capability(Mode.MULTI_NODE_MULTI_WRITER, block=True),
}


class RpcMachine(RuleBasedStateMachine):
    """Each rule asks one thing, and says by the dictionaries what the answer has to be."""

    pool: str
    doors: Doors
    ours: Provisioner
    ioctx: rados.Ioctx
    used: set[str]
    """Internal ids that there were: no new volume bears one."""

    def __init__(self) -> None:
        super().__init__()
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.groups: dict[str, dict[str, Snapshot]] = {}
        self.known: dict[str, str] = {}
        """Ids of snapshots as an asker remembers them, also of those that are gone."""
        self.writes = 0

    @initialize()
    def begin(self) -> None:
        self.create("v1", 4 * MIB, False, FEATURES[1], Way((0,)))
        self.write("v1")

    def teardown(self) -> None:
        try:
            self.look(Way((0, 1)), 2)
            self._delete_everything()
            assert self._list_volumes(Way((0,)), 0) == self._list_snapshots(Way((1,)), 0) == {}
            until(self._is_tidy, 60, "nothing is left", lambda: str(self._left()), every=0.3)
        except BaseException:  # the next example begins in an empty pool, whatever this one has shown
            self._sweep()
            raise

    # --- volumes ---

    @rule(name=st.sampled_from(VOLUMES), asked=SOME_SIZE, limited=st.booleans(), features=st.sampled_from(FEATURES), way=WAYS)
    def create(self, name: str, asked: int, limited: bool, features: str, way: Way) -> None:
        limit = SIZES[asked] if limited else 0
        request = create_request(name, asked, limit, parameters=self._class(features))
        there = self.volumes.get(name)
        fits = there and (there.source, there.features) == ("", features) and asked <= there.size <= (limit or there.size)
        self._make(way, name, request, fits, Volume("", SIZES[asked], NOTHING, features))

    @rule(name=st.sampled_from(VOLUMES), source=st.sampled_from((*VOLUMES, *SNAPSHOTS)), asked=st.just(0) | SOME_SIZE, way=WAYS)
    def copy(self, name: str, source: str, asked: int, way: Way) -> None:
        of_volume = source in VOLUMES
        id_ = self._id(source) if of_volume else self.known.get(source, "dev/nowhere/v1@s.1")
        self._copy(way, name, id_, self.volumes.get(source) if of_volume else self._taken(id_), asked)

    @rule(name=st.sampled_from(VOLUMES), group=st.sampled_from(GROUPS), of=st.sampled_from(VOLUMES), way=WAYS)
    def restore_a_member(self, name: str, group: str, of: str, way: Way) -> None:
        if not self.groups:
            return
        if (member := self.groups.get(group, {}).get(of)) is not None:
            self._copy(way, name, member.id, member, 0)

    @rule(name=st.sampled_from(VOLUMES), asked=SOME_SIZE, limit=st.just(0) | st.just(8 * MIB), way=WAYS)
    def expand(self, name: str, asked: int, limit: int, way: Way) -> None:
        there, size = self.volumes.get(name), csi_pb2.CapacityRange(required_bytes=asked, limit_bytes=limit)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id=self._id(name), capacity_range=size)
        answer = self.doors.ask(way, "Controller.ControllerExpandVolume", request)
        if there is None:
            assert answer is Code.NOT_FOUND
        else:
            self.volumes[name] = replace(there, size=max(there.size, SIZES[asked]))
            assert answer.capacity_bytes == self.volumes[name].size

    @rule(name=st.sampled_from(VOLUMES), way=WAYS)
    def delete(self, name: str, way: Way) -> None:
        answer = self.doors.ask(way, "Controller.DeleteVolume", csi_pb2.DeleteVolumeRequest(volume_id=self._id(name)))
        there = self.volumes.get(name)
        if there is not None and there.nodes:
            assert answer is Code.FAILED_PRECONDITION
        else:
            assert answer == csi_pb2.DeleteVolumeResponse()
            self.volumes.pop(name, None)

    @rule(name=st.sampled_from(VOLUMES))
    def write(self, name: str) -> None:
        if not self.volumes:
            return
        if (there := self.volumes.get(name)) is not None:
            self.writes += 1
            with rbd.Image(self.ioctx, name) as image:
                for offset in WHERE:
                    image.write(_pattern(self.writes), offset)
            self.volumes[name] = replace(there, content=self.writes)

    # --- who has a volume ---

    @rule(name=st.sampled_from(VOLUMES), node=st.sampled_from(NODES), use=st.sampled_from(sorted(USES)), way=WAYS)
    def publish(self, name: str, node: str, use: str, way: Way) -> None:
        request = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=self._id(name), node_id=node, volume_capability=USES[use], readonly=use == "readers"
        )
        answer, there = self.doors.ask(way, "Controller.ControllerPublishVolume", request), self.volumes.get(name)
        if there is None:
            assert answer is Code.NOT_FOUND
        elif node in there.nodes and there.nodes[node] != use:
            assert answer is Code.ALREADY_EXISTS
        elif any(of != use or use == "writer" for other, of in there.nodes.items() if other != node):
            assert answer is Code.FAILED_PRECONDITION
        else:
            assert (answer.publish_context["imageName"], answer.publish_context["imageID"]) == (name, there.image_id)
            self.volumes[name] = replace(there, nodes={**there.nodes, node: use})

    @rule(name=st.sampled_from(VOLUMES), node=st.sampled_from(("", *NODES)), way=WAYS)
    def unpublish(self, name: str, node: str, way: Way) -> None:
        request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=self._id(name), node_id=node)
        answer = self.doors.ask(way, "Controller.ControllerUnpublishVolume", request)
        assert answer == csi_pb2.ControllerUnpublishVolumeResponse()
        if (there := self.volumes.get(name)) is not None:
            self.volumes[name] = replace(there, nodes={each: use for each, use in there.nodes.items() if node not in ("", each)})

    # --- snapshots ---

    @rule(name=st.sampled_from(SNAPSHOTS), volume=st.sampled_from(VOLUMES), way=WAYS)
    def snapshot(self, name: str, volume: str, way: Way) -> None:
        source, there = self.volumes.get(volume), self.snapshots.get(name)
        request = csi_pb2.CreateSnapshotRequest(name=name, source_volume_id=self._id(volume))
        answer = self.doors.ask(way, "Controller.CreateSnapshot", request)
        if there is not None and (there.volume != volume or (source and source.image_id != there.image_id)):
            assert answer is Code.ALREADY_EXISTS
        elif there is not None:
            assert self._read(answer.snapshot) == there
        elif source is None:
            assert answer is Code.NOT_FOUND
        else:
            self.snapshots[name] = self._new_snapshot(answer.snapshot, volume)
            self.known[name] = answer.snapshot.snapshot_id

    @rule(name=st.sampled_from(SNAPSHOTS), way=WAYS)
    def delete_snapshot(self, name: str, way: Way) -> None:
        if not self.known:
            return
        if (id_ := self.known.get(name)) is not None:
            answer = self.doors.ask(way, "Controller.DeleteSnapshot", csi_pb2.DeleteSnapshotRequest(snapshot_id=id_))
            assert answer == csi_pb2.DeleteSnapshotResponse()
            self.snapshots.pop(name, None)

    @rule(name=st.sampled_from(GROUPS), volumes=st.sets(st.sampled_from(VOLUMES), min_size=1), way=WAYS)
    def group(self, name: str, volumes: set[str], way: Way) -> None:
        ids, there = [self._id(volume) for volume in volumes], self.groups.get(name)
        request = csi_pb2.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=ids)
        answer = self.doors.ask(way, "GroupController.CreateVolumeGroupSnapshot", request)
        sources = {volume: self.volumes.get(volume) for volume in volumes}
        if there is not None and (
            there.keys() != volumes or any(v and v.image_id != there[n].image_id for n, v in sources.items())
        ):
            assert answer is Code.ALREADY_EXISTS
        elif there is not None:
            assert {self._read(each) for each in answer.group_snapshot.snapshots} == set(there.values())
        elif None in sources.values():
            assert answer is Code.NOT_FOUND
        elif any(source and source.features == "layering" for source in sources.values()):
            assert answer is Code.FAILED_PRECONDITION
        else:
            self._note_group(name, volumes, answer.group_snapshot)

    @rule(name=st.sampled_from(GROUPS), remembered=st.booleans(), way=WAYS)
    def delete_group(self, name: str, remembered: bool, way: Way) -> None:
        members = [each.id for each in self.groups.get(name, {}).values()] if remembered else []
        request = csi_pb2.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=f"dev/{self.pool}/@{name}", snapshot_ids=members)
        answer = self.doors.ask(way, "GroupController.DeleteVolumeGroupSnapshot", request)
        assert answer == csi_pb2.DeleteVolumeGroupSnapshotResponse()
        self.groups.pop(name, None)

    @rule(name=st.sampled_from(GROUPS), of=st.sampled_from(VOLUMES), way=WAYS)
    def delete_a_member(self, name: str, of: str, way: Way) -> None:
        if not self.groups:
            return
        if (member := self.groups.get(name, {}).get(of)) is not None:
            answer = self.doors.ask(way, "Controller.DeleteSnapshot", csi_pb2.DeleteSnapshotRequest(snapshot_id=member.id))
            assert answer is Code.INVALID_ARGUMENT

    # --- what is told, and what is there ---

    @rule(way=WAYS, entries=st.sampled_from((0, 1, 2)))
    def look(self, way: Way, entries: int) -> None:
        volumes = {self._id(name): (each.size, sorted(each.nodes)) for name, each in self.volumes.items()}
        assert self._list_volumes(way, entries) == volumes
        assert set(self._list_snapshots(way, entries).values()) == set(self._all_snapshots())
        for name in self.volumes:
            self._check_content(name)

    @rule(volume=st.sampled_from(VOLUMES), way=WAYS, entries=st.sampled_from((0, 1, 2)))
    def look_at_those_of(self, volume: str, way: Way, entries: int) -> None:
        """Of the volume that bears the name now, not of its predecessors."""
        if not (self.snapshots or self.groups):
            return
        there = self.volumes.get(volume)
        listed = set(self._list_snapshots(way, entries, source_volume_id=self._id(volume)).values())
        assert listed == {each for each in self._all_snapshots() if there and each.image_id == there.image_id}

    def _list_volumes(self, way: Way, entries: int) -> dict[str, tuple[int, list[str]]]:
        listed = self.doors.walk(way, "Controller.ListVolumes", csi_pb2.ListVolumesRequest(max_entries=entries))
        told = {each.volume.volume_id: (each.volume.capacity_bytes, sorted(each.status.published_node_ids)) for each in listed}
        assert len(told) == len(listed), "each is told once"
        return told

    def _list_snapshots(self, way: Way, entries: int, **of: str) -> dict[str, Snapshot]:
        listed = self.doors.walk(way, "Controller.ListSnapshots", csi_pb2.ListSnapshotsRequest(max_entries=entries, **of))
        told = {each.snapshot.snapshot_id: self._read(each.snapshot) for each in listed}
        assert len(told) == len(listed), "each is told once"
        return told

    # --- words of both sides ---

    def _id(self, volume: str) -> str:
        return f"dev/{self.pool}/{volume}"

    def _class(self, features: str) -> dict[str, str]:
        return {"clusterID": "dev", "pool": self.pool, "imageFeatures": features}

    def _taken(self, id_: str) -> Snapshot | None:
        return next((each for each in self.snapshots.values() if each.id == id_), None)

    def _all_snapshots(self) -> list[Snapshot]:
        return [*self.snapshots.values(), *(each for group in self.groups.values() for each in group.values())]

    def _read(self, told: csi_pb2.Snapshot) -> Snapshot:
        """What is told of a snapshot; the content of one that is known is taken for granted."""
        assert told.ready_to_use
        known = next((each for each in self._all_snapshots() if each.id == told.snapshot_id), None)
        image, content = told.snapshot_id.rpartition(".")[2], known.content if known else NOTHING
        volume = told.source_volume_id.rpartition("/")[2]
        return Snapshot(told.snapshot_id, volume, image, told.size_bytes, content, told.group_snapshot_id)

    def _new_snapshot(self, told: csi_pb2.Snapshot, volume: str) -> Snapshot:
        source = self.volumes[volume]
        made = replace(self._read(told), content=source.content)
        assert (made.volume, made.image_id, made.size) == (volume, source.image_id, source.size)
        assert made.id not in {each.id for each in self._all_snapshots()}
        return made

    def _note_group(self, name: str, volumes: set[str], told: csi_pb2.VolumeGroupSnapshot) -> None:
        assert (told.group_snapshot_id, told.ready_to_use) == (f"dev/{self.pool}/@{name}", True)
        members = {each.source_volume_id.rpartition("/")[2]: each for each in told.snapshots}
        assert members.keys() == volumes
        self.groups[name] = {volume: self._new_snapshot(each, volume) for volume, each in members.items()}
        assert {each.group for each in self.groups[name].values()} == {told.group_snapshot_id}

    def _copy(self, way: Way, name: str, source: str, origin: Volume | Snapshot | None, asked: int) -> None:
        kind = {"snapshot": Source.SnapshotSource(snapshot_id=source)} if "@" in source else {}
        content = Source(**(kind or {"volume": Source.VolumeSource(volume_id=source)}))
        request = create_request(name, asked, parameters=self._class(FEATURES[1]), volume_content_source=content)
        there = self.volumes.get(name)
        fits = there and (there.source, there.features) == (source, FEATURES[1]) and asked <= there.size
        refusal = Code.NOT_FOUND if origin is None else Code.OUT_OF_RANGE if asked > 0 and SIZES[asked] < origin.size else None
        size = SIZES.get(asked) or (origin.size if origin else 0)
        new = Volume("", size, origin.content if origin else NOTHING, FEATURES[1], source)
        self._make(way, name, request, fits, new, refusal)

    def _make(self, way: Way, name: str, request: Any, fits: Any, new: Volume, refusal: Code | None = None) -> None:
        """Ask for it; `fits` says of one that is there whether it is what is asked for, `refusal` why none can be made."""
        answer, there = self.doors.ask(way, "Controller.CreateVolume", request), self.volumes.get(name)
        if there is not None and not fits:
            assert answer is Code.ALREADY_EXISTS
        elif there is None and refusal is not None:
            assert answer is refusal
        else:
            assert not isinstance(answer, Code), answer
            if there is None:
                made = image_id(self.ioctx, name)
                assert made not in self.used
                self.used.add(made)
                self.volumes[name] = replace(new, image_id=made)
            assert (answer.volume.volume_id, answer.volume.capacity_bytes) == (self._id(name), self.volumes[name].size)
            assert answer.volume.volume_context["imageName"] == name
            self._check_content(name)

    def _check_content(self, name: str) -> None:
        there = self.volumes[name]
        with rbd.Image(self.ioctx, name, read_only=True) as image:
            assert (image.id(), image.size()) == (there.image_id, there.size)
            assert {image.read(offset, 4) for offset in WHERE} == {_pattern(there.content)}
            assert there.size == 4 * MIB or image.read(there.size - 4, 4) == _pattern(NOTHING)

    # --- the end ---

    def _delete_everything(self) -> None:
        """As everybody would who was given something, volumes before or after what was taken of them."""
        for name in VOLUMES:
            self.unpublish(name, "", Way((0,)))
        volumes_first = self.writes % 2
        for name in VOLUMES * volumes_first:
            self.delete(name, Way((0,)))
        for group in GROUPS:
            self.delete_group(group, True, Way((1,)))
        for snapshot in SNAPSHOTS:
            self.delete_snapshot(snapshot, Way((0,)))
        for name in VOLUMES:
            self.delete(name, Way((1,)))

    def _is_tidy(self) -> bool:
        self.ours.reap()
        self.ours.purge()
        return not self._left()

    def _left(self) -> set[str]:
        left = {each for each in unexplained(self.ioctx) if not each.startswith("ceph-provisioner.")} | set(index(self.ioctx))
        for obj in ("rbd_trash", "rbd_directory", clones.BUILDS, flatten.LIST, GROUPS_OF):
            left |= omap(self.ioctx, obj).keys() - {"state"}
        return left

    def _sweep(self) -> None:
        for obj in list(self.ioctx.list_objects()):
            if not obj.key.startswith("ceph-provisioner.processes"):
                self.ioctx.remove_object(obj.key)


def _pattern(number: int) -> bytes:
    return struct.pack(">I", number)


@contextmanager
def machine(ceph: Ceph, directory: Path) -> Iterator[type[RpcMachine]]:
    """The machine over two controllers in a pool that holds nothing else."""
    with (
        ceph.extra_pool() as pool,
        ceph.admin_pool(pool) as ioctx,
        open_doors(ceph, pool, directory) as doors,
        closing(Provisioner(replace(ceph.config(), pools=(pool,)))) as ours,
    ):
        doors.deaths_left = EXAMPLES // LIVES
        for node in NODES:
            ours.attachments.enrol_node("dev", Node(node, ("192.0.2.7",)))
        ours.volumes.attend(Place("dev", pool))
        yield type("Machine", (RpcMachine,), {"pool": pool, "doors": doors, "ours": ours, "ioctx": ioctx, "used": set()})


@pytest.mark.timeout(300 + 10 * EXAMPLES)
def test_every_answer_is_what_the_dictionaries_say(ceph: Ceph, tmp_path: Path) -> None:
    # what a controller remembers makes a repeated example another one: none is shrunk
    how: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    limits = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, phases=[Phase.generate], **how)
    with machine(ceph, tmp_path) as made:
        run_state_machine_as_test(made, settings=limits)
