"""What a node does with volumes: stage, publish, grow, report, and the way back. For CSI and machines alike.

Nothing is remembered between two calls: what is staged is read from the kernel (mountinfo, sysfs), so that a process that was
killed in the middle goes on from wherever it was. Each step looks first whether it is done.
"""

import contextlib
import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from provisioner.core.encryption import Encryption
from provisioner.core.errors import AlreadyExists, Conflict, InUse, InvalidRequest, NotFound, ProvisionerError, Unavailable, Unfit
from provisioner.core.ids import VolumeId
from provisioner.core.mapping import is_forced, options_for
from provisioner.core.model import Credentials, Opening
from provisioner.core.single_flight import SingleFlight
from provisioner.host import blocks
from provisioner.host.clients import Clients
from provisioner.host.filesystem import HEAD, TAIL, FileSystems, Wanted, mount_options
from provisioner.host.luks import KIND, Luks
from provisioner.host.mounts import Mount, Mounts, check_path, make_place
from provisioner.host.patience import Patience
from provisioner.host.ports import Attachment, Images, Keys, Kind
from provisioner.host.requests import Publish, Stage
from provisioner.host.stats import Health, Usage, look, usage
from provisioner.host.takeovers import TakeOvers

log = logging.getLogger(__name__)

_FORMATTING, _ENCRYPTING = "formatting", "encrypting"
_HEADER = 16 << 20
"""Bytes that LUKS2 keeps for itself at most, as cryptsetup makes it."""
_OURS = ("/dev/loop", "/dev/rbd", "/dev/nbd", "/dev/mapper/cp-")
"""Where the devices of our mounts are: nothing else is ever unmounted."""


