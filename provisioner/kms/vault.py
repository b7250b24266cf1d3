"""HashiCorp Vault, or OpenBao: keys in its KV engine (version 2), or wrapped by its transit engine.

A call takes no longer than the KMS's timeout, and says with the address what went wrong. A login lasts until Vault refuses it.
"""

import base64
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.core.errors import Denied, Unavailable
from provisioner.core.model import Opening
from provisioner.kms.settings import KmsConfig

if TYPE_CHECKING:
    import hvac

_FIELD = "passphrase"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")
_NO_NAMESPACE = "~"


class Nothing(Denied):
    """Vault has nothing at that path."""


class Vault:
    """A conversation with one Vault; thread-safe."""

    def __init__(self, config: KmsConfig) -> None:
        self._config, self._lock = config, threading.Lock()
        self._by = f"KMS {config.name} at {config.address}"
        self._client: hvac.Client | None = None

    def ask(self, what: str, question: Callable[["hvac.Client"], Any]) -> Any:
        """Call Vault, logging in first if need be, and once more where the login has run out.

        Raises Nothing, Denied, Unavailable.
        """
        client = self._logged_in(None)
        try:
            return self._call(what, lambda: question(client))
        except Nothing:
            raise
        except Denied:
            renewed = self._logged_in(client)
        return self._call(what, lambda: question(renewed))

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        # imported here: hvac and requests are for those who have a Vault
        import requests
        from hvac import exceptions

        try:
            return call()
        except exceptions.InvalidPath as error:
            raise Nothing(f"{what}: there is nothing at that path", self._by) from error
        except (exceptions.Forbidden, exceptions.Unauthorized, exceptions.InvalidRequest) as error:
            raise Denied(f"{what}: {_said(error)}", self._by) from error
        except exceptions.VaultError as error:
            raise Unavailable(f"{what}: {self._by}: {_said(error)}") from error
        except requests.Timeout as error:
            raise Unavailable(f"{what}: {self._by} did not answer in {self._config.timeout} s") from error
        except (requests.RequestException, OSError) as error:  # OSError: a file of CAs that isn't there
            raise Unavailable(f"{what}: {self._by} can't be reached: {_root(error)}") from error
        except ValueError as error:
            raise Unavailable(f"{what}: {self._by} does not answer as a Vault does") from error

    def _logged_in(self, refused: "hvac.Client | None") -> "hvac.Client":
        """The client that everybody shares; another one in place of one that was `refused`."""
        with self._lock:
            if self._client is None or self._client is refused:
                self._client = self._login()
            return self._client

    def _login(self) -> "hvac.Client":
        import hvac

        config = self._config
        verify: str | bool = (config.ca_file or True) if config.verify else False
        client = hvac.Client(config.address, verify=verify, timeout=config.timeout, namespace=config.namespace or None)
        if config.token_file:
            client.token = self._read(config.token_file)
            return client
        mount = config.auth_path.strip("/").removeprefix("v1/auth/").removesuffix("/login")
        token = self._read(config.service_account_token_file)
        self._call(f"logging in as {config.role}", lambda: client.auth.kubernetes.login(config.role, token, mount_point=mount))
        return client

    def _read(self, file: str) -> str:
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise Unavailable(f"{self._by}: {file}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class KeptFor:
    """The image that a key is kept for."""

    fsid: str
    pool: str
    namespace: str
    image_id: str


class VaultKeys:
    """The kind `vault`: a key is a secret of KV, whose path is the token and tells the image that it is of."""

    def __init__(self, config: KmsConfig) -> None:
        self._vault, self._mount, self._prefix = Vault(config), config.mount, config.key_path

    def wrap(self, key: str, image: Opening, passphrase: str) -> str:
        """Keep a key under a new path."""
        place = image.volume.place
        leaf = f"{image.image_id}.{secrets.token_hex(4)}"
        path = f"{self._prefix}{image.fsid}/{_escaped(place.pool)}/{_escaped(place.namespace) or _NO_NAMESPACE}/{leaf}"
        self._ask(
            f"keeping the key of {image.volume} at {path}",
            lambda kv: kv.create_or_update_secret(path=path, secret={_FIELD: key}, cas=0, mount_point=self._mount),
        )
        return path

    def unwrap(self, token: str, image_id: str, passphrase: str) -> str:
        """Read the key at a path."""
        told = self._ask(
            f"reading the key at {token}",
            lambda kv: kv.read_secret_version(path=token, mount_point=self._mount, raise_on_deleted_version=True),
        )
        return str(told["data"]["data"][_FIELD])

    def forget(self, token: str) -> None:
        """Delete all versions at a path; nothing there is fine."""
        self._ask(
            f"forgetting the key at {token}",
            lambda kv: kv.delete_metadata_and_all_versions(path=token, mount_point=self._mount),
        )

    def kept(self) -> Iterator[tuple[str, KeptFor]]:
        """Every token, with the image that its key is kept for. Raises what a call raises."""
        for path in self._leaves(self._prefix, 4):
            fsid, pool, namespace, leaf = path.removeprefix(self._prefix).split("/")
            namespace = "" if namespace == _NO_NAMESPACE else _plain(namespace)
            yield path, KeptFor(fsid, _plain(pool), namespace, leaf.rpartition(".")[0])

    def _leaves(self, path: str, depth: int) -> Iterator[str]:
        """The secrets so many levels below a path; what lies elsewhere is not ours."""
        try:
            told = self._ask(f"listing {path}", lambda kv: kv.list_secrets(path=path, mount_point=self._mount))
        except Nothing:
            return
        for name in told["data"]["keys"]:
            if depth > 1 and name.endswith("/"):
                yield from self._leaves(path + name, depth - 1)
            elif depth == 1 and not name.endswith("/"):
                yield path + name

    def _ask(self, what: str, question: Callable[[Any], Any]) -> Any:
        return self._vault.ask(what, lambda client: question(client.secrets.kv.v2))


class TransitKeys:
    """The kind `vaulttransit`: Vault wraps the key, and keeps nothing; the token is the cipher text, bound to the image."""

    def __init__(self, config: KmsConfig) -> None:
        self._vault, self._mount, self._key = Vault(config), config.mount, config.transit_key

    def wrap(self, key: str, image: Opening, passphrase: str) -> str:
        """Have a key wrapped for the image."""
        told = self._vault.ask(
            f"wrapping the key of {image.volume}",
            lambda client: client.secrets.transit.encrypt_data(
                self._key, _base64(key), associated_data=_base64(image.image_id), mount_point=self._mount
            ),
        )
        return str(told["data"]["ciphertext"])

    def unwrap(self, token: str, image_id: str, passphrase: str) -> str:
        """Have a token opened. Raises Denied for one of another image."""
        told = self._vault.ask(
            f"unwrapping the key of image {image_id}",
            lambda client: client.secrets.transit.decrypt_data(
                self._key, token, associated_data=_base64(image_id), mount_point=self._mount
            ),
        )
        return base64.b64decode(told["data"]["plaintext"]).decode()

    def forget(self, token: str) -> None:
        """Nothing is kept."""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _escaped(part: str) -> str:
    """A part of a path in characters that need no escapes in an URL."""
    return "".join(c if _PLAIN.match(c) else f"~{ord(c):x}~" for c in part)


def _plain(part: str) -> str:
    return re.sub(r"~([0-9a-f]+)~", lambda found: chr(int(found[1], 16)), part)


def _said(error: Exception) -> str:
    """Vault's own words: it never repeats what it was sent."""
    return "; ".join(map(str, getattr(error, "errors", None) or ())) or str(error) or type(error).__name__


def _root(error: BaseException) -> str:
    """The reason at the bottom of a chain of exceptions."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return getattr(error, "strerror", None) or type(error).__name__
