"""A KMS without a server: keys are sealed with a passphrase, and kept on the image as what came out.

AES-256-GCM, under a key that scrypt makes of the passphrase and a salt of the token's own, with the image's internal id
authenticated beside: a token that was copied onto another image does not open there.
"""

import base64
import binascii
import hashlib
import secrets
from pathlib import Path

from provisioner.core.encryption import PASSPHRASE
from provisioner.core.errors import Denied, InvalidRequest, Unavailable
from provisioner.core.model import Opening
from provisioner.kms.settings import KmsConfig

_VERSION = b"\x01"
_SALT, _NONCE = 16, 12
_COST, _BLOCK, _LANES = 1 << 14, 8, 1
"""scrypt: 16 MiB and some 50 ms."""


class SealedKeys:
    """The kind `metadata`."""

    def __init__(self, config: KmsConfig) -> None:
        self._config = config

    def wrap(self, key: str, image: Opening, passphrase: str) -> str:
        """Seal a key. Raises InvalidRequest without a passphrase."""
        # imported here: OpenSSL's binding takes memory that nodes without such volumes need not have
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
        sealed = AESGCM(_derived(self._passphrase(passphrase), salt)).encrypt(nonce, key.encode(), _bound(image.image_id))
        return base64.b64encode(_VERSION + salt + nonce + sealed).decode()

    def unwrap(self, token: str, image_id: str, passphrase: str) -> str:
        """Open a token. Raises Denied for a wrong passphrase, or a token of another image."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = base64.b64decode(token, validate=True)
        except binascii.Error:
            raw = b""
        if raw[:1] != _VERSION or len(raw) <= 1 + _SALT + _NONCE:
            raise Denied(f"the key of image {image_id} in KMS {self._config.name}: its token is damaged")
        salt, nonce, sealed = raw[1 : 1 + _SALT], raw[1 + _SALT :][:_NONCE], raw[1 + _SALT + _NONCE :]
        try:
            return AESGCM(_derived(self._passphrase(passphrase), salt)).decrypt(nonce, sealed, _bound(image_id)).decode()
        except InvalidTag:
            raise Denied(f"the key of image {image_id} in KMS {self._config.name}: the passphrase is wrong") from None

    def forget(self, token: str) -> None:
        """Nothing is kept here."""

    def _passphrase(self, given: str) -> str:
        file = self._config.passphrase_file
        if not file:
            if not given:
                raise InvalidRequest(f"secrets.{PASSPHRASE}", "", f"is what KMS {self._config.name} wraps keys with")
            return given
        try:
            said = Path(file).read_text().rstrip("\n")
        except OSError as error:
            raise Unavailable(f"KMS {self._config.name}: {file}: {error.strerror}") from error
        if not said:
            raise Unavailable(f"KMS {self._config.name}: {file} is empty")
        return said


def _derived(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=64 << 20, dklen=32)


def _bound(image_id: str) -> bytes:
    return b"ceph-provisioner " + image_id.encode()
