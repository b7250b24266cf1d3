"""`hack/bench node`: a stage of a fresh 1 GiB ext4 volume beside the same programs in a row, with `mounter: fuse`.

Processor seconds are those of everybody who works for the stage: the service, the programs it starts, the storage daemon.
"""

import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from provisioner.ceph.cluster import Clusters
from provisioner.ceph.nodes import NodeImages
from provisioner.core.ids import VolumeId
from provisioner.host.devices.fuse import daemon_command
from provisioner.host.ports import Attachment
from tests.harness.ceph import Ceph
from tests.harness.node import NodeProgram, new_image, node_program
from tests.harness.waiting import until

GIB = 1 << 30
_TICKS = os.sysconf("SC_CLK_TCK")


def node(ceph: Ceph, number: int) -> None:
    """Stage `number` volumes, and do the same bare, in turn."""
    images = NodeImages(Clusters(lambda: {"dev": ceph.config()}))
    ours: dict[str, list[float]] = {}
    bare: dict[str, list[float]] = {}
    with node_program(ceph) as program:
        print(f"idle: {memory(program)}", flush=True)
        for turn in range(number + 1):
            found = {} if turn == 0 else ours
            _staged(program, new_image(ceph, GIB), found)
            _bare(program, images, new_image(ceph, GIB), {} if turn == 0 else bare)
        print(f"after {number} stages: {memory(program)}")
    for name, found in (("ours", ours), ("bare", bare)):
        told = ", ".join(f"{what} {statistics.median(each) * 1000:.0f}" for what, each in found.items())
        print(f"  {name}  CPU ms: {told}")
    for what in ("all", "wall"):
        ratio = statistics.median(mine / his for mine, his in zip(ours[what], bare[what], strict=True))
        print(f"  {what}: ours is {ratio:.2f} of bare")


def memory(program: NodeProgram) -> str:
    """What the service takes: resident, its proportional share, and what no other process can share."""
    assert program.process is not None
    text = Path(f"/proc/{program.process.pid}/smaps_rollup").read_text()
    told = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in text.splitlines()[1:]}
    return ", ".join(f"{name} {told[name]:.0f} MB" for name in ("Rss", "Pss", "Anonymous"))


def _staged(program: NodeProgram, volume: str, found: dict[str, list[float]]) -> None:
    assert program.process is not None
    own, children = _spent(program.process.pid)
    began = time.monotonic()
    program.stage(volume)
    wall = time.monotonic() - began
    own, children = (now - before for now, before in zip(_spent(program.process.pid), (own, children), strict=True))
    daemon = sum(_spent(program.daemon(volume)))
    _note(found, all=own + children + daemon, wall=wall, service=own, programs=children, daemon=daemon)
    program.unstage(volume)


def _bare(program: NodeProgram, images: NodeImages, volume: str, found: dict[str, list[float]]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="bench-node.", dir="/tmp"))
    image, mount = directory / "image", directory / "mount"
    image.touch()
    mount.mkdir()
    opening = images.opening(VolumeId.parse(volume), None)
    (directory / "key").write_text(opening.credentials.key)
    times, began = os.times(), time.monotonic()
    run: Callable[..., str] = lambda *words: subprocess.run(  # noqa: E731
        words, check=True, capture_output=True, text=True, cwd=directory
    ).stdout.strip()
    run(*daemon_command(Attachment(opening), image, str(directory / "key")))
    loop = run("losetup", "--find", "--show", "--direct-io=on", str(image))
    run("mkfs.ext4", "-q", "-F", "-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1", loop)
    run("mount", "-t", "ext4", loop, str(mount))
    wall, now = time.monotonic() - began, os.times()
    programs = now.children_user + now.children_system - times.children_user - times.children_system
    daemon = program.daemon_of(image)
    spent = sum(_spent(daemon))
    _note(found, all=programs + spent, wall=wall, programs=programs, daemon=spent)
    run("umount", str(mount))
    run("losetup", "-d", loop)
    os.kill(daemon, signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{daemon}/ns"), 30, "the storage daemon ends")
    shutil.rmtree(directory, ignore_errors=True)


def _note(found: dict[str, list[float]], **values: float) -> None:
    for what, value in values.items():
        found.setdefault(what, []).append(value)


def _spent(pid: int) -> tuple[float, float]:
    """Processor seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own, children = (sum(map(int, fields[at : at + 2])) / _TICKS for at in (11, 13))
    return own, children
