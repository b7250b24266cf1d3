"""The real store against a dictionary: whatever is asked, interrupted and meddled with, in any order. Takes about 60 s."""

import struct
import time
from dataclasses import dataclass, replace

import rados
import rbd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from provisioner.core.errors import AlreadyExists, NotFound
from provisioner.core.ids import VolumeId
from provisioner.core.model import Layout, SizeRange
from tests.harness.ceph import Ceph
from tests.harness.half_made import call, string
from tests.harness.store import GIB, Provisioner, image_id, new_place, objects, omap, set_omap, unexplained

NAMES = st.sampled_from(["pvc-1", "pvc-2", "pvc-3"])
SIZES = st.sampled_from([GIB, 2 * GIB, 3 * GIB])
LAYOUTS = st.sampled_from([Layout(), Layout(frozenset({"layering"})), Layout(stripe_unit=65536, stripe_count=4)])
DATA = b"somebody's data"


@dataclass(frozen=True)
class Ours:
    """A volume as the model knows it."""

    image_id: str
    size: int
    layout: Layout


@dataclass(frozen=True)
class Foreign:
    """An image with somebody's data."""

    image_id: str


@dataclass(frozen=True)
class Unmarked:
    """What a create left that was killed before its mark."""

    image_id: str
    size: int
    layout: Layout


class StoreMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and says in the dictionary what that has to mean."""

    ceph: Ceph
    admin: rados.Rados
    ours: Provisioner

    def __init__(self) -> None:
        super().__init__()
        self.place = new_place(self.ceph)
        self.pool = self.admin.open_ioctx(self.place.pool)
        self.pool.set_namespace(self.place.namespace)
        self.names: dict[str, Ours | Foreign | Unmarked] = {}
        self.pieces: set[str] = set()
        self.used: set[str] = set()

    def teardown(self) -> None:
        for name in self.pieces - self.names.keys():
            self.ours.abandon(self.place, name)  # as the asker does in the end, whose create was killed
        self.ours.volumes.attend(self.place)
        self.ours.purge()
        assert omap(self.pool, "rbd_trash") == {}
        assert not unexplained(self.pool)
        self.ours.places.leave()
        self.pool.close()

    # --- what is asked ---

    @rule(name=NAMES, size=SIZES, layout=LAYOUTS)
    def create(self, name: str, size: int, layout: Layout) -> None:
        there = self.names.get(name)
        try:
            made = self.ours.create(self.place, name, size, layout)
        except AlreadyExists:
            assert not self._satisfies(there, size, layout), there
            return
        assert self._satisfies(there, size, layout), there
        if there is None:
            assert made.image_id not in self.used
            assert made.size == size
        else:
            assert (made.image_id, made.size) == (there.image_id, getattr(there, "size", None))
        self.used.add(made.image_id)
        self.names[name] = Ours(made.image_id, made.size, layout)

    @rule(name=NAMES, size=SIZES)
    def expand(self, name: str, size: int) -> None:
        there = self.names.get(name)
        try:
            grown = self.ours.volumes.expand(VolumeId(self.place, name), SizeRange(size))
        except NotFound:
            assert not isinstance(there, Ours)
            return
        assert isinstance(there, Ours)
        self.names[name] = replace(there, size=max(there.size, size))
        assert grown.size == max(there.size, size)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        there = self.names.get(name)
        try:
            self.ours.delete(self.place, name)
        except AlreadyExists:
            assert isinstance(there, Foreign | Unmarked)
            return
        assert there is None or isinstance(there, Ours)
        self.names.pop(name, None)

    @rule(name=NAMES)
    def abandon(self, name: str) -> None:
        there = self.names.get(name)
        try:
            self.ours.abandon(self.place, name)
        except AlreadyExists:
            assert isinstance(there, Foreign)
            return
        assert not isinstance(there, Foreign)
        self.names.pop(name, None)

    @rule()
    def purge(self) -> None:
        self.ours.volumes.attend(self.place)
        self.ours.purge()

    # --- what is interrupted ---

    @rule(name=NAMES, steps=st.sampled_from(["directory", "id", "both"]))
    def create_killed_early(self, name: str, steps: str) -> None:
        if not self._is_free(name):
            return
        made = f"{len(self.used):x}fade0000"
        self.used.add(made)
        self.pieces.add(name)
        if steps != "directory":
            self.pool.write_full(f"rbd_id.{name}", string(made))
        if steps != "id":
            call(self.pool, "rbd_directory", "dir_add_image", name, made)

    @rule(name=NAMES, size=SIZES, layout=LAYOUTS, without_map=st.booleans())
    def create_killed_late(self, name: str, size: int, layout: Layout, without_map: bool) -> None:
        if not self._is_free(name):
            return
        bits = 61 if "object-map" in layout.features else 1
        unit, count = layout.stripe_unit, layout.stripe_count
        rbd.RBD().create(self.pool, name, size, features=bits, stripe_unit=unit, stripe_count=count)
        made = image_id(self.pool, name)
        if without_map and bits == 61:
            self.pool.remove_object(f"rbd_object_map.{made}")
        self.used.add(made)
        self.names[name] = Unmarked(made, size, layout)

    @precondition(lambda self: any(isinstance(there, Ours) for there in self.names.values()))
    @rule(data=st.data(), steps=st.integers(1, 4), state=st.sampled_from([0, 1]))
    def delete_killed(self, data: st.DataObject, steps: int, state: int) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, there in self.names.items() if isinstance(there, Ours))))
        made = self.names.pop(name).image_id
        now = struct.pack("<II", int(time.time()), 0)
        body = b"\0" + string(name) + now + now + bytes((state,))
        set_omap(self.pool, f"rbd_header.{made}", {"metadata_ceph-provisioner.deleting": made.encode()})
        if steps > 1:
            set_omap(self.pool, "rbd_trash", {f"id_{made}": struct.pack("<BBI", 2, 1, len(body)) + body})
        if steps > 2:
            self.pool.remove_object(f"rbd_id.{name}")
        if steps > 3:
            call(self.pool, "rbd_directory", "dir_remove_image", name, made)
        if steps == 1:
            self.ours.delete(self.place, name)  # only its asker knows of it yet, and asks again

    # --- what is meddled with ---

    @rule(name=NAMES)
    def made_by_hand(self, name: str) -> None:
        if not self._is_free(name):
            return
        rbd.RBD().create(self.pool, name, GIB, features=61)
        with rbd.Image(self.pool, name) as image:
            image.write(DATA, 0)
        made = image_id(self.pool, name)
        self.used.add(made)
        self.names[name] = Foreign(made)

    @rule(name=NAMES)
    def removed_by_hand(self, name: str) -> None:
        there = self.names.get(name)
        if isinstance(there, Foreign | Unmarked):
            rbd.RBD().remove(self.pool, name)
            del self.names[name]

    # --- what always holds ---

    @invariant()
    def what_is_listed_is_what_is_ours(self) -> None:
        mine = sorted(name for name, there in self.names.items() if isinstance(there, Ours))
        assert self.ours.listed(self.place) == mine

    @invariant()
    def each_volume_is_the_image_that_was_made(self) -> None:
        for name, there in self.names.items():
            if isinstance(there, Ours):
                found = self.ours.volumes.get(VolumeId(self.place, name))
                assert (found.image_id, found.size) == (there.image_id, there.size)
                assert dict(found.asked) == there.layout.described()

    @invariant()
    def somebody_s_data_is_there(self) -> None:
        for name, there in self.names.items():
            if isinstance(there, Foreign):
                assert self.pool.read(f"rbd_data.{there.image_id}.{0:016x}", len(DATA)) == DATA
                assert image_id(self.pool, name) == there.image_id

    def _satisfies(self, there: Ours | Foreign | Unmarked | None, size: int, layout: Layout) -> bool:
        match there:
            case None:
                return True
            case Ours():
                return there.size >= size and there.layout == layout
            case Unmarked():
                return there.size == size and there.layout == layout
            case _:
                return False

    def _is_free(self, name: str) -> bool:
        """Nothing at all is there: not even pieces, on which librbd would not build."""
        return f"name_{name}" not in omap(self.pool, "rbd_directory") and f"rbd_id.{name}" not in objects(self.pool)


def test_the_store_does_what_the_dictionary_says(ceph: Ceph) -> None:
    limits = settings(
        max_examples=50, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    process = Provisioner(ceph.config())
    try:
        with ceph.admin() as admin:
            machine = type("Machine", (StoreMachine,), {"ceph": ceph, "admin": admin, "ours": process})
            run_state_machine_as_test(machine, settings=limits)
    finally:
        process.close()