class Node:
    """The volumes of this node."""

    def __init__(
        self,
        images: Images,
        clients: Clients,
        kinds: Sequence[Kind],
        file_systems: FileSystems,
        luks: Luks,
        mounts: Mounts,
        flights: SingleFlight,
        keys: Keys,
    ) -> None:
        """`kinds` in the order in which they are tried for a volume whose class names none."""
        self._clients, self._luks, self._keys = clients, luks, keys
        self._images, self._kinds, self._file_systems = images, kinds, file_systems
        self._mounts, self._flights, self._patience = mounts, flights, Patience()
        self._takeovers = TakeOvers(images, clients, kinds)

    def join(self, clusters: Collection[str], topology: dict[str, str]) -> list[str]:
        """Make this node known in the clusters, and end the fences that have served. Gives what went wrong.

        Devices that lost what served them are served again.
        """
        for volume in self._takeovers.lost():
            with contextlib.suppress(Conflict):  # whatever runs on the volume will find it so
                self._flights.run("resume", str(volume), "", partial(self._resume, volume))
        self._clients.lift_fences(clusters, self._kinds)
        return self._clients.enrol(clusters, topology)

    def stage(self, request: Stage) -> None:
        """Attach, and format and mount unless it is a block volume. Done already is success.

        Raises InvalidRequest, NotFound, AlreadyExists (staged differently), Unfit (holds something else), InUse, OutOfSpace,
        Denied, Unavailable.
        """
        self._flights.run("stage", str(request.volume), request, lambda: self._stage(request))

    def unstage(self, volume: VolumeId, path: str) -> None:
        """Unmount and detach; not there is success. Raises InUse while it is published or open."""
        self._flights.run("unstage", str(volume), path, lambda: self._unstage(volume, path))

    def publish(self, request: Publish) -> None:
        """Show a staged volume at its target. Raises Unfit if it is not staged, AlreadyExists for another use of the target."""
        self._flights.run("publish", str(request.volume), request, lambda: self._publish(request))

    def unpublish(self, volume: VolumeId, target: str) -> None:
        """Take the target away, and the directory or file that it was; not there is success."""
        self._flights.run("unpublish", str(volume), target, lambda: self._unpublish(volume, target))

    def expand(
        self,
        volume: VolumeId,
        path: str,
        required: int,
        credentials: Credentials | None,
        passphrase: str = "",
    ) -> int:
        """Let device and file system follow the image's size; gives that, in bytes. `required` is what it must at least be."""
        work = lambda: self._expand(volume, path, required, credentials, passphrase)  # noqa: E731
        return self._flights.run("grow", str(volume), (path, required), work)

    def usage(self, volume: VolumeId, path: str) -> list[Usage]:
        """What the volume at the path holds. Raises NotFound, Unavailable where the file system does not answer."""
        mount, device = self._mounted(volume, path)
        used = None
        if mount.fs_type in ("devtmpfs", "tmpfs"):
            with contextlib.suppress(ProvisionerError):
                used = self._images.used(self._images.opening(volume, None))
        return usage(self._patience, mount, device, used)

    def health(self, volume: VolumeId, path: str = "") -> list[Health]:
        """What is wrong with the volume here, at the path or wherever it is mounted; nothing if all is well."""
        found = self._find(volume)
        if found is None:
            if path and self._mounts.at(Path(path)) is not None:
                return [Health("INACCESSIBLE", "DeviceLost", f"the device behind {path} is gone")]
            raise NotFound(f"volume {volume} on this node")
        mounts, read_only = self._mounts.of(found[1]), blocks.is_read_only(found[1])
        mounts = [mount for mount in mounts if not path or mount.target == path]
        if path and not mounts:
            raise NotFound(f"volume {volume} at {path}")
        return [ill for mount in mounts for ill in look(self._patience, mount, found[1], read_only=read_only)]

    def _stage(self, request: Stage) -> None:
        path = check_path("staging_target_path", request.path)
        kind = self._kind(request.mounter)
        self._takeovers.serve(request.volume, request.credentials, request.map_options, recorded=request.recorded)
        attached = self._find(request.volume)
        if request.file_system is not None and self._mounts.at(path) is not None:
            if self._is_staged(request, path, attached):
                return
            attached = self._cleared(request.volume, path, attached)
        image = self._images.opening(request.volume, request.credentials)
        kind = attached[0] if attached is not None else kind
        if attached is None and not request.read_only:
            self._images.check_room(image)
        options = options_for(kind.name, request.map_options)
        try:
            attachment = Attachment(image, request.read_only, options, is_forced(request.unmap_options))
            if request.recorded:
                self._clients.attach(kind, attachment, request.credentials)
            device = kind.attach(attachment)
            if blocks.is_read_only(device) and not request.read_only:
                raise AlreadyExists(f"{device} for {request.volume}", ["it is for reading only"])
            # what another has in its caches of a device that was there already, Ceph can't know
            blank = attached is None and not request.read_only and self._images.is_blank(image, HEAD, TAIL)
            if request.encryption is not None:
                device, blank = self._decrypted(request, request.encryption, image, device, blank=blank), False
            if request.file_system is not None:
                self._mount(request, request.file_system, image, device, path, blank=blank)
        except ProvisionerError:
            if attached is None:
                self._undo(kind, request.volume, path)
            raise

    def _resume(self, volume: VolumeId) -> None:
        try:
            self._takeovers.serve(volume, None)
            log.info("the device of %s is served again", volume)
        except ProvisionerError as error:  # its credentials may be those of a request: the next stage brings them
            log.warning("the device of %s has lost its process: %s", volume, error)

    def _is_staged(self, request: Stage, path: Path, attached: tuple[Kind, Path] | None) -> bool:
        """Whether the volume is mounted there, well and as asked for; False for what is left there of a lost device."""
        there = self._mounts.at(path)
        if there is None:
            return False
        if not there.source.startswith(_OURS):
            raise Unfit(str(path), f"has {there.fs_type} mounted that is not ours")
        wanted = request.file_system.kind if request.file_system else ""
        if attached is not None and there in self._mounts.of(attached[1]):
            if wanted and wanted != there.fs_type:
                raise AlreadyExists(f"{there.fs_type} at {path}", [f"asked for {wanted}"])
            if "ro" in there.options and not request.read_only:
                raise AlreadyExists(f"{there.fs_type} at {path}", ["it is for reading only"])
            if not look(self._patience, there, attached[1], read_only=request.read_only):
                return True
        elif attached is not None:
            raise AlreadyExists(f"a mount at {path}", [f"it shows {there.source}, not {request.volume}"])
        return False

    def _cleared(self, volume: VolumeId, path: Path, attached: tuple[Kind, Path] | None) -> tuple[Kind, Path] | None:
        """Take a mount away that has lost its device or turned read-only, and its device too if nobody else has it mounted."""
        log.warning("%s has lost its device or turned read-only: mounting it anew", path)
        self._mounts.unmount(path)
        if attached is not None and not self._mounts.of(attached[1]):
            self._luks.close(volume)
            attached[0].detach(volume)
            return None
        return attached

    def _mount(self, request: Stage, wanted: Wanted, image: Opening, device: Path, path: Path, *, blank: bool) -> None:
        kind, fresh = self._file_system(request, wanted, image, device, blank=blank)
        if not fresh and not request.read_only:
            self._file_systems.check(device, kind)
        make_place("staging_target_path", path)
        untouched = request.read_only and blocks.is_read_only(device)
        options = mount_options(kind, request.flags, read_only=request.read_only, untouched=untouched)
        self._mounts.mount(device, path, kind, options)
        if not fresh and not request.read_only and self._file_systems.lags(device, kind):
            self._file_systems.grow(device, kind, path)

    def _file_system(self, request: Stage, wanted: Wanted, image: Opening, device: Path, *, blank: bool) -> tuple[str, bool]:
        """Find the device's file system, or make one; tells whether it was made. Nothing is to be found on a `blank` one."""
        begun = not request.read_only and self._images.note(image, _FORMATTING)
        found = "" if begun or blank else self._file_systems.probe(device)
        if found:
            if found == KIND:
                raise Unfit(f"volume {request.volume}", "is encrypted, and was not asked for so")
            if wanted.kind and found != wanted.kind:
                raise Unfit(f"volume {request.volume}", f"holds {found}, asked for {wanted.kind}")
            return found, False
        if request.read_only:
            raise Unfit(f"volume {request.volume}", "holds no file system, and nothing may be written to it")
        if not begun:
            self._images.take_note(image, _FORMATTING, "begun")
        try:
            self._file_systems.make(device, wanted)
        except InvalidRequest:
            self._images.take_note(image, _FORMATTING, "")
            raise
        self._images.take_note(image, _FORMATTING, "")
        return wanted.kind or "ext4", True

    def _decrypted(self, request: Stage, how: Encryption, image: Opening, device: Path, *, blank: bool) -> Path:
        """Open an encrypted device, after making it one if there is surely nothing on it."""
        if found := self._luks.find(request.volume):
            return found
        begun = not request.read_only and self._images.note(image, _ENCRYPTING)
        holds = "" if begun or blank else self._file_systems.probe(device)
        if not holds and request.read_only:
            raise Unfit(f"volume {request.volume}", "holds nothing, and nothing may be written to it")
        if holds and holds != KIND:
            raise Unfit(f"volume {request.volume}", f"holds {holds} in clear, asked for encryption")
        keys = self._keys.held(image, how) if holds else self._keys.ensure(image, how)
        if not holds:
            self._encrypt(request, how, image, device, keys[0])
        return self._luks.open(device, request.volume, keys, read_only=request.read_only, integrity=bool(how.integrity))

    def _encrypt(self, request: Stage, how: Encryption, image: Opening, device: Path, key: str) -> None:
        notes = [_ENCRYPTING]
        if request.file_system is not None:  # what nobody wrote reads as noise once it is encrypted: it is to be formatted
            notes.insert(0, _FORMATTING)
        for note in notes:
            self._images.take_note(image, note, "begun")
        try:
            self._luks.format(device, how, key)
        except InvalidRequest:
            for note in notes:
                self._images.take_note(image, note, "")
            raise
        self._images.take_note(image, _ENCRYPTING, "")

    def _undo(self, kind: Kind, volume: VolumeId, path: Path) -> None:
        try:
            if (there := self._mounts.at(path)) is not None and there.source.startswith(_OURS):
                self._mounts.unmount(path)
            self._luks.close(volume)
            kind.detach(volume)
        except ProvisionerError as error:
            log.warning("undoing the stage of %s: %s", volume, error)

    def _unstage(self, volume: VolumeId, text: str) -> None:
        path = check_path("staging_target_path", text)
        if volume in self._takeovers.lost():  # what was written to it waits
            self._resume(volume)
        found = self._find(volume)
        if found and (others := [mount.target for mount in self._mounts.of(found[1]) if mount.target != str(path)]):
            raise InUse(f"volume {volume}", [f"mount {target}" for target in others])
        self._unmount(path)
        self._luks.close(volume)
        for kind in self._kinds:
            kind.detach(volume)
        self._clients.gone(volume)

    def _publish(self, request: Publish) -> None:
        staging = check_path("staging_target_path", request.staging)
        target = check_path("target_path", request.target)
        found = self._find(request.volume)
        if found is None:
            raise Unfit(f"volume {request.volume}", "is not staged on this node")
        device, mounts = found[1], self._mounts.of(found[1])
        if not request.block and not any(mount.target == str(staging) for mount in mounts):
            raise Unfit(f"volume {request.volume}", f"is not staged at {staging}")
        if (there := self._mounts.at(target)) is not None:
            _refuse_other_use(there, mounts, request)
            return
        others = [mount.target for mount in mounts if mount.target not in (str(staging), str(target))]
        if request.alone and others:
            raise Unfit(f"volume {request.volume}", f"is published to its single writer already, at {others[0]}")
        self._bind(device if request.block else staging, target, block=request.block, read_only=request.read_only)

    def _bind(self, shown: Path, target: Path, *, block: bool, read_only: bool) -> None:
        make_place("target_path", target, is_file=block)
        try:
            self._mounts.bind(shown, target, read_only=read_only)
        except ProvisionerError:
            with contextlib.suppress(ProvisionerError):
                self._mounts.unmount(target)
                _remove(target)
            raise

    def _unpublish(self, volume: VolumeId, text: str) -> None:
        target = check_path("target_path", text)
        self._unmount(target)
        _remove(target)

    def _unmount(self, path: Path) -> None:
        there = self._mounts.at(path)
        if there is None:
            return
        if not there.source.startswith(_OURS) and there.fs_type not in ("devtmpfs", "tmpfs"):
            raise Unfit(str(path), f"has {there.fs_type} of {there.source} mounted, which is not ours")
        self._mounts.unmount(path)

    def _expand(self, volume: VolumeId, path: str, required: int, credentials: Credentials | None, passphrase: str) -> int:
        mount, device = self._mounted(volume, path)
        image = self._images.opening(volume, credentials)
        if image.size < required:
            raise Unfit(f"volume {volume}", f"has {image.size} bytes, less than {required}: the controller grows it first")
        self._grow(image, passphrase)
        if mount.fs_type not in ("devtmpfs", "tmpfs"):
            self._file_systems.grow(device, mount.fs_type, Path(mount.target))
        return image.size

    def _grow(self, image: Opening, passphrase: str) -> None:
        """Have the device show the image's size, and what is open of it if it is encrypted."""
        for kind in self._kinds:
            if (device := kind.find(image.volume)) is None:
                continue
            before = blocks.size_of(device)
            if before != image.size:
                kind.grow(image)
            if blocks.size_of(device) < image.size:
                raise Unavailable(f"{device} does not show the {image.size} bytes of its image yet")
            opened = self._luks.find(image.volume)
            if opened is not None and image.size - blocks.size_of(opened) > _HEADER:
                self._luks.grow(device, image.volume, self._keys.find(image, passphrase))

    def _mounted(self, volume: VolumeId, path: str) -> tuple[Mount, Path]:
        """The mount of the volume at the path, and its device. Raises NotFound."""
        found = self._find(volume)
        mount = self._mounts.at(Path(path)) if found else None
        if found is None or mount is None or mount not in self._mounts.of(found[1]):
            raise NotFound(f"volume {volume} at {path!r}")
        return mount, found[1]

    def _find(self, volume: VolumeId) -> tuple[Kind, Path] | None:
        """The volume's device, of whichever kind; of an encrypted volume, what is open of it."""
        found = next(((kind, device) for kind in self._kinds if (device := kind.find(volume))), None)
        return (found[0], self._luks.find(volume) or found[1]) if found else None

    def _kind(self, name: str) -> Kind:
        """The kind of that name, or with "" or "auto" the first that works here."""
        automatic, lacking = name in ("", "auto"), {}
        for kind in self._kinds:
            if automatic or kind.name == name:
                if not (why := kind.missing()):
                    return kind
                lacking[kind.name] = why
        if not lacking:
            raise InvalidRequest("mounter", name, f"must be one of {', '.join(kind.name for kind in self._kinds)}, auto")
        raise Unfit("this node", f"can't attach: {'; '.join(f'{kind}: {why}' for kind, why in lacking.items())}")


def _refuse_other_use(there: Mount, mounts: Sequence[Mount], request: Publish) -> None:
    """Raise AlreadyExists unless what is mounted at the target is what was asked for."""
    if there not in mounts:
        raise AlreadyExists(f"a mount at {request.target}", [f"it shows {there.source}, not {request.volume}"])
    if ("ro" in there.options) != request.read_only and not ("ro" in there.super_options and request.read_only):
        raise AlreadyExists(f"the mount at {request.target}", [f"readonly is {not request.read_only}"])


def _remove(target: Path) -> None:
    try:
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink(missing_ok=True)
    except OSError as error:
        raise Unfit(str(target), f"can't be removed: {error.strerror}") from error
