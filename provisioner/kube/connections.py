"""The sockets under the transport: one pool per server and TLS context, made anew when the certificates change."""

import socket
import ssl
import threading
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection

from provisioner.kube.kubeconfig import Access

_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    # A peer that vanished without a word (a node lost, a NAT entry expired) is noticed within half a minute, on idle
    # connections and under a write alike. One that stays but does not answer is left to the read timeout.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]


class Connections:
    """The pool of one server; thread-safe."""

    def __init__(self, access: Access, size: int) -> None:
        """Keeps up to `size` connections open; more are made when needed and closed after use."""
        self._access, self._size = access, size
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    def pool(self, tls: ssl.SSLContext | None) -> urllib3.HTTPConnectionPool:
        """The pool whose connections are made with this context; one made with another is retired.

        Raises ClosedPoolError after `close`.
        """
        pool = self._pool
        if pool is not None and self._tls is tls:
            return pool
        with self._lock:
            if self._pool is None or self._tls is not tls:
                retired, self._pool = self._pool, self._made(tls)
                self._tls = tls
                if self._closed:
                    retired = self._pool
                if retired is not None:
                    retired.close()
            return self._pool

    def close(self) -> None:
        """Close what is idle; what is in use is closed by its user."""
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.close()

    def _made(self, tls: ssl.SSLContext | None) -> urllib3.HTTPConnectionPool:
        url = urlsplit(self._access.server)
        host = url.hostname or ""
        if tls is None:
            return urllib3.HTTPConnectionPool(host, url.port or 80, maxsize=self._size, socket_options=_SOCKET_OPTIONS)
        return urllib3.HTTPSConnectionPool(
            host,
            url.port or 443,
            maxsize=self._size,
            socket_options=_SOCKET_OPTIONS,
            ssl_context=tls,
            server_hostname=self._access.server_name,
            assert_hostname=False if self._access.insecure else None,
            cert_reqs="CERT_NONE" if self._access.insecure else "CERT_REQUIRED",
        )
