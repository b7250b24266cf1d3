"""Connections: shared by all threads, bounded in every call, made anew when broken or when their files changed.

A connection costs 23 ms of CPU and 20 MB, an I/O context nothing: so there is one connection per cluster and user, and a
context per operation. A retired connection is closed by the last operation that uses it.
"""

import datetime
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import rados

from provisioner.ceph.errors import BROKEN, CEPH_ERRORS, errno_of, explain
from provisioner.core.errors import Denied, InvalidRequest, NotFound, ProvisionerError, Unavailable
from provisioner.core.ids import Place
from provisioner.core.model import Credentials
from provisioner.watched import stamp


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """How to reach one cluster: a ceph.conf or monitors; a user with a keyring or a file that holds its key."""

    name: str
    conf: str = ""
    monitors: tuple[str, ...] = ()
    user: str = "provisioner"
    keyring: str = ""
    key_file: str = ""
    timeout: int = 15
    """Seconds that any one call to a monitor or an OSD may take."""
    pools: tuple[str, ...] = ()
    """Where volumes are looked for when no request names a place: `pool` or `pool/namespace`; none for all that there are."""
    segments: tuple[tuple[str, str], ...] = ()
    """From where the cluster can be reached: pairs of domain label and value; none for everywhere."""

    def places(self) -> list[Place]:
        """The pools (and namespaces in them) that are named."""
        split = (text.partition("/") for text in self.pools)
        return [Place(self.name, pool, namespace) for pool, _, namespace in split]

    def stamp(self) -> tuple[object, ...]:
        """Changes whenever a file behind this configuration does."""
        return (self, *(stamp(path) for path in (self.conf, self.keyring, self.key_file) if path))


