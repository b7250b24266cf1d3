"""`hack/bench kernel`: a stage of a fresh 1 GiB ext4 volume by the kernel's client beside the bare map, mkfs, mount; in a guest.

Processor seconds are what the machine takes of the host: those of everybody who works for the stage, the service, the programs
that it starts, the kernel, and not those of others on the host. The programs are named by their paths, since the guest's shell
has a mount of its own.
"""

import re
import statistics
import tempfile
from pathlib import Path

from tests.harness.ceph import Ceph
from tests.harness.guest import GuestNode, guest_node
from tests.harness.node import new_image

GIB = 1 << 30
_MKFS = "/usr/sbin/mkfs.ext4 -q -F -m0 -Enodiscard,lazy_itable_init=1,lazy_journal_init=1"


def kernel(ceph: Ceph, rounds: int) -> None:
    """Stage, and do the same bare, in turn."""
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-kernel.", dir="/tmp") as directory, guest_node(ceph, Path(directory)) as guest:
        for _ in range(2):  # to warm up
            _staged(guest, new_image(ceph, GIB))
            _bare(guest, ceph, new_image(ceph, GIB))
        for turn in range(rounds):
            ours.append(_staged(guest, new_image(ceph, GIB)))
            bare.append(_bare(guest, ceph, new_image(ceph, GIB)))
            for who, (wall, cpu) in (("ours", ours[-1]), ("bare", bare[-1])):
                print(f"  round {turn + 1}: {who} {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
    for at, what in enumerate(("wall", "CPU")):
        ratio = statistics.median(mine[at] / his[at] for mine, his in zip(ours, bare, strict=True))
        print(f"  {what}: ours is {ratio:.2f} of bare")


def _staged(guest: GuestNode, volume: str) -> tuple[float, float]:
    before = _clock(guest)
    guest.stage(volume)
    spent = _since(guest, before)
    guest.unstage(volume)
    return spent


def _bare(guest: GuestNode, ceph: Ceph, volume: str) -> tuple[float, float]:
    name = volume.rpartition("/")[2]
    (key,) = re.findall(r"key\s*=\s*(\S+)", Path(ceph.keyring).read_text())
    words = f"{ceph.monitors[0]} name={ceph.user},secret={key} {ceph.pool} {name} -"
    before = _clock(guest)
    mapped = f"echo '{words}' >/sys/bus/rbd/add_single_major; mkdir -p /run/bare"
    guest.run(f"{mapped}; device=$(echo /dev/rbd[0-9]*); {_MKFS} $device && /usr/bin/mount -t ext4 $device /run/bare")
    spent = _since(guest, before)
    guest.run("umount /run/bare; for each in /sys/bus/rbd/devices/*; do echo ${each##*/} >/sys/bus/rbd/remove_single_major; done")
    return spent


def _clock(guest: GuestNode) -> tuple[float, float]:
    """Seconds since the guest began, and those in which it had a processor of the host."""
    return float(guest.run("read up idle </proc/uptime; echo $up")), guest.guest.cpu_seconds()


def _since(guest: GuestNode, before: tuple[float, float]) -> tuple[float, float]:
    now = _clock(guest)
    return now[0] - before[0], now[1] - before[1]
