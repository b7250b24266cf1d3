"""Death at a chosen call: every call to librados and librbd is counted, and the process is gone before the one with the number.

What the provisioner gets are stand-ins for I/O contexts, `rbd.RBD` and `rbd.Image` that count and pass on. A call of librbd
is many of RADOS: to die within it, there is a delay.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rados
import rbd

from provisioner.ceph.cluster import Connection
from provisioner.core.ids import Place

_IO = {"read", "stat", "execute", "operate_read_op", "operate_write_op", "write_full", "remove_object", "get_xattrs", "unlock"}
_IO |= {"notify", "aio_notify", "create_self_managed_snap", "remove_self_managed_snap"}


class Death:
    """Counts calls, tells each, and kills this process before the call `at`, or so many seconds after it began."""

    def __init__(self, at: int, after: float, tell: Callable[[str], None]) -> None:
        self._at, self._after, self._tell = at, after, tell
        self._count = 0

    def step(self, name: str) -> None:
        """One call is about to be made."""
        self._count += 1
        if self._count == self._at and self._after:
            threading.Timer(self._after, _die).start()
        elif self._count == self._at:
            _die()
        self._tell(name)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(death: Death) -> None:
    """From now on every call of this process counts."""
    pool, pool_by_id, command = Connection.pool, Connection.pool_by_id, Connection.command

    @contextmanager
    def counted_pool(self: Connection, place: Place) -> Iterator[_Pool]:
        with pool(self, place) as opened:
            yield _Pool(opened, death)

    @contextmanager
    def counted_pool_by_id(self: Connection, pool_id: int, namespace: str) -> Iterator[_Pool]:
        with pool_by_id(self, pool_id, namespace) as opened:
            yield _Pool(opened, death)

    def counted_command(self: Connection, prefix: str, *args: Any, **kwargs: Any) -> bytes:
        death.step(prefix)
        return command(self, prefix, *args, **kwargs)

    Connection.pool, Connection.pool_by_id = counted_pool, counted_pool_by_id  # type: ignore[assignment]
    Connection.command = counted_command  # type: ignore[method-assign]
    plain_rbd, plain_image = rbd.RBD, rbd.Image
    rbd.RBD = lambda: _Counted(plain_rbd(), death, "rbd")  # type: ignore[misc, assignment]
    rbd.Image = lambda pool, *args, **kwargs: _image(plain_image, death, pool, *args, **kwargs)  # type: ignore[misc, assignment]


class _Counted:
    """Passes on to `real` whatever is asked of it, and counts calls."""

    def __init__(self, real: Any, death: Death, name: str) -> None:
        self._real, self._death, self._name = real, death, name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._real, attribute)
        return self._counting(attribute, found) if callable(found) else found

    def _counting(self, attribute: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._death.step(f"{self._name}.{attribute}")
            return real(*map(_plain, args), **kwargs)

        return call


class _Pool(_Counted):
    def __init__(self, real: rados.Ioctx, death: Death) -> None:
        super().__init__(real, death, "pool")

    def __getattr__(self, attribute: str) -> Any:
        return super().__getattr__(attribute) if attribute in _IO else getattr(self._real, attribute)


class _Image(_Counted):
    def __enter__(self) -> "_Image":
        return self

    def __exit__(self, *exc: object) -> None:
        self._death.step("image.close")
        self._real.close()


def _image(real: Callable[..., Any], death: Death, pool: Any, *args: Any, **kwargs: Any) -> _Image:
    death.step("image.open")
    return _Image(real(_plain(pool), *args, **kwargs), death, "image")


def _plain(value: Any) -> Any:
    return value._real if isinstance(value, _Counted) else value
