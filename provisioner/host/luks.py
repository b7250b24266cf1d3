"""LUKS2 under a file system or a block volume, by cryptsetup. What is open is read from the device mapper.

A key goes through stdin, a second one through a file in memory.
Argon2's memory is bounded, so that opening a volume fits into a container of 256 MB.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioner.core.encryption import Encryption
from provisioner.core.errors import Denied, InUse, InvalidRequest, OutOfRange, ProvisionerError, Unavailable, Unfit
from provisioner.core.ids import VolumeId
from provisioner.host.blocks import SYS_BLOCK, size_of, tag
from provisioner.host.commands import CommandFailed, Commands

KIND = "crypto_LUKS"
"""What blkid calls it."""

_SECONDS = 240.0
_WIPE_SECONDS = 3600.0
"""With integrity, cryptsetup writes the whole device once."""
_MEMORY_KIB, _PASSES = 64 * 1024, 4
_DERIVATION = (
    *("--pbkdf", "argon2id", "--pbkdf-memory", str(_MEMORY_KIB)),
    *("--pbkdf-parallel", "1", "--pbkdf-force-iterations", str(_PASSES)),
)
_INTEGRITY = "_dif"
"""What cryptsetup appends to the name of the device with the tags, below the one with the data."""
_BAD_OPTION, _BAD_PASSPHRASE, _BUSY = 1, 2, 5
"""cryptsetup(8): exit codes."""


class Luks:
    """Formats, opens, grows and closes."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def find(self, volume: VolumeId) -> Path | None:
        """The open mapping of the volume."""
        return Path("/dev/mapper") / tag(volume) if _is_open(tag(volume)) else None

    def format(self, device: Path, how: Encryption, key: str) -> None:
        """Make the header, whatever is there. Raises InvalidRequest for options that cryptsetup refuses."""
        sector = ["--sector-size", str(how.sector_size)] if how.sector_size else []
        integrity = ["--integrity", how.integrity] if how.integrity else []
        words = ["luksFormat", "--type", "luks2", "--cipher", how.cipher, "--key-size", str(how.key_size), *sector, *integrity]
        try:
            self._run(device, [*words, *_DERIVATION, str(device)], key, _WIPE_SECONDS if integrity else _SECONDS)
        except CommandFailed as error:
            if "too small" in error.said:
                raise OutOfRange("size", size_of(device), f"is too small for LUKS2: {error.said}") from error
            if error.code == _BAD_OPTION and "device-mapper" not in error.said:
                said = f"{how.cipher}, {how.key_size} bits, {how.integrity or 'without integrity'}"
                raise InvalidRequest("encryptionCipher", said, error.said) from error
            raise _explained(device, error) from error

    def open(self, device: Path, volume: VolumeId, keys: Sequence[str], *, read_only: bool, integrity: bool = False) -> Path:
        """Open the volume with the first key that does, or give what is open. Raises Denied where none does."""
        if found := self.find(volume):
            return found
        kind = ["--readonly"] if read_only else [] if integrity else ["--allow-discards"]
        for key in keys:
            try:
                self._run(device, ["open", "--type", "luks2", *kind, str(device), tag(volume)], key)
            except CommandFailed as error:
                if error.code != _BAD_PASSPHRASE:
                    raise _explained(device, error) from error
            else:
                return Path("/dev/mapper") / tag(volume)
        raise Denied("opening the volume: the passphrase is wrong", str(device))

    def opens(self, device: Path, key: str) -> bool:
        """Whether the key is one of the header's."""
        try:
            self._run(device, ["open", "--test-passphrase", "--type", "luks2", str(device)], key)
        except CommandFailed as error:
            if error.code != _BAD_PASSPHRASE:
                raise _explained(device, error) from error
            return False
        return True

    def add_key(self, device: Path, key: str, new: str) -> None:
        """Have the header open with `new` as well as with `key`; does so already is fine. Both stay off the command line."""
        if self.opens(device, new):
            return
        try:
            with _secret_file(new) as (fd, path):
                self._run(device, ["luksAddKey", *_DERIVATION, str(device), path], key, fds=[fd])
        except CommandFailed as error:
            raise _explained(device, error) from error

    def remove_key(self, device: Path, key: str, left: str) -> None:
        """Take a key from the header that `left` opens as well; gone already is fine."""
        if not self.opens(device, left):
            raise Denied("the key that is to be left", str(device))
        if not self.opens(device, key):
            return
        try:
            self._run(device, ["luksRemoveKey", str(device)], key)
        except CommandFailed as error:
            raise _explained(device, error) from error

    def grow(self, device: Path, volume: VolumeId, keys: Sequence[str]) -> None:
        """Let an open volume fill its device. The kernel takes the key anew for that. Unfit without one, or with integrity."""
        if _is_open(f"{tag(volume)}{_INTEGRITY}"):
            raise Unfit(f"volume {volume}", "is encrypted with integrityMode: such a volume can't be grown")
        if not keys:
            raise Unfit(f"volume {volume}", "is encrypted: growing it takes csi.storage.k8s.io/node-expand-secret-name")
        failure: CommandFailed | None = None
        for key in keys:
            try:
                self._run(device, ["resize", tag(volume)], key)
            except CommandFailed as error:
                failure = error
            else:
                return
        if failure is not None:
            raise _explained(device, failure) from failure

    def close(self, volume: VolumeId) -> None:
        """Close the volume; not open is fine. Raises InUse."""
        if self.find(volume) is None:
            return
        try:
            self._commands.run(str(volume), ["cryptsetup", "close", tag(volume)], _SECONDS)
        except CommandFailed as error:
            if error.code == _BUSY:
                raise InUse(f"volume {volume}", ["a process that has the device open"]) from error
            raise Unavailable(f"closing {volume}: {error.said}") from error

    def _run(self, device: Path, words: list[str], key: str, seconds: float = _SECONDS, fds: Sequence[int] = ()) -> None:
        command = ["cryptsetup", "--batch-mode", "--key-file", "-", *words]
        self._commands.run(str(device), command, seconds, stdin=key.encode(), fds=fds)


def _is_open(name: str) -> bool:
    """Whether the device mapper has a device of that name."""
    return any(_told(entry) == name for entry in SYS_BLOCK.glob("dm-*/dm/name"))


def _told(entry: Path) -> str:
    try:
        return entry.read_text().strip()
    except OSError:
        return ""


def _explained(device: Path, error: CommandFailed) -> ProvisionerError:
    if error.code == 127:
        return Unfit("this node", "has no cryptsetup")
    if error.code == _BAD_PASSPHRASE:
        return Denied("opening the volume: the passphrase is wrong", str(device))
    return Unavailable(f"cryptsetup on {device}: {error.said}")


@contextmanager
def _secret_file(secret: str) -> Iterator[tuple[int, str]]:
    """A file in memory that a child may inherit, and the path by which the child finds it."""
    fd = os.memfd_create("key", 0)
    try:
        os.write(fd, secret.encode())
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
