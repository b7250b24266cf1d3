"""Images by rbd-nbd(8): a process for each opens it through librbd, and the kernel's nbd shows it as a block device.

The device bears the volume's id as its cookie, which the kernel keeps (`/sys/block/nbd*/backend`) and which is on the process's
command line: by that both are known after a restart of this service. A process that ended, with the container it ran in or by
itself, leaves its device behind. What is written to and read from that waits, for as long as `reattach-timeout` says, until
another process takes the device over.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from provisioner.core.errors import Denied, InUse, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import VolumeId
from provisioner.core.mapping import nbd_options
from provisioner.core.model import Opening
from provisioner.host.blocks import SYS_BLOCK, is_read_only
from provisioner.host.commands import CommandFailed, Commands
from provisioner.host.devices import netlink
from provisioner.host.mounts import Mounts
from provisioner.host.patience import Patience
from provisioner.host.ports import Attachment
from provisioner.host.processes import ended, running, tell

MODULE = Path("/sys/module/nbd")
_MAP_SECONDS, _UNMAP_SECONDS, _GROW_SECONDS, _END_SECONDS = 90.0, 60.0, 15.0, 10.0
_COOKIE = "cp:"
_DEFAULTS = {"reattach-timeout": "300", "io-timeout": "0"}
"""Seconds. A restart of this service's container fits into the first; 0 has reads and writes wait for a Ceph that is away."""


class NbdDevices:
    """The nbd devices of this kernel that bear our cookies."""

    name = "rbd-nbd"

    def __init__(self, commands: Commands, mounts: Mounts) -> None:
        self._commands, self._mounts, self._patience = commands, mounts, Patience()

    def missing(self) -> str:
        """What the host lacks: the module is loaded if need be."""
        if shutil.which("rbd-nbd") is None:
            return "no rbd-nbd on the PATH"
        if not MODULE.is_dir():
            try:
                self._commands.run("modprobe nbd", ["modprobe", "nbd"], _MAP_SECONDS)
            except ProvisionerError as error:
                return f"the kernel has no nbd ({error})"
        return "" if MODULE.is_dir() else "the kernel has no nbd"

    def find(self, volume: VolumeId) -> Path | None:
        """The device, if the process behind it lives."""
        device = _device(_cookie(volume))
        return device if device is not None and processes(_cookie(volume)) else None

    def lost(self) -> list[VolumeId]:
        """Volumes whose device has no process."""
        found, serving = [], _serving()
        for cookie in _devices():
            with contextlib.suppress(ProvisionerError):  # a stranger's cookie may begin as ours do
                if cookie not in serving:
                    found.append(VolumeId.parse(cookie.removeprefix(_COOKIE)))
        return found

    def let_go(self, volume: VolumeId) -> None:
        """Kill the process, with whatever it has not written yet."""
        for pid in processes(_cookie(volume)):
            tell(pid, signal.SIGKILL)

    def attach(self, attachment: Attachment) -> Path:
        """Start a process for the image: on the device that lost its own, or else on a new one."""
        image, cookie = attachment.image, _cookie(attachment.image.volume)
        nbd_options(attachment.options)
        if found := self.find(image.volume):
            return found
        self._end(cookie)  # a service that was killed may have left a mapping under way
        device = _device(cookie)
        self._start(image, command(replace(attachment, read_only=is_read_only(device)) if device else attachment, device))
        device = _device(cookie)
        if device is None:
            self._end(cookie)
            raise Unavailable(f"image {image.volume} was mapped, and its device is gone again, or bears no cookie")
        return device

    def detach(self, volume: VolumeId) -> None:
        """Unmap, and see to it that the process ends: only then is its client gone from Ceph. InUse while the device is."""
        cookie = _cookie(volume)
        serving = processes(cookie)
        self._disconnect(cookie)
        self._end(cookie, serving)
        self._disconnect(cookie)  # what a mapping that was under way has come to

    def grow(self, image: Opening) -> None:
        """Tell the kernel the image's size: not every rbd-nbd can."""
        device = self.find(image.volume)
        if device is None:
            raise Unavailable(f"the device of {image.volume} has lost its process")
        self._told(device, lambda: netlink.resize(_index(device), _cookie(image.volume), image.size), _GROW_SECONDS)

    def address(self, volume: VolumeId) -> str:
        """Not to be had from rbd-nbd."""
        return ""

    def living(self) -> list[str] | None:
        """None of them is known by its address."""
        return None if _devices() else []

    def apart(self, attachment: Attachment) -> Attachment:
        """Each process is a client of its own."""
        return attachment

    def _start(self, image: Opening, words: list[str]) -> None:
        key = os.memfd_create("key", 0)
        try:
            os.write(key, image.credentials.key.encode())
            self._commands.run(str(image.volume), [*words, "--keyfile", f"/proc/self/fd/{key}"], _MAP_SECONDS, fds=[key])
        except CommandFailed as error:
            raise _explained(image, error) from error
        except Unavailable:
            self._end(_cookie(image.volume))
            raise
        finally:
            os.close(key)

    def _disconnect(self, cookie: str) -> None:
        if device := _device(cookie):
            # nbd lets go of a device that is in use, with whatever was not yet written to it
            if users := self._users(device):
                raise InUse(str(device), users)
            self._told(device, lambda: netlink.disconnect(_index(device)), _UNMAP_SECONDS)

    def _told(self, device: Path, tell: Callable[[], None], seconds: float) -> None:
        try:
            self._patience.call(f"telling the kernel about {device}", seconds, tell)
        except OSError as error:
            raise Unavailable(f"telling the kernel about {device}: {error.strerror}") from error

    def _users(self, device: Path) -> list[str]:
        holders = (SYS_BLOCK / device.name / "holders").iterdir()
        return [mount.target for mount in self._mounts.of(device)] + [f"/dev/{holder.name}" for holder in holders]

    def _end(self, cookie: str, known: list[int] | None = None) -> None:
        """Wait for the end of the processes, after telling them so; `known` are those that may be ending already."""
        for pid in {*(known or ()), *processes(cookie)}:
            for told in (signal.SIGTERM, signal.SIGKILL):
                if pid in processes(cookie):
                    tell(pid, told)
                if ended(pid, _END_SECONDS):
                    break
            else:
                raise Unavailable(f"process {pid} of {cookie} does not end")


