"""One name's place in a pool, and the words of librbd's class calls: for states that are made by hand, piece by piece."""

import struct
from dataclasses import dataclass

import rados

from provisioner.core.ids import Place, VolumeId
from tests.harness.ceph import Ceph
from tests.harness.store import Provisioner, omap, unexplained

NAME = "pvc-1"
ID = "10ab12cd34ef"
ALL = 61
DATA = b"somebody's data"


@dataclass(frozen=True)
class Site:
    """Where a state is made, and who finds it."""

    ceph: Ceph
    ours: Provisioner
    place: Place
    pool: rados.Ioctx

    @property
    def volume(self) -> VolumeId:
        return VolumeId(self.place, NAME)

    def settled(self) -> None:
        """Nothing is left over: purge, and account for every object."""
        self.ours.purge()
        assert omap(self.pool, "rbd_trash") == {}
        assert not unexplained(self.pool)


def string(text: str) -> bytes:
    """Text as Ceph encodes it."""
    return struct.pack("<I", len(text)) + text.encode()


def call(pool: rados.Ioctx, obj: str, method: str, *arguments: str | bytes) -> None:
    """Have the OSD run a method of the class `rbd` on an object."""
    payload = b"".join(string(each) if isinstance(each, str) else each for each in arguments)
    pool.execute(obj, "rbd", method, payload)
