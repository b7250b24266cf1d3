"""Snapshots of several volumes at one moment: write-order consistent, once per name, whole or not at all.

Each member is a snapshot like any other, in the index of snapshot names and with a mark that names its group. The group's roll
says who belongs to it; it is written before anything is taken, and could be made again from the members' marks, which are
written only when every member was taken. What a killed one left is wiped by whoever asks for the name again, or deletes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from provisioner.core.errors import AlreadyExists, InvalidRequest, LimitReached, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import GroupId, Place, SnapshotId, VolumeId, group_id, member_name
from provisioner.core.model import Credentials, Entry, Snapshot
from provisioner.core.ports import SnapshotStore
from provisioner.core.single_flight import SingleFlight
from provisioner.core.snapshots import MOST

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One group snapshot to be taken, once; the order of the sources says nothing."""

    name: str
    sources: Sequence[VolumeId]
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group snapshot that is there and whole; `created` in seconds since 1970."""

    id: GroupId
    snapshots: tuple[Snapshot, ...]

    @property
    def created(self) -> float:
        """When the last of its members was taken, while the writers of all were still."""
        return max(snapshot.created for snapshot in self.snapshots)


class Stage(Enum):
    """How far a group snapshot is."""

    TAKING = "taking"
    WHOLE = "whole"
    GOING = "going"


@dataclass(frozen=True, slots=True)
class Roll:
    """A group's record: its members' names, volumes and images."""

    id: GroupId
    name: str
    members: tuple[Entry, ...]
    stage: Stage = Stage.TAKING
    raw: str = field(default="", repr=False)
    """The record as it is kept, for comparing."""

    @property
    def sources(self) -> tuple[VolumeId, ...]:
        """The volumes, in order."""
        return tuple(member.volume for member in self.members)


class GroupStore(Protocol):
    """Rolls, and taking several snapshots at one moment."""

    def home(self, cluster: str) -> Place:
        """Where the rolls of a cluster lie."""

    def roll(self, group: GroupId, credentials: Credentials | None) -> Roll | None:
        """What is written of the group."""

    def write(self, roll: Roll, over: Roll | None, credentials: Credentials | None) -> Roll | None:
        """Write the roll in place of `over`; gives it as it is kept, None if another is there meanwhile."""

    def drop(self, roll: Roll, credentials: Credentials | None) -> bool:
        """Take the roll away, if it is still the same; tell whether it was."""

    def held(self, group: GroupId, credentials: Credentials | None) -> AbstractContextManager[None]:
        """Work on the group alone, among all processes, for the block. Raises Conflict."""

    def take(self, roll: Roll, credentials: Credentials | None) -> tuple[Snapshot, ...]:
        """Take all members at one moment, and mark them. Raises Unfit, InUse, NotFound, Conflict; some may be there then."""

    def wipe(self, roll: Roll, credentials: Credentials | None) -> None:
        """Take away every member, whole or half made, and its entry in the index of names. Gone already is fine."""


class Groups:
    """The use cases over a store of groups and the one of snapshots."""

    def __init__(self, store: GroupStore, snapshots: SnapshotStore, flights: SingleFlight | None = None) -> None:
        self._store, self._snapshots = store, snapshots
        self._flights = flights or SingleFlight()

    def create(self, request: GroupRequest) -> Group:
        """Take the group snapshot, or give the one that an equal request took before.

        Raises InvalidRequest, NotFound (no such volume), AlreadyExists (the name is of other volumes), Unfit (a volume
        without exclusive-lock), InUse (one that a client keeps locked), LimitReached, Conflict, Denied, Unavailable.
        """
        sources = tuple(sorted(set(request.sources), key=str))
        clusters = sorted({source.place.cluster for source in sources})
        if not sources:
            raise InvalidRequest("source_volume_ids", "", "must not be empty")
        if len(clusters) > 1:
            raise InvalidRequest("source_volume_ids", ", ".join(clusters), "a group's volumes have to be in one cluster")
        group, credentials = group_id(self._store.home(clusters[0]), request.name), request.credentials
        work = _Work(self._store, self._snapshots, group, credentials)
        return self._flights.run("group snapshot", str(group), (sources, credentials), lambda: work.create(request.name, sources))

    def get(self, group: GroupId, members: Sequence[SnapshotId] = (), credentials: Credentials | None = None) -> Group:
        """Give the group snapshot. `members`, if told, have to be its own. Raises NotFound, InvalidRequest."""
        return _Work(self._store, self._snapshots, group, credentials).get(members)

    def delete(self, group: GroupId, members: Sequence[SnapshotId] = (), credentials: Credentials | None = None) -> None:
        """Take the group snapshot and all its members away; gone already is success. Raises InvalidRequest, Conflict."""
        work = _Work(self._store, self._snapshots, group, credentials)
        self._flights.run("delete group snapshot", str(group), credentials, lambda: work.delete(members))


@dataclass(frozen=True, slots=True)
class _Work:
    """One operation on one group."""

    store: GroupStore
    snapshots: SnapshotStore
    group: GroupId
    credentials: Credentials | None

    def create(self, name: str, sources: tuple[VolumeId, ...]) -> Group:
        for _ in range(_ROUNDS):
            roll = self._roll() or self.store.write(self._planned(name, sources), None, self.credentials)
            if roll is not None and roll.stage is Stage.GOING:
                self._finish_going()
            elif roll is not None:
                self._compare(roll, name, sources)
                if (group := self._whole(roll) if roll.stage is Stage.WHOLE else self._take()) is not None:
                    return group
        raise Unavailable(f"group snapshot {self.group} kept changing under {_ROUNDS} attempts")

    def get(self, members: Sequence[SnapshotId]) -> Group:
        roll = self._roll() or self._made_again(members)
        if roll is None or roll.stage is not Stage.WHOLE:
            raise NotFound(f"group snapshot {self.group}")
        self._match(roll, members)
        found = tuple(filter(None, (self._find(member) for member in roll.members)))
        if not found:
            raise NotFound(f"group snapshot {self.group}")
        return Group(self.group, found)

    def delete(self, members: Sequence[SnapshotId]) -> None:
        roll = self._roll()
        if roll is None and (lost := self._made_again(members)) is not None:
            roll = self.store.write(lost, None, self.credentials)
        if roll is not None:
            self._match(roll, members)
            self._finish_going()

    def _take(self) -> Group | None:
        """Take the members, or give what another took meanwhile; None if the group is being deleted."""
        with self.store.held(self.group, self.credentials):
            roll = self._roll()
            if roll is not None and roll.stage is Stage.WHOLE:
                return self._whole(roll)
            # a new stamp on it: whoever was slow and comes back finds that it is not theirs any more
            mine = roll and roll.stage is Stage.TAKING and self.store.write(roll, roll, self.credentials)
            if not mine:
                return None
            with self._undone_on_failure(mine):
                self.store.wipe(mine, self.credentials)
                for member in mine.members:
                    self._claim(member)
                taken = self.store.take(mine, self.credentials)
                if self.store.write(replace(mine, stage=Stage.WHOLE), mine, self.credentials) is None:
                    raise Unavailable(f"group snapshot {self.group} took too long; another took it over")
        return Group(self.group, taken)

    @contextmanager
    def _undone_on_failure(self, roll: Roll) -> Iterator[None]:
        """Leave nothing of an attempt that failed; what can't be taken away now is by the next one, for which the roll stays."""
        try:
            yield
        except ProvisionerError:
            with suppress(ProvisionerError):
                self._undo(roll)
            raise

    def _undo(self, roll: Roll) -> None:
        """Wipe what was made, unless the name is another's by now: theirs bears the same names."""
        going = replace(roll, stage=Stage.GOING)
        mine = self.store.write(going, roll, self.credentials) or self.store.write(going, None, self.credentials)
        if mine is not None:
            self.store.wipe(mine, self.credentials)
            self.store.drop(mine, self.credentials)

    def _finish_going(self) -> None:
        with self.store.held(self.group, self.credentials):
            roll = self._roll()
            going = roll and self.store.write(replace(roll, stage=Stage.GOING), roll, self.credentials)
            if going:
                self.store.wipe(going, self.credentials)
                self.store.drop(going, self.credentials)

    def _planned(self, name: str, sources: tuple[VolumeId, ...]) -> Roll:
        """The roll of a new group, or of one whose roll was lost: marks tell that its members are all there."""
        members = tuple(self._member(source) for source in sources)
        whole = all(self._find(member) for member in members)
        return Roll(self.group, name, members, Stage.WHOLE if whole else Stage.TAKING)

    def _member(self, source: VolumeId) -> Entry:
        origin = self.snapshots.origin(source, self.credentials)
        if origin is None:
            raise NotFound(f"volume {source}")
        member = Entry(member_name(self.group, source), source, origin.image_id)
        if member.id.snapshot not in origin.snapshots and origin.count >= MOST:
            raise LimitReached(f"volume {source} has {origin.count} snapshots", MOST)
        return member

    def _claim(self, member: Entry) -> None:
        """Enter a member in the index of names, after what an earlier attempt left was wiped."""
        there = self.snapshots.entry(member.volume.place.cluster, member.name, self.credentials)
        origin = self.snapshots.origin(member.volume, self.credentials)
        if origin is None or origin.image_id != member.image_id:
            raise NotFound(f"volume {member.volume}")
        if there is not None or member.id.snapshot in origin.snapshots:
            raise AlreadyExists(f"snapshot {member.name} of volume {member.volume}", ["it was made by somebody else"])
        if self.snapshots.claim(member, None, self.credentials) is None:
            raise Unavailable(f"snapshot {member.name} of volume {member.volume} is being made by somebody else")

    def _compare(self, roll: Roll, name: str, sources: tuple[VolumeId, ...]) -> None:
        differs = []
        if roll.name != name:
            differs.append(f"it was made for the name {roll.name!r}")
        if roll.sources != sources:
            differs.append(f"it is of volumes {', '.join(map(str, roll.sources))}")
        differs += [
            f"it is of a volume {member.volume} that was deleted since"
            for member in roll.members
            if self.snapshots.image_id(member.volume, self.credentials) not in (None, member.image_id)
        ]
        if differs:
            raise AlreadyExists(f"group snapshot {self.group}", differs)

    def _whole(self, roll: Roll) -> Group:
        found = {member: self._find(member) for member in roll.members}
        lost = [f"its snapshot of volume {member.volume} is gone" for member, snapshot in found.items() if snapshot is None]
        if lost:
            raise AlreadyExists(f"group snapshot {self.group}", lost)
        return Group(self.group, tuple(filter(None, found.values())))

    def _find(self, member: Entry) -> Snapshot | None:
        found = self.snapshots.find(member.id, self.credentials)
        return found if found is not None and found.group == str(self.group) else None

    def _made_again(self, members: Sequence[SnapshotId]) -> Roll | None:
        """The roll that a group's members say it had, of those that the asker remembers."""
        found = [self.snapshots.find(member, self.credentials) for member in members]
        ours = sorted(
            (each for each in found if each is not None and each.group == str(self.group)), key=lambda each: str(each.id)
        )
        entries = tuple(Entry(each.name, each.id.volume, each.id.image_id) for each in ours)
        return Roll(self.group, self.group.name, entries, Stage.WHOLE) if entries else None

    def _match(self, roll: Roll, members: Sequence[SnapshotId]) -> None:
        known = {member.id for member in roll.members}
        if strange := sorted(str(each) for each in members if each not in known):
            raise InvalidRequest("snapshot_ids", strange[0], f"is no member of group snapshot {self.group}")
        if members and (missing := sorted(str(each) for each in known - set(members))):
            raise InvalidRequest("snapshot_ids", f"{len(members)} of them", f"{missing[0]} of the group is missing")

    def _roll(self) -> Roll | None:
        return self.store.roll(self.group, self.credentials)