def command(attachment: Attachment, device: Path | None) -> list[str]:
    """The words that map the image, or have a process take over the device. No secret is among them. Raises InvalidRequest."""
    image, place = attachment.image, attachment.image.volume.place
    options = {**_DEFAULTS, **nbd_options(attachment.options)}
    options.pop("try-netlink", None)
    words = ["rbd-nbd", "--conf", "/dev/null", "--id", image.credentials.user, "--mon-host", ",".join(image.monitors)]
    words += ["--log-file=/dev/null", "--admin-socket="]  # it would be a daemon with files of its own
    words += ["attach", "--device", str(device)] if device else ["map", "--try-netlink"]
    words += ["--cookie", _cookie(image.volume), *(["--read-only"] if attachment.read_only else [])]
    for name, value in options.items():
        words += [f"--{name}", *([value] if value else [])]
    return [*words, "/".join(filter(None, (place.pool, place.namespace, image.volume.image)))]


def processes(cookie: str) -> list[int]:
    """The processes of rbd-nbd with that cookie."""
    return _serving().get(cookie, [])


def _serving() -> dict[str, list[int]]:
    """The processes of rbd-nbd by their cookies."""
    found: dict[str, list[int]] = {}
    for pid, words in running("rbd-nbd"):
        if "--cookie" in words[:-1]:
            found.setdefault(words[words.index("--cookie") + 1], []).append(pid)
    return found


def _index(device: Path) -> int:
    return int(device.name.removeprefix("nbd"))


def _cookie(volume: VolumeId) -> str:
    return f"{_COOKIE}{volume}"


def _device(cookie: str) -> Path | None:
    return _devices().get(cookie)


def _devices() -> dict[str, Path]:
    """The devices that bear a cookie of ours."""
    found = {}
    for entry in SYS_BLOCK.glob("nbd*/backend"):
        try:
            cookie = entry.read_text().strip()
        except OSError:
            continue
        if cookie.startswith(_COOKIE):
            found[cookie] = Path("/dev") / entry.parent.name
    return found


def _explained(image: Opening, error: CommandFailed) -> ProvisionerError:
    if "(2) No such file" in error.said:
        return NotFound(f"image {image.volume}")
    if "(1) Operation not permitted" in error.said or "(13) Permission denied" in error.said:
        return Denied(f"image {image.volume} to client.{image.credentials.user}")
    return Unavailable(f"image {image.volume}: rbd-nbd says: {error.said}")
