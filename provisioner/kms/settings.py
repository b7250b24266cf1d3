"""What the config file says of a KMS: the names are ceph-csi's where the meaning is the same."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from provisioner.core.errors import InvalidRequest

Kind = Literal["metadata", "vault", "vaulttransit"]

SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105
_OF_VAULT = ("vault", "vaulttransit")


_NAMES = {
    "kind": "encryptionKMSType",
    "passphrase_file": "passphraseFile",
    "address": "vaultAddress",
    "namespace": "vaultNamespace",
    "backend_path": "vaultBackendPath",
    "key_path": "vaultPassphrasePath",
    "transit_key": "vaultTransitKey",
    "auth_path": "vaultAuthPath",
    "role": "vaultRole",
    "token_file": "vaultTokenFile",
    "service_account_token_file": "serviceAccountTokenFile",
    "ca_file": "vaultCAFile",
    "verify": "vaultCAVerify",
}


class KmsSection(msgspec.Struct, forbid_unknown_fields=True, rename=_NAMES):
    """One KMS as the file has it."""

    kind: Kind
    passphrase_file: str = ""
    address: str = ""
    namespace: str = ""
    backend_path: str = ""
    key_path: str = "ceph-provisioner/"
    transit_key: str = ""
    auth_path: str = "/v1/auth/kubernetes/login"
    role: str = ""
    token_file: str = ""
    service_account_token_file: str = SERVICE_ACCOUNT_TOKEN
    ca_file: str = ""
    verify: bool = True
    timeout: int = 10

    def checked(self, key: str, name: str) -> "KmsConfig":
        """Raise InvalidRequest naming the field below `key` for what can't work."""
        return KmsConfig(name, **msgspec.structs.asdict(self)).check(key)


@dataclass(frozen=True, slots=True)
class KmsConfig:
    """One KMS; which fields count depends on the kind. Files are read when they are needed, so that they may be replaced."""

    name: str
    kind: Kind
    passphrase_file: str = ""
    """metadata: what keys are wrapped with, in place of the secrets' own."""
    address: str = ""
    namespace: str = ""
    backend_path: str = ""
    """Where the secrets engine is mounted: `secret` for KV, `transit` for transit."""
    key_path: str = ""
    """vault: what the names of keys begin with."""
    transit_key: str = ""
    """vaulttransit: the key that wraps."""
    auth_path: str = ""
    role: str = ""
    token_file: str = ""
    """A token of Vault's own, in place of a role for the service account."""
    service_account_token_file: str = ""
    ca_file: str = ""
    verify: bool = True
    timeout: int = 10
    """Seconds that one call may take."""

    @property
    def mount(self) -> str:
        """Where the secrets engine is mounted."""
        return (self.backend_path or ("secret" if self.kind == "vault" else "transit")).strip("/")

    def check(self, key: str) -> "KmsConfig":
        """Raise InvalidRequest, naming the field below `key`, for what can't work."""
        given_to_vault = self.address or self.role or self.token_file
        if self.kind == "metadata" and given_to_vault:
            raise InvalidRequest(f"{key}.vaultAddress", self.address, "is of no use to a KMS of type metadata")
        if self.kind not in _OF_VAULT:
            return self
        if not self.address.startswith(("http://", "https://")):
            raise InvalidRequest(f"{key}.vaultAddress", self.address, "must be an URL, https://HOST:PORT")
        if bool(self.role) == bool(self.token_file):
            raise InvalidRequest(f"{key}.vaultRole", self.role, "give either vaultRole, for Kubernetes auth, or vaultTokenFile")
        if self.kind == "vaulttransit" and not self.transit_key:
            raise InvalidRequest(f"{key}.vaultTransitKey", "", "must name the transit key that wraps")
        if not self.auth_path.strip("/").startswith("v1/auth/") or not self.auth_path.endswith("/login"):
            raise InvalidRequest(f"{key}.vaultAuthPath", self.auth_path, "must look like /v1/auth/kubernetes/login")
        if not self.key_path.endswith("/") or self.key_path.startswith("/"):
            raise InvalidRequest(f"{key}.vaultPassphrasePath", self.key_path, "must end with a slash, and not begin with one")
        if not 1 <= self.timeout <= 60:
            raise InvalidRequest(f"{key}.timeout", self.timeout, "must be between 1 and 60 seconds")
        return self