class Connection:
    """One librados client, counted by the operations that use it."""

    def __init__(self, config: ClusterConfig, handle: rados.Rados, stamp: tuple[object, ...]) -> None:
        self.config, self.stamp = config, stamp
        self._handle = handle
        self.instance = handle.get_instance_id()
        """The client id that watchers of this connection's images bear."""
        self.address = handle.get_addrs()
        """The address to fence this client by."""
        self._users, self._retired, self._closed = 0, False, False
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Keep the connection open until `used` ends; False if it is retired already."""
        with self._lock:
            self._users += not self._retired
            return not self._retired

    @contextmanager
    def used(self) -> Iterator["Connection"]:
        """Use an acquired connection for the block; notice when it turns out broken."""
        try:
            yield self
        except CEPH_ERRORS as error:
            self._retire_if_broken(error)
            raise
        except ProvisionerError as error:
            self._retire_if_broken(error.__cause__)
            raise
        finally:
            self._close_if_idle(users_gone=1)

    @property
    def retired(self) -> bool:
        """True once no new operation should use it."""
        return self._retired

    def retire(self) -> None:
        """Take no new operations; close when the last one ends."""
        with self._lock:
            self._retired = True
        self._close_if_idle()

    def _retire_if_broken(self, error: BaseException | None) -> None:
        if error is not None and errno_of(error) == BROKEN:
            self.retire()

    def _close_if_idle(self, users_gone: int = 0) -> None:
        with self._lock:
            self._users -= users_gone
            closing = self._retired and not self._users and not self._closed
            self._closed |= closing
        if closing:
            self._handle.shutdown()

    @contextmanager
    def pool(self, place: Place) -> Iterator[rados.Ioctx]:
        """Open the place's pool. Raises InvalidRequest if there is no such pool.

        With "full try" a full pool refuses writes at once and still lets deletes through, instead of stalling both.
        """
        try:
            context = self._handle.open_ioctx(place.pool)
        except rados.ObjectNotFound as error:
            raise InvalidRequest("pool", place.pool, f"cluster {place.cluster!r} has no such pool") from error
        except rados.Error as error:
            raise explain(error, f"opening pool {place.pool}") from error
        with context:
            context.set_namespace(place.namespace)
            context.set_osdmap_full_try()
            yield context

    @contextmanager
    def pool_by_id(self, pool_id: int, namespace: str) -> Iterator[rados.Ioctx]:
        """Open a pool that Ceph names by its id, as a clone's header does. Raises NotFound, Unavailable."""
        try:
            context = self._handle.open_ioctx2(pool_id)
        except rados.Error as error:
            raise explain(error, f"opening the pool with the id {pool_id}") from error
        with context:
            context.set_namespace(namespace)
            yield context

    def pool_name(self, pool_id: int) -> str:
        """The name of a pool. Raises NotFound."""
        try:
            return self._handle.pool_reverse_lookup(pool_id)
        except rados.Error as error:
            raise explain(error, f"looking for the pool with the id {pool_id}") from error

    def command(self, prefix: str, inbuf: bytes = b"", **arguments: object) -> bytes:
        """Run one monitor command and give its output. Raises the core's errors."""
        request = json.dumps({"prefix": prefix, "format": "json", **arguments})
        code, out, message = self._handle.mon_command(request, inbuf)
        if code:
            failure = rados.OSError(message or prefix, errno=-code if code < 0 else code)
            raise explain(failure, f"monitor command {prefix!r}") from failure
        return out

    def fence(self, address: str, seconds: float) -> None:
        """Blocklist a client by its full address. Whatever this connection does next comes after the fence.

        The monitors' answer alone doesn't say so: an OSD learns of the fence with the map that our next operation names.
        """
        self.command("osd blocklist", blocklistop="add", addr=address, expire=seconds)
        self.catch_up()

    def unfence(self, address: str) -> None:
        """Take a client off the blocklist; gone already is fine."""
        self.command("osd blocklist", blocklistop="rm", addr=address)

    def blocklist(self) -> dict[str, float]:
        """Addresses of all clients that are blocklisted, and until when (seconds since 1970)."""
        answer = self.command("osd blocklist ls").decode()
        listed, _ = json.JSONDecoder().raw_decode(answer)  # from Ceph 16 on, ranges follow as a document of their own
        return {str(entry["addr"]): datetime.datetime.fromisoformat(entry["until"]).timestamp() for entry in listed}

    def fenced(self) -> set[str]:
        """Addresses of all clients that are blocklisted."""
        return set(self.blocklist())

    def groups(self, pool: str) -> int:
        """How many placement groups a pool has."""
        return int(json.loads(self.command("osd pool get", pool=pool, var="pg_num"))["pg_num"])

    def catch_up(self) -> None:
        """Have the newest map: whatever this connection does next names it, and no OSD answers with an older one."""
        try:
            self._handle.wait_for_latest_osdmap()
        except rados.Error as error:
            raise explain(error, "waiting for the newest map") from error

    def pool_id(self, name: str) -> int:
        """The id of a pool. Raises NotFound."""
        try:
            found = self._handle.pool_lookup(name)
        except rados.Error as error:
            raise explain(error, f"looking for pool {name}") from error
        if found is None:
            raise NotFound(f"pool {name}")
        return found

    def setting(self, option: str) -> str:
        """One value of the client's configuration."""
        return self._handle.conf_get(option) or ""

    def fsid(self) -> str:
        """The cluster's id."""
        return self._handle.get_fsid()


