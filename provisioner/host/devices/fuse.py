"""An image as a file, by qemu's storage daemon and FUSE, and the file as a loop device: for hosts without a kernel client.

The daemon is a process of its own and outlives a restart of this one, but not that of a container it was started in. All
that is known of a device is in the kernel: the mount on the image's file, the loop device with that file behind it, and
the daemon's socket beside it. A container's end takes the mount along, too: its loop device is good for nothing then, and is
freed when it is mounted nowhere any more.
"""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from provisioner.core.errors import InUse, InvalidRequest, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.model import Opening
from provisioner.host.blocks import is_cut_off, loops_on, size_of, tag, unmounted_loops
from provisioner.host.commands import CommandFailed, Commands
from provisioner.host.devices.qmp import connected, listener
from provisioner.host.mounts import Mounts, make_place
from provisioner.host.patience import Patience
from provisioner.host.ports import Attachment
from provisioner.host.processes import ended, running, tell, until

_SECONDS, _ANSWER_SECONDS = 40.0, 10.0
_NODE = "image"
_DAEMON = "qemu-storage-daemon"


class FuseDevices:
    """The loop devices of one directory, which has a directory for each image."""

    name = "fuse"

    def __init__(self, directory: Path, commands: Commands, mounts: Mounts) -> None:
        self._directory, self._commands, self._mounts, self._patience = directory, commands, mounts, Patience()

    def missing(self) -> str:
        """What the host lacks."""
        if shutil.which(_DAEMON) is None:
            return f"no {_DAEMON} on the PATH"
        return next((f"no {path}" for path in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(path)), "")

    def find(self, volume: VolumeId) -> Path | None:
        """The loop device, if the daemon behind it lives."""
        loops = loops_on(self._file(volume))
        return loops[0] if loops and self._lives(volume) else None

    def lost(self) -> list[VolumeId]:
        """None: a daemon's end takes its file with it, and the loop device is good for nothing."""
        return []

    def let_go(self, volume: VolumeId) -> None:
        """Nothing to be left behind."""

    def attach(self, attachment: Attachment) -> Path:
        """Start a daemon and set up the loop device."""
        volume = attachment.image.volume
        if attachment.options:
            raise InvalidRequest("mapOptions", attachment.options, "mounter fuse has none")
        if found := self.find(volume):
            return found
        if not self._lives(volume):
            self.detach(volume)
            self._start(attachment)
        kind = ["--read-only"] if attachment.read_only else []
        words = ["losetup", "--find", "--show", "--direct-io=on", *kind, str(self._file(volume))]
        try:
            return Path(self._commands.run(str(volume), words, _SECONDS).strip())
        except CommandFailed as error:
            raise Unavailable(f"loop device for {volume}: {error.said}") from error

    def detach(self, volume: VolumeId) -> None:
        """Take the loop device away, end the daemon, remove what is left of its mount."""
        file = self._file(volume)
        for loop in loops_on(file):
            self._free(volume, loop)
        self._free_lost(volume)
        self._end(volume)
        self._mounts.unmount(file)
        shutil.rmtree(file.parent, ignore_errors=True)

    def grow(self, image: Opening) -> None:
        """Tell the daemon of the new size, and the loop device of the file's."""
        loops = loops_on(self._file(image.volume))
        with connected(self._socket(image.volume), lambda: self._touch(image.volume)) as monitor:
            if monitor is None or not loops:
                raise Unavailable(f"the device of {image.volume} has lost its daemon")
            monitor.execute("block_resize", **{"node-name": _NODE, "size": image.size})
        # the kernel keeps a file's size for a second, and a loop device takes it from there
        until(lambda: self._file(image.volume).stat().st_size == image.size, 5.0)
        for loop in loops:
            if size_of(loop) != image.size:
                self._losetup(image.volume, "--set-capacity", str(loop))

    def address(self, volume: VolumeId) -> str:
        """Not to be had from a storage daemon."""
        return ""

    def living(self) -> list[str] | None:
        """None of them is known by its address."""
        return None if self._directory.is_dir() and any(self._directory.iterdir()) else []

    def apart(self, attachment: Attachment) -> Attachment:
        """Each daemon is a client of its own."""
        return attachment

    def _file(self, volume: VolumeId) -> Path:
        return self._directory / tag(volume) / "image"

    def _socket(self, volume: VolumeId) -> Path:
        return self._file(volume).with_name("qmp")

    def _lives(self, volume: VolumeId) -> bool:
        """Whether the daemon answers. Raises Unavailable if it is there, but keeps silent."""
        try:
            self._touch(volume)
        except OSError:
            return False
        return self._mounts.at(self._file(volume)) is not None

    def _touch(self, volume: VolumeId) -> None:
        """Have the daemon answer what the kernel does not answer in its place."""
        file = self._file(volume)
        self._patience.call(f"the storage daemon of {volume}", _ANSWER_SECONDS, lambda: os.statvfs(file))

    def _start(self, attachment: Attachment) -> None:
        file, image = self._file(attachment.image.volume), attachment.image
        make_place("--run-directory", file.parent, parents=True)
        make_place("--run-directory", file, is_file=True)
        key = os.memfd_create("key", 0)
        try:
            os.write(key, image.credentials.key.encode())
            words = daemon_command(attachment, file, f"/proc/self/fd/{key}")
            self._commands.run(str(image.volume), words, _SECONDS, fds=[key], cwd=str(file.parent))
        except CommandFailed as error:
            self.detach(image.volume)
            raise _explained(image, error.said) from error
        finally:
            os.close(key)

    def _free(self, volume: VolumeId, loop: Path) -> None:
        if self._mounts.of(loop):
            raise InUse(str(loop), [mount.target for mount in self._mounts.of(loop)])
        self._losetup(volume, "--detach", str(loop))
        # somebody else's brief look at the device puts its end off until that is over
        if not until(lambda: loop not in loops_on(self._file(volume)), _ANSWER_SECONDS):
            raise InUse(str(loop), ["a process that has the device open"])

    def _free_lost(self, volume: VolumeId) -> None:
        """Free loop devices whose daemon ended together with its container: nothing tells any more whose they were."""
        for loop in unmounted_loops():
            with contextlib.suppress(OSError, Unavailable):  # another volume's end is at it, too
                if not self._mounts.of(loop) and self._is_lost(loop):
                    self._losetup(volume, "--detach", str(loop))

    def _is_lost(self, loop: Path) -> bool:
        return self._patience.call(f"the daemon of {loop}", _ANSWER_SECONDS, lambda: is_cut_off(loop))

    def _losetup(self, volume: VolumeId, *words: str) -> None:
        try:
            self._commands.run(str(volume), ["losetup", *words], _SECONDS)
        except CommandFailed as error:
            raise Unavailable(f"losetup {' '.join(words)}: {error.said}") from error

    def _end(self, volume: VolumeId) -> None:
        """See to it that the daemon ends: only then is its client gone from Ceph."""
        if self._mounts.at(self._file(volume)) is None:
            for pid in _starting(self._file(volume)):
                tell(pid, signal.SIGKILL)
                ended(pid, _SECONDS / 4)
        pid = listener(self._socket(volume))
        if not pid:
            return
        tell(pid, signal.SIGTERM)
        if not ended(pid, _SECONDS / 2):
            tell(pid, signal.SIGKILL)
            ended(pid, _SECONDS / 4)


