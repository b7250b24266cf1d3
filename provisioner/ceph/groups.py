"""Group snapshots: rolls in an omap of the cluster's home place, members taken at one moment. The Ceph side of `core.groups`."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import rados

from provisioner.ceph import headers, index, snapshot_removal, snapshots, standstill, wire
from provisioner.ceph.errors import explained
from provisioner.ceph.places import Places
from provisioner.ceph.registry import task_for
from provisioner.ceph.snapshot_headers import MARK, read_album
from provisioner.ceph.standstill import Still
from provisioner.core.errors import Conflict, NotFound, Unavailable
from provisioner.core.groups import Roll, Stage
from provisioner.core.ids import GroupId, Place, VolumeId
from provisioner.core.model import Credentials, Entry, Snapshot

GROUPS = "ceph-provisioner.groups"
_PATIENCE = 10.0
"""Seconds to wait for whoever works on the same group."""
_LONGEST = 120
"""Seconds that one process may be at work on a group: each call is bounded, and writers are held for much less."""


class _Member(msgspec.Struct):
    name: str
    volume: str
    image_id: str


class _Value(msgspec.Struct):
    name: str
    members: list[_Member]
    stage: Stage
    by: int = 0


class CephGroups:
    """Implements `core.groups.GroupStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def home(self, cluster: str) -> Place:
        """Where the rolls of a cluster lie."""
        return self._places.home(cluster)

    def roll(self, group: GroupId, credentials: Credentials | None) -> Roll | None:
        """What is written of the group; what was garbled by hand counts as absent."""
        with (
            self._places.at(group.place, self._key(group.place, credentials)) as (_, pool),
            explained(f"looking for group snapshot {group}"),
        ):
            raw = wire.omap_values(pool, GROUPS, group.name).get(group.name)
        return None if raw is None else _roll(group, raw.decode(errors="replace"))

    def write(self, roll: Roll, over: Roll | None, credentials: Credentials | None) -> Roll | None:
        """Write the roll in place of `over`, or of none."""
        members = [{"name": each.name, "volume": str(each.volume), "image_id": each.image_id} for each in roll.members]
        told = {"name": roll.name, "members": members, "stage": roll.stage.value, "stamp": uuid.uuid4().hex}
        with (
            self._places.enrolled(roll.id.place, self._key(roll.id.place, credentials)) as room,
            explained(f"writing down group snapshot {roll.id}"),
        ):
            raw = json.dumps({**told, "by": room.connection.instance})  # ASCII, as comparisons need
            done = wire.omap_replace(room.pool, GROUPS, roll.id.name, raw, over.raw if over else "")
        return _roll(roll.id, raw) if done else None

    def drop(self, roll: Roll, credentials: Credentials | None) -> bool:
        """Take the roll away."""
        with (
            self._places.enrolled(roll.id.place, self._key(roll.id.place, credentials)) as room,
            explained(f"striking out group snapshot {roll.id}"),
        ):
            return wire.omap_drop(room.pool, GROUPS, roll.id.name, roll.raw)

    @contextmanager
    def held(self, group: GroupId, credentials: Credentials | None, patience: float = _PATIENCE) -> Iterator[None]:
        """Keep others from working on the group for the block, by a RADOS lock that ends with this process."""
        with (
            self._places.enrolled(group.place, self._key(group.place, credentials)) as room,
            explained(f"working on group snapshot {group}"),
            room.registry.alone(room.pool, task_for("group", group.name), f"group snapshot {group}", _LONGEST, patience),
        ):
            yield

    def scrap(self, roll: Roll, credentials: Credentials | None) -> bool:
        """Take away what a killed process left of a group; False if somebody is at work on it, or was since it was read."""
        try:
            with self.held(roll.id, credentials, patience=0):
                going = self.write(replace(roll, stage=Stage.GOING), roll, credentials)
                if going is None:
                    return False
                self.wipe(going, credentials)
                return self.drop(going, credentials)
        except Conflict:
            return False

    def take(self, roll: Roll, credentials: Credentials | None) -> tuple[Snapshot, ...]:
        """Hold all writers still, take the members, let go; then mark them."""
        wanted = [Still(each.volume, each.image_id, each.id.snapshot) for each in roll.members]
        with self._places.enrolled(roll.id.place, self._key(roll.id.place, credentials)) as room:
            alone = self._places.clusters.alone(roll.id.place.cluster, credentials)
            standstill.take(alone, room.connection, wanted)
        return tuple(self._marked(roll, each, credentials) for each in roll.members)

    def wipe(self, roll: Roll, credentials: Credentials | None) -> None:
        """Take away every member with its entry and its mark, in the order of `CephSnapshots.remove`."""
        for member in roll.members:
            self._wipe(roll, member, credentials)

    def _key(self, place: Place, credentials: Credentials | None) -> Credentials | None:
        return self._places.home_key(place.cluster, credentials)

    def _marked(self, roll: Roll, member: Entry, credentials: Credentials | None) -> Snapshot:
        with (
            self._places.enrolled(member.volume.place, credentials) as room,
            explained(f"marking snapshot {member.name} of image {member.volume}"),
        ):
            made = snapshots.commit(room, member, group=str(roll.id))
        if made is None:
            raise Unavailable(f"snapshot {member.name} of {member.volume} was taken for abandoned while it was made")
        return made

    def _wipe(self, roll: Roll, member: Entry, credentials: Credentials | None) -> None:
        place, name = member.volume.place, member.id.snapshot
        with (
            self._places.enrolled(self.home(place.cluster), self._key(place, credentials)) as home,
            self._places.enrolled(place, credentials) as room,
            explained(f"deleting snapshot {member.name} of image {member.volume}"),
        ):
            kept, album = index.read(home.pool, member.name), read_album(room.pool, member.image_id)
            claimed = kept is not None and kept.is_of(place, member.image_id)
            there = album.named(name) if album is not None else None
            mark = album.marks.get(name) if album is not None else None
            ours = mark.group == str(roll.id) if mark is not None else claimed
            if ours and mark is not None and there is not None:
                snapshot_removal.remove(room, member.image_id, name)
            elif ours and not snapshot_removal.take_away(room, member.image_id, name):
                raise Unavailable(f"snapshot {member.name} of image {member.volume} was marked while it was to go")
            if kept is not None and claimed and ours:
                index.drop(home.pool, kept)
            if mark is not None and ours:
                headers.change_metadata(room.pool, member.image_id, {}, remove=[MARK + name])


def unfinished(pool: rados.Ioctx, home: Place) -> Iterator[tuple[Roll, int]]:
    """Rolls of groups that are being taken or deleted, with the client that wrote them."""
    for name, raw in wire.omap_all(pool, GROUPS):
        told = raw.decode(errors="replace")
        roll = _roll(GroupId(home, name), told)
        if roll is not None and roll.stage is not Stage.WHOLE:
            yield roll, msgspec.json.decode(told, type=_Value).by


def _roll(group: GroupId, raw: str) -> Roll | None:
    try:
        value = msgspec.json.decode(raw, type=_Value)
        members = tuple(Entry(each.name, VolumeId.parse(each.volume), each.image_id) for each in value.members)
    except (msgspec.DecodeError, NotFound):
        return None
    return Roll(group, value.name, members, value.stage, raw)
