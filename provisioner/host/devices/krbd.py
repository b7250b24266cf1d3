"""The kernel's own RBD client, through /sys/bus/rbd (Documentation/ABI/testing/sysfs-bus-rbd): no program, no udev to wait for.

Each mapping bears the volume's tag as the name of its key, which the kernel tells in `config_info` (for root only). So ours are
told from those made by hand, and which volume they are. The key itself goes through the keyring of the mapping thread and is
nowhere afterwards.
"""

import base64
import binascii
import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from provisioner.core.errors import Denied, InUse, InvalidRequest, NotFound, ProvisionerError, Unavailable, Unfit
from provisioner.core.ids import VolumeId
from provisioner.core.model import Opening
from provisioner.host.blocks import size_of, tag
from provisioner.host.commands import Commands
from provisioner.host.devices.keyring import offered_key
from provisioner.host.patience import Patience
from provisioner.host.ports import Attachment

BUS = Path("/sys/bus/rbd")
_MAP_SECONDS, _UNMAP_SECONDS, _GROW_SECONDS = 60.0, 20.0, 15.0
_MONITOR_SECONDS = 30
_FORCED = ".force"
_V2_PORT = "3300"
_OURS_TO_SAY = frozenset(("name", "key", "secret", "fsid", "_pool_ns", "pool_ns", "ro", "read_only", "rw", "read_write"))


class KrbdDevices:
    """The mappings of this kernel."""

    name = "rbd"

    def __init__(self, commands: Commands, more_options: Callable[[], str] = str, bus: Path = BUS) -> None:
        """`more_options` tells what goes into every mapping: where the node is, for reads from the nearest replica."""
        self._commands, self._patience, self._bus, self._more = commands, Patience(), bus, more_options

    def missing(self) -> str:
        """What the kernel lacks: the module is loaded if need be."""
        if not self._bus.is_dir():
            try:
                self._commands.run("modprobe rbd", ["modprobe", "rbd"], _MAP_SECONDS)
            except ProvisionerError as error:
                return f"the kernel has no rbd ({error})"
        return "" if self._bus.is_dir() else "the kernel has no rbd"

    def find(self, volume: VolumeId) -> Path | None:
        """The device that bears the volume's tag."""
        return next((Path("/dev") / f"rbd{entry.name}" for entry in self._entries() if _bears(entry, volume)), None)

    def lost(self) -> list[VolumeId]:
        """None: what serves them is the kernel."""
        return []

    def let_go(self, volume: VolumeId) -> None:
        """Nothing to be left behind."""

    def attach(self, attachment: Attachment) -> Path:
        """Map the image. A mapping made by hand is in the way, since nobody could say who may unmap it."""
        volume, image = attachment.image.volume, attachment.image
        if found := self.find(volume):
            return found
        if by_hand := [entry.name for entry in self._entries() if _shows(entry, image)]:
            raise InUse(f"image {volume}", [f"a mapping made by hand, /dev/rbd{by_hand[0]}"])
        options = map_options(attachment, self._more())
        try:
            self._map(attachment, options)
        except BrokenPipeError:  # the kernel's shared client was fenced: a client of its own is a new one
            self._map(attachment, f"{options},noshare")
        found = self.find(volume)
        if found is None:
            raise Unavailable(f"image {volume} was mapped, and its device is gone again")
        return found

    def detach(self, volume: VolumeId) -> None:
        """Unmap what bears the volume's tag. InUse while the device is open, unless it was mapped to be forced."""
        deadline, pause = time.monotonic() + _UNMAP_SECONDS, threading.Event()
        while device := self.find(volume):
            number = device.name.removeprefix("rbd")
            words = f"{number} force" if _is_forced(self._bus / "devices" / number, volume) else number
            unmap = partial(self._write, "remove", words)
            try:
                self._patience.call(f"unmapping {volume}", _UNMAP_SECONDS, unmap)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise Unavailable(f"unmapping {device}: {error.strerror}") from error
                if time.monotonic() > deadline:
                    raise InUse(str(device), ["a process that has the device open"]) from error
                pause.wait(0.1)

    def grow(self, image: Opening) -> None:
        """Wait for the kernel to notice the image's size; ask it to look."""
        device = self.find(image.volume)
        if device is None:
            raise Unavailable(f"{image.volume} is not mapped any more")
        refresh = self._bus / "devices" / device.name.removeprefix("rbd") / "refresh"
        self._patience.call(f"refreshing {device}", _GROW_SECONDS, lambda: refresh.write_text("1"))
        deadline, pause = time.monotonic() + _GROW_SECONDS, threading.Event()
        while size_of(device) != image.size and time.monotonic() < deadline:
            pause.wait(0.05)

    def address(self, volume: VolumeId) -> str:
        """The address of the kernel client that has the image open."""
        device = self.find(volume)
        if device is None:
            return ""
        return _told(self._bus / "devices" / device.name.removeprefix("rbd"), "client_addr")

    def living(self) -> list[str] | None:
        """The clients behind all mappings, whoever made them."""
        return sorted({_told(entry, "client_addr") for entry in self._entries()})

    def apart(self, attachment: Attachment) -> Attachment:
        """The kernel's clients are shared unless told otherwise."""
        return replace(attachment, options=",".join(filter(None, (attachment.options, "noshare"))))

    def _entries(self) -> list[Path]:
        devices = self._bus / "devices"
        return sorted(devices.iterdir()) if devices.is_dir() else []

    def _map(self, attachment: Attachment, options: str) -> None:
        image, place = attachment.image, attachment.image.volume.place
        words = f"{','.join(image.monitors)} {options} {place.pool} {image.volume.image} -"

        def work() -> None:
            with offered_key(_key_name(attachment), _secret(image)):
                self._write("add", words)

        try:
            self._patience.call(f"mapping {image.volume}", _MAP_SECONDS, work)
        except OSError as error:
            raise _explained(image, error) from error

    def _write(self, verb: str, words: str) -> None:
        single = self._bus / f"{verb}_single_major"
        with os.fdopen(os.open(single if single.exists() else self._bus / verb, os.O_WRONLY), "wb", buffering=0) as file:
            file.write(words.encode())