def daemon_command(attachment: Attachment, file: Path, key_file: str) -> list[str]:
    """The storage daemon's command line: no secret is on it. It is run in the file's directory."""
    image, place = attachment.image, attachment.image.volume.place
    servers = [address.rpartition(":") for address in image.monitors]
    node = {
        "driver": "rbd",
        "node-name": _NODE,
        "pool": place.pool,
        "image": image.volume.image,
        "user": image.credentials.user,
        "key-secret": "key",
        "auth-client-required": ["cephx"],
        "server": [{"host": host.strip("[]"), "port": port} for host, _, port in servers],
        "read-only": attachment.read_only,
        "discard": "unmap",
        "cache": {"direct": True},
    }
    if place.namespace:
        node["namespace"] = place.namespace
    export = {
        "type": "fuse",
        "id": "export",
        "node-name": _NODE,
        "mountpoint": str(file),
        "writable": not attachment.read_only,
    }
    words = [_DAEMON, "--daemonize"]
    # in this order: by its socket one is found that still opens its image, and without a directory for that it mounts nothing
    words += ["--chardev", "socket,id=qmp,path=qmp,server=on,wait=off", "--monitor", "chardev=qmp"]
    words += ["--object", json.dumps({"qom-type": "secret", "id": "key", "format": "base64", "file": key_file})]
    return [*words, "--blockdev", json.dumps(node), "--export", json.dumps(export)]


def _starting(file: Path) -> list[int]:
    """Daemons for the file that don't show it yet: left behind where a start took too long, as with a cluster that is full."""
    if not file.parent.is_dir():
        return []
    shown = json.dumps(str(file))
    return [pid for pid, words in running(_DAEMON) if any(shown in word for word in words)]


def _explained(image: Opening, said: str) -> ProvisionerError:
    if "No such file or directory" in said:
        return NotFound(f"image {image.volume}")
    return Unavailable(f"image {image.volume}: the storage daemon says: {said}")
