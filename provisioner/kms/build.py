"""The KMS of the config file, by their names."""

import threading
from collections.abc import Callable, Mapping

from provisioner.core.errors import InvalidRequest
from provisioner.core.keys import Kms
from provisioner.kms.sealed import SealedKeys
from provisioner.kms.settings import KmsConfig
from provisioner.kms.vault import TransitKeys, VaultKeys

_KINDS: Mapping[str, Callable[[KmsConfig], Kms]] = {"metadata": SealedKeys, "vault": VaultKeys, "vaulttransit": TransitKeys}


class KeyServices:
    """Each KMS as the config file has it today; thread-safe. One whose section has changed is made anew."""

    def __init__(self, configs: Callable[[], Mapping[str, KmsConfig]]) -> None:
        self._configs = configs
        self._made: dict[KmsConfig, Kms] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Kms:
        """The KMS of that name. Raises InvalidRequest."""
        known = self._configs()
        if name not in known:
            raise InvalidRequest("encryptionKMSID", name, f"known in the config file: {', '.join(sorted(known)) or 'none'}")
        config = known[name]
        with self._lock:
            self._made = {each: kms for each, kms in self._made.items() if each in known.values()}
            return self._made.setdefault(config, _KINDS[config.kind](config))

    def vaults(self) -> list[VaultKeys]:
        """Those that keep something for each volume."""
        return [kms for name in self._configs() if isinstance(kms := self.get(name), VaultKeys)]
