"""LUKS2 under a file system or a block volume, by cryptsetup. What is open is read from the device mapper.

The passphrase goes through stdin. Argon2's memory is bounded, so that opening a volume fits into a container of 256 MB.
"""

from dataclasses import dataclass, field
from pathlib import Path

from provisioner.core.errors import Denied, InUse, InvalidRequest, Unavailable, Unfit
from provisioner.core.ids import VolumeId
from provisioner.host.blocks import SYS_BLOCK, tag
from provisioner.host.commands import CommandFailed, Commands

KIND = "crypto_LUKS"
"""What blkid calls it."""

_SECONDS = 240.0
_MEMORY_KIB, _PASSES = 64 * 1024, 4
_BAD_PASSPHRASE, _BUSY = 2, 5
"""cryptsetup(8): exit codes."""
_CIPHER, _KEY_SIZES, _SECTOR_SIZES = "aes-xts-plain64", (128, 256, 512), (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a volume is encrypted; sizes of keys in bits, of sectors in bytes, 0 for cryptsetup's own choice."""

    passphrase: str = field(repr=False)
    cipher: str = _CIPHER
    key_size: int = 512
    sector_size: int = 0

    def __post_init__(self) -> None:
        if not self.passphrase:
            raise InvalidRequest("secrets.encryptionPassphrase", "", "is needed for an encrypted volume")
        if not self.cipher.replace("-", "").replace(":", "").isalnum():
            raise InvalidRequest("encryptionCipher", self.cipher, "is no cipher's name")
        if self.key_size not in _KEY_SIZES:
            raise InvalidRequest("encryptionKeySize", self.key_size, f"must be one of {_KEY_SIZES}")
        if self.sector_size not in (0, *_SECTOR_SIZES):
            raise InvalidRequest("encryptionSectorSize", self.sector_size, f"must be one of {_SECTOR_SIZES}")


class Luks:
    """Formats, opens, grows and closes."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def find(self, volume: VolumeId) -> Path | None:
        """The open mapping of the volume."""
        for entry in SYS_BLOCK.glob("dm-*/dm/name"):
            if entry.read_text().strip() == tag(volume):
                return Path("/dev/mapper") / tag(volume)
        return None

    def format(self, device: Path, how: Encryption) -> None:
        """Make the header, whatever is there."""
        sector = ["--sector-size", str(how.sector_size)] if how.sector_size else []
        words = ["luksFormat", "--type", "luks2", "--cipher", how.cipher, "--key-size", str(how.key_size), *sector]
        words += ["--pbkdf", "argon2id", "--pbkdf-memory", str(_MEMORY_KIB), "--pbkdf-parallel", "1"]
        words += ["--pbkdf-force-iterations", str(_PASSES), str(device)]
        self._run(device, words, how)

    def open(self, device: Path, volume: VolumeId, how: Encryption, *, read_only: bool) -> Path:
        """Open the volume, or give what is open. Raises Denied for a wrong passphrase."""
        if found := self.find(volume):
            return found
        kind = ["--readonly"] if read_only else ["--allow-discards"]
        self._run(device, ["open", "--type", "luks2", *kind, str(device), tag(volume)], how)
        return Path("/dev/mapper") / tag(volume)

    def grow(self, device: Path, volume: VolumeId, how: Encryption | None) -> None:
        """Let an open volume fill its device. The kernel takes the key anew for that: Raises Unfit without a passphrase."""
        if how is None:
            raise Unfit(f"volume {volume}", "is encrypted: growing it takes csi.storage.k8s.io/node-expand-secret-name")
        self._run(device, ["resize", tag(volume)], how)

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

    def _run(self, device: Path, words: list[str], how: Encryption) -> None:
        try:
            command = ["cryptsetup", "--batch-mode", "--key-file", "-", *words]
            self._commands.run(str(device), command, _SECONDS, stdin=how.passphrase.encode())
        except CommandFailed as error:
            if error.code == 127:
                raise Unfit("this node", "has no cryptsetup") from error
            if error.code == _BAD_PASSPHRASE:
                raise Denied(f"opening {device}: the passphrase is wrong") from error
            raise Unavailable(f"cryptsetup {words[0]} of {device}: {error.said}") from error
