"""Keys that the config file's clusters hold, found by where a cluster is: for images that somebody else made in it."""

import configparser
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from provisioner.ceph.cluster import ClusterConfig, Clusters, Connection
from provisioner.core.errors import ProvisionerError, Unavailable

log = logging.getLogger(__name__)


class Keys:
    """The keys within reach of this process."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def find(self, monitors: Sequence[str], user: str) -> str:
        """The key of a user (without `client.`) of the cluster that one of these "host:port" is a monitor of, "" if unknown.

        A cluster that can't be reached is passed over: its own name for its monitors can't be had.
        """
        for name in self._clusters.names():
            config = self._clusters.config(name)
            try:
                if (key := key_of(config, user)) and self._has(config, monitors):
                    return key
            except ProvisionerError as error:
                log.warning("looking for the key of client.%s in cluster %s: %s", user, name, error)
        return ""

    def _has(self, config: ClusterConfig, monitors: Sequence[str]) -> bool:
        if set(config.monitors) & set(monitors):
            return True
        with self._clusters.connection(config.name) as connection:
            return not _addresses(connection).isdisjoint(monitors)


def _addresses(connection: Connection) -> set[str]:
    """Every address of every monitor, whatever protocol it speaks there."""
    monmap: dict[str, Any] = msgspec.json.decode(connection.command("mon dump"))
    return {str(entry["addr"]) for mon in monmap["mons"] for entry in mon["public_addrs"]["addrvec"]}


def key_of(config: ClusterConfig, user: str, default: str = "") -> str:
    """The user's key in the cluster's own files, or in the keyring `default` where none is configured; "" if unknown.

    Raises Unavailable, naming the file that can't be read.
    """
    if config.key_file:
        return _read(config.key_file).strip() if config.user == user else ""
    keyring = config.keyring or default
    return _key_in(keyring, user) if keyring else ""


def _key_in(file: str, user: str) -> str:
    keyring = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        # keyrings are indented by tabs, which would make each line go on with the one before
        keyring.read_string("\n".join(line.strip() for line in _read(file).splitlines()))
    except configparser.Error:
        # not chained: what it quotes may hold a key
        raise Unavailable(f"can't make sense of keyring {file}") from None
    return keyring.get(f"client.{user}", "key", fallback="")


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError as error:
        raise Unavailable(f"reading {file}: {error.strerror}") from error