class Clusters:
    """The connections of this process, by cluster and user."""

    def __init__(self, configured: Callable[[], Mapping[str, ClusterConfig]]) -> None:
        """`configured` gives today's clusters; it is asked at every use, so it should be quick."""
        self._configured = configured
        self._open: dict[tuple[str, Credentials | None], Connection] = {}
        self._gates: dict[tuple[str, Credentials | None], _Gate] = {}
        self._lock = threading.Lock()

    def config(self, name: str) -> ClusterConfig:
        """The cluster of that name; "" is the only one, if there is only one."""
        clusters = self._configured()
        if not name and len(clusters) == 1:
            return next(iter(clusters.values()))
        if name not in clusters:
            raise InvalidRequest("clusterID", name, f"known clusters: {', '.join(sorted(clusters)) or 'none'}")
        return clusters[name]

    def names(self) -> list[str]:
        """All configured clusters."""
        return sorted(self._configured())

    @contextmanager
    def connection(self, name: str, credentials: Credentials | None = None) -> Iterator[Connection]:
        """A connection for one operation. Raises Denied, Unavailable, InvalidRequest."""
        while not (connection := self._get(self.config(name), credentials)).acquire():
            pass  # it was retired between the two: the next one is new
        with connection.used():
            yield connection

    def alone(self, name: str, credentials: Credentials | None) -> Connection:
        """A connection that nobody else uses; its user retires it. Raises Denied, Unavailable."""
        config = self.config(name)
        return Connection(config, _connect(config, credentials), config.stamp())

    def close(self) -> None:
        """Retire every connection."""
        with self._lock:
            connections = list(self._open.values())
            self._open.clear()
        for connection in connections:
            connection.retire()

    def _get(self, config: ClusterConfig, credentials: Credentials | None) -> Connection:
        key, stamp = (config.name, credentials), config.stamp()
        with self._lock:
            connection = self._open.get(key)
            if connection and not connection.retired and connection.stamp == stamp:
                return connection
            gate = self._gates.setdefault(key, _Gate())
        return gate.through(lambda: self._renew(key, config, stamp))

    def _renew(self, key: tuple[str, Credentials | None], config: ClusterConfig, stamp: tuple[object, ...]) -> Connection:
        with self._lock:
            old = self._open.get(key)
            if old and not old.retired and old.stamp == stamp:
                return old
        fresh = Connection(config, _connect(config, key[1]), stamp)
        with self._lock:
            useless = self._take_replaced(key)
            self._open[key] = fresh
        for connection in useless:
            connection.retire()
        return fresh

    def _take_replaced(self, key: tuple[str, Credentials | None]) -> list[Connection]:
        """Connections that a new one makes useless: its predecessor, and those with an older key of the same user."""
        name, credentials = key
        replaced = [
            other
            for other in self._open
            if other == key or (credentials and other[1] and (other[0], other[1].user) == (name, credentials.user))
        ]
        return [self._open.pop(other) for other in replaced]


class _Gate:
    """Lets one thread connect at a time; those that waited behind a failure share it instead of waiting again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed_at = 0.0
        self._failure: ProvisionerError | None = None

    def through(self, connect: Callable[[], Connection]) -> Connection:
        came = time.monotonic()
        with self._lock:
            if self._failure is not None and self._failed_at > came:
                raise self._failure
            try:
                return connect()
            except ProvisionerError as error:
                self._failed_at, self._failure = time.monotonic(), error
                raise


def _connect(config: ClusterConfig, credentials: Credentials | None) -> rados.Rados:
    user = credentials.user if credentials else config.user
    doing = f"connecting to cluster {config.name!r} as client.{user}"
    try:
        handle = rados.Rados(name=f"client.{user}", conffile=config.conf or None, conf=_settings(config, credentials))
        handle.connect()
    except rados.ObjectNotFound as error:
        files = ", ".join(file for file in (config.conf, config.keyring, config.key_file) if file)
        raise Unavailable(f"{doing}: no usable configuration or keyring in {files}") from error
    except rados.Error as error:
        if errno_of(error) == errno.EINVAL:
            raise Denied(f"{doing}: the key is malformed") from error
        if errno_of(error) == errno.EIO:
            raise Unavailable(f"{doing}: can't make sense of keyring {config.keyring}") from error
        raise explain(error, doing) from error
    return handle


def _settings(config: ClusterConfig, credentials: Credentials | None) -> dict[str, str]:
    timeout = str(config.timeout)
    settings = {
        "client_mount_timeout": timeout,
        "rados_mon_op_timeout": timeout,
        "rados_osd_op_timeout": timeout,
        # librados must not write where our own logs go, nor make a socket or a log file per process
        "log_to_stderr": "false",
        "err_to_stderr": "false",
        "log_file": "",
        "admin_socket": "",
        "rbd_default_clone_format": "2",
        # half the memory of a client with several hundred operations in flight, and no slower for headers
        "rbd_cache": "false",
    }
    if config.monitors:
        settings["mon_host"] = ",".join(config.monitors)
    if credentials:
        settings["key"] = credentials.key
        settings["keyring"] = os.devnull
    elif config.key_file:
        settings["keyfile"] = config.key_file
    elif config.keyring:
        settings["keyring"] = config.keyring
    return settings