def map_options(attachment: Attachment, more: str = "") -> str:
    """The options of a mapping, ours and the asker's. Raises InvalidRequest for those that are ours to say."""
    image, place = attachment.image, attachment.image.volume.place
    ours = [f"name={image.credentials.user}", f"key={_key_name(attachment)}"]
    ours += [f"_pool_ns={place.namespace}"] if place.namespace else []
    ours += ["ro"] if attachment.read_only else []
    asked = [option.strip() for option in f"{more},{attachment.options}".split(",") if option.strip()]
    for option in asked:
        if option.partition("=")[0] in _OURS_TO_SAY or not option.isprintable() or " " in option:
            raise InvalidRequest("mapOptions", option, "is not for a class to say")
    names = {option.partition("=")[0] for option in asked}
    ours += [f"mount_timeout={_MONITOR_SECONDS}"] if "mount_timeout" not in names else []
    v2_only = all(address.rpartition(":")[2] == _V2_PORT for address in image.monitors)
    ours += ["ms_mode=prefer-crc"] if v2_only and "ms_mode" not in names else []
    return ",".join([*ours, *asked])


def _secret(image: Opening) -> bytes:
    try:
        return base64.b64decode(image.credentials.key, validate=True)
    except binascii.Error as error:
        raise Denied(f"image {image.volume} to client.{image.credentials.user}: the key is malformed") from error


def _key_name(attachment: Attachment) -> str:
    """The name of the mapping's key: the one thing that the kernel keeps for us. It tells the volume, and how to unmap it."""
    return tag(attachment.image.volume) + (_FORCED if attachment.forced else "")


def _bears(entry: Path, volume: VolumeId) -> bool:
    return f"key={tag(volume)}" in _words(entry) or _is_forced(entry, volume)


def _is_forced(entry: Path, volume: VolumeId) -> bool:
    return f"key={tag(volume)}{_FORCED}" in _words(entry)


def _words(entry: Path) -> list[str]:
    return _told(entry, "config_info").replace(" ", ",").split(",")


def _shows(entry: Path, image: Opening) -> bool:
    place = image.volume.place
    told = tuple(_told(entry, name) for name in ("cluster_fsid", "pool", "pool_ns", "name", "current_snap"))
    return told == (image.fsid, place.pool, place.namespace, image.volume.image, "-")


def _told(entry: Path, name: str) -> str:
    try:
        return (entry / name).read_text().strip()
    except OSError:
        return ""


def _explained(image: Opening, error: OSError) -> ProvisionerError | OSError:
    code, user = error.errno, image.credentials.user
    if code == errno.ENOENT:
        return NotFound(f"image {image.volume}")
    if code in (errno.EPERM, errno.EACCES, errno.ENOKEY, errno.EKEYREJECTED):
        return Denied(f"image {image.volume} to client.{user}")
    if code == errno.ESHUTDOWN:
        return BrokenPipeError(code, "fenced")
    if code == errno.EROFS:
        return InUse(f"image {image.volume}", ["a client that keeps its lock"])
    if code in (errno.ENXIO, errno.EINVAL):
        return Unfit(f"image {image.volume}", f"can't be mapped by this kernel, dmesg tells why: {error.strerror}")
    return Unavailable(f"mapping image {image.volume}: {error.strerror}")
