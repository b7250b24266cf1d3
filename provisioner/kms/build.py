"""The KMS of the config file, by their names, and how long each answer takes."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from provisioner.core.errors import InvalidRequest, ProvisionerError
from provisioner.core.keys import Kms
from provisioner.core.model import Opening
from provisioner.kms.sealed import SealedKeys
from provisioner.kms.settings import KmsConfig
from provisioner.kms.vault import TransitKeys, VaultKeys

_KINDS: Mapping[str, Callable[[KmsConfig], Kms]] = {"metadata": SealedKeys, "vault": VaultKeys, "vaulttransit": TransitKeys}
OnRequest = Callable[[str, str, float, BaseException | None], None]
"""Hears of a request that ended: of which KMS, of what kind (wrap, unwrap, forget), its seconds, its error."""


class MeasuredKms:
    """A KMS whose requests are told of."""

    def __init__(self, name: str, kms: Kms, on_request: OnRequest) -> None:
        """`name` is the config file's."""
        self._name, self._kms, self._on_request = name, kms, on_request

    def wrap(self, key: str, image: Opening, passphrase: str) -> str:
        """Take a key in."""
        with self._measured("wrap"):
            return self._kms.wrap(key, image, passphrase)

    def unwrap(self, token: str, image_id: str, passphrase: str) -> str:
        """Give the key of a token."""
        with self._measured("unwrap"):
            return self._kms.unwrap(token, image_id, passphrase)

    def forget(self, token: str) -> None:
        """Nobody will ask for the token any more."""
        with self._measured("forget"):
            self._kms.forget(token)

    @contextmanager
    def _measured(self, kind: str) -> Iterator[None]:
        began, failure = time.monotonic(), None
        try:
            yield
        except ProvisionerError as error:
            failure = error
            raise
        finally:
            self._on_request(self._name, kind, time.monotonic() - began, failure)


class KeyServices:
    """Each KMS as the config file has it today; thread-safe. One whose section has changed is made anew."""

    def __init__(self, configs: Callable[[], Mapping[str, KmsConfig]], on_request: OnRequest = lambda *_: None) -> None:
        """`on_request` hears of each request of keys."""
        self._configs, self._on_request = configs, on_request
        self._made: dict[KmsConfig, Kms] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Kms:
        """The KMS of that name. Raises InvalidRequest."""
        return MeasuredKms(name, self._get(name), self._on_request)

    def vaults(self) -> list[tuple[VaultKeys, Kms]]:
        """Those that keep something for each volume: what lists it, and what is to be asked to forget it."""
        return [(kms, self.get(name)) for name in self._configs() if isinstance(kms := self._get(name), VaultKeys)]

    def _get(self, name: str) -> Kms:
        known = self._configs()
        if name not in known:
            raise InvalidRequest("encryptionKMSID", name, f"known in the config file: {', '.join(sorted(known)) or 'none'}")
        config = known[name]
        with self._lock:
            self._made = {each: kms for each, kms in self._made.items() if each in known.values()}
            return self._made.setdefault(config, _KINDS[config.kind](config))
