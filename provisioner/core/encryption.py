"""How a volume is to be encrypted: the names and limits that classes and nodes share, checked before anything is made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner.core.errors import InvalidRequest

PARAMETERS = ("encryptionKMSID", "encryptionCipher", "encryptionKeySize", "encryptionSectorSize", "integrityMode")
"""What a class says beside `encrypted`, as ceph-csi names it."""
PASSPHRASE = "encryptionPassphrase"  # noqa: S105
"""The field of a secret."""

_CIPHER = "aes-xts-plain64"
_KEY_SIZES, _SECTOR_SIZES = (128, 256, 512), (512, 1024, 2048, 4096)
INTEGRITY_MODES = ("hmac-sha256", "hmac-sha512")
_CIPHER_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+){1,2}(:[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a volume is encrypted; sizes of keys in bits, of sectors in bytes, 0 for cryptsetup's own choice.

    Without `kms` the passphrase is the key; with one, it is what some kinds of KMS wrap the key with.
    """

    passphrase: str = field(default="", repr=False)
    cipher: str = _CIPHER
    key_size: int = 512
    sector_size: int = 0
    integrity: str = ""
    kms: str = ""

    def __post_init__(self) -> None:
        if not self.passphrase and not self.kms:
            raise InvalidRequest(f"secrets.{PASSPHRASE}", "", "is needed for an encrypted volume without encryptionKMSID")
        if not _CIPHER_NAME.fullmatch(self.cipher):
            raise InvalidRequest("encryptionCipher", self.cipher, f"is no cipher as cryptsetup names them, like {_CIPHER}")
        if self.key_size not in _KEY_SIZES:
            raise InvalidRequest("encryptionKeySize", self.key_size, f"must be one of {_shown(_KEY_SIZES)}")
        if "-xts-" in self.cipher and self.key_size == 128:
            raise InvalidRequest("encryptionKeySize", self.key_size, "xts halves the key: it takes 256 or 512")
        if self.sector_size not in (0, *_SECTOR_SIZES):
            raise InvalidRequest("encryptionSectorSize", self.sector_size, f"must be one of {_shown(_SECTOR_SIZES)}")
        if self.integrity and self.integrity not in INTEGRITY_MODES:
            raise InvalidRequest("integrityMode", self.integrity, f"must be one of {_shown(INTEGRITY_MODES)}")


def read_encryption(said: Mapping[str, str], passphrase: str) -> Encryption:
    """Read what a class says, as a node or a controller is told it. Raises InvalidRequest naming the parameter."""
    return Encryption(
        passphrase,
        said.get("encryptionCipher", _CIPHER),
        _number(said, "encryptionKeySize", 512),
        _number(said, "encryptionSectorSize", 0),
        said.get("integrityMode", ""),
        said.get("encryptionKMSID", ""),
    )


def kept_by_kms(said: Mapping[str, str], passphrase: str = "") -> Encryption | None:
    """How a volume is encrypted whose key a KMS has; None for others: their key comes with the node's secret."""
    if said.get("encrypted") != "true" or not said.get("encryptionKMSID"):
        return None
    return read_encryption(said, passphrase)


def _number(said: Mapping[str, str], name: str, default: int) -> int:
    text = said.get(name, str(default))
    if not text.isascii() or not text.isdecimal():
        raise InvalidRequest(name, text, "must be a whole number")
    return int(text)


def _shown(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))
