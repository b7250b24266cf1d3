"""The keys of encrypted volumes: made once, kept as tokens that only a KMS opens, handed down to copies, replaced.

An image bears a record: which KMS, and the tokens of its keys. A clone inherits it like all metadata; being bound to the
image's internal id, it is then told apart, and the keys are wrapped anew for the clone, so that source and clone may be deleted
in any order. What a killed call leaves is a record of before or of after, and at worst a token that nobody knows.

A rotation is two slots of the LUKS header and four records, each written by comparison:

    coming     a new key has a token                      the header opens with the old key
               (the new key is added to the header)                  ... with both
    going      the new key is the first, the old one goes            ... with both
               (the old key is taken from the header)                ... with the new one
    done       the old token is forgotten, unless a snapshot of before needs it

Whoever comes next goes on from the record, which tells what was begun.
"""

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from provisioner.core.encryption import Encryption
from provisioner.core.errors import AlreadyExists, Denied, ProvisionerError, Unavailable, Unfit
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Opening

_ROUNDS = 10
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the image says of its keys. `image_id` is the image that they were wrapped for."""

    image_id: str
    kms: str
    tokens: tuple[str, ...]
    """Newest first. The later ones open what snapshots of before a rotation hold."""
    coming: str = ""
    going: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        """Every token that may open the volume."""
        return (*self.tokens, *((self.coming,) if self.coming else ()))


class KeyRecords(Protocol):
    """Where the records are kept. Raises the core's errors only."""

    def opening(self, volume: VolumeId, credentials: Credentials | None) -> Opening:
        """Look the image up. Raises NotFound."""

    def key_record(self, image: Opening) -> KeyRecord | None:
        """The record on the image, its own or inherited; None without one."""

    def replace_key_record(self, image: Opening, seen: KeyRecord | None, record: KeyRecord) -> bool:
        """Put `record` in place of the one that was seen, in one step; False if it is no longer that one."""

    def has_snapshots(self, image: Opening) -> bool:
        """Whether the image has snapshots, those included that only clones keep."""


class Kms(Protocol):
    """What keeps keys. Raises Unavailable with its address, Denied, InvalidRequest; never with a key in it."""

    def wrap(self, key: str, image: Opening, passphrase: str) -> str:
        """Take a key in, for this image; gives a token without secrets, of ASCII without blanks."""

    def unwrap(self, token: str, image_id: str, passphrase: str) -> str:
        """Give the key of a token that was made for that image."""

    def forget(self, token: str) -> None:
        """Nobody will ask for the token any more; forgotten already is fine."""


class VolumeKeys:
    """The keys of volumes. All calls are safe to repeat, to interrupt and to race."""

    def __init__(self, records: KeyRecords, kms: Callable[[str], Kms]) -> None:
        """`kms` gives the one of that name, or raises InvalidRequest."""
        self._records, self._kms = records, kms

    def check(self, how: Encryption) -> None:
        """Raise InvalidRequest for a KMS that isn't known."""
        if how.kms:
            self._kms(how.kms)

    def provide(self, volume: VolumeId, how: Encryption, credentials: Credentials | None) -> None:
        """Have a new volume bear its keys, before anybody uses it; nothing to do without a KMS."""
        if how.kms:
            self._ensured(self._records.opening(volume, credentials), how)

    def ensure(self, image: Opening, how: Encryption) -> tuple[str, ...]:
        """Have the image bear a record of its own, and give the keys, newest first. The passphrase itself without a KMS.

        Raises AlreadyExists if another KMS has them.
        """
        record = self._ensured(image, how)
        return self._opened(record, how.passphrase) if record else (how.passphrase,)

    def held(self, image: Opening, how: Encryption) -> tuple[str, ...]:
        """Give the keys of an image that is encrypted already; those that it inherited become its own. None is made.

        Raises Unfit where none is to be found.
        """
        if self._records.key_record(image) is not None:
            return self.ensure(image, how)
        if not how.passphrase:
            raise Unfit(f"volume {image.volume}", "is encrypted, and no KMS is noted on it that has its key")
        return (how.passphrase,)

    def find(self, image: Opening, passphrase: str) -> tuple[str, ...]:
        """Give the keys of the record on the image, newest first; the passphrase itself where there is no record."""
        record = self._records.key_record(image)
        if record is None:
            return (passphrase,) if passphrase else ()
        return self._opened(record, passphrase)

    def has_record(self, image: Opening) -> bool:
        """Whether a KMS has the image's keys."""
        return self._records.key_record(image) is not None

    def begin_rotation(self, image: Opening, passphrase: str) -> tuple[KeyRecord, str]:
        """Have a token of a new key; gives the record and that key. A rotation that was begun is gone on with.

        Raises Unfit where no KMS has the keys.
        """
        seen = self._records.key_record(image)
        record = self._ensured(image, Encryption(passphrase, kms=seen.kms)) if seen else None
        if record is None:
            raise Unfit(f"volume {image.volume}", "has no key in a KMS")
        kms = self._kms(record.kms)
        if not record.coming and not record.going:
            token = kms.wrap(_new_key(), image, passphrase)
            try:
                record = self._put(image, record, replace(record, coming=token))
            except ProvisionerError:
                kms.forget(token)
                raise
        return record, kms.unwrap(record.coming or record.tokens[0], image.image_id, passphrase)

    def prefer_new(self, image: Opening, record: KeyRecord) -> KeyRecord:
        """The header opens with both keys: from now on the new one is the volume's."""
        if record.going:
            return record
        after = replace(record, tokens=(record.coming, *record.tokens), coming="", going=record.tokens[0])
        return self._put(image, record, after)

    def end_rotation(self, image: Opening, record: KeyRecord) -> KeyRecord:
        """The header opens with the new key only. Older tokens go, unless snapshots have headers of before."""
        kept = record.tokens if self._records.has_snapshots(image) else record.tokens[:1]
        after = self._put(image, record, replace(record, tokens=kept, going=""))
        for token in set(record.tokens) - set(kept):
            self._kms(record.kms).forget(token)
        return after

    def rewrap(self, image: Opening, passphrase: str, new_passphrase: str) -> None:
        """Have all tokens wrapped with another passphrase. Done already is fine; a KMS without passphrases makes new tokens."""
        record = self._records.key_record(image)
        if record is None or record.image_id != image.image_id:
            record = self._ensured(image, Encryption(passphrase, kms=record.kms if record else ""))
        if record is None:
            return
        kms = self._kms(record.kms)
        try:
            keys = {token: kms.unwrap(token, record.image_id, passphrase) for token in record.all}
        except Denied:
            self._opened(record, new_passphrase)
            return
        fresh = {token: kms.wrap(key, image, new_passphrase) for token, key in keys.items()}
        named = (tuple(fresh[token] for token in record.tokens), fresh.get(record.coming, ""), fresh.get(record.going, ""))
        self._put(image, record, KeyRecord(record.image_id, record.kms, *named))
        for token in keys:
            kms.forget(token)

    def _ensured(self, image: Opening, how: Encryption) -> KeyRecord | None:
        for _ in range(_ROUNDS):
            seen = self._records.key_record(image)
            if seen is None and not how.kms:
                return None
            if seen is not None and seen.image_id == image.image_id:
                if how.kms and seen.kms != how.kms:
                    raise AlreadyExists(f"the key of volume {image.volume}", [f"KMS {seen.kms} has it, not {how.kms}"])
                return seen
            made = self._made(image, how) if seen is None else self._adopted(image, seen, how)
            if self._records.replace_key_record(image, seen, made):
                return made
            self._forget(made)
        raise Unavailable(f"the key of volume {image.volume} is being changed by others all the time")

    def _made(self, image: Opening, how: Encryption) -> KeyRecord:
        return KeyRecord(image.image_id, how.kms, (self._kms(how.kms).wrap(_new_key(), image, how.passphrase),))

    def _adopted(self, image: Opening, parents: KeyRecord, how: Encryption) -> KeyRecord:
        """The parent's keys, wrapped for the image: its header may be of any time since the parent was made."""
        keeper = self._kms(name := how.kms or parents.kms)
        keys = self._opened(parents, how.passphrase)
        return KeyRecord(image.image_id, name, tuple(keeper.wrap(key, image, how.passphrase) for key in keys))

    def _opened(self, record: KeyRecord, passphrase: str) -> tuple[str, ...]:
        kms = self._kms(record.kms)
        return tuple(kms.unwrap(token, record.image_id, passphrase) for token in record.all)

    def _put(self, image: Opening, seen: KeyRecord, record: KeyRecord) -> KeyRecord:
        if self._records.replace_key_record(image, seen, record):
            return record
        raise Unavailable(f"the key of volume {image.volume} is being changed by another: ask again")

    def _forget(self, record: KeyRecord) -> None:
        for token in record.tokens:
            self._kms(record.kms).forget(token)


def _new_key() -> str:
    """256 random bits, in characters that a passphrase may have."""
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
