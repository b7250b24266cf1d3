"""A client of an image that stands still for snapshots when it is asked to, as `rbd-nbd map --quiesce` does.

The Python binding has no words for that, so this speaks to librbd itself.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from provisioner.core.ids import Place
from tests.harness.ceph import Ceph

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@contextmanager
def quiescent(ceph: Ceph, place: Place, image: str) -> Iterator[list[str]]:
    """Have the image open for the block; the list gets what the client was asked for: "still" and "go on"."""
    librados, librbd, asked = ctypes.CDLL("librados.so.2"), ctypes.CDLL("librbd.so.1"), list[str]()
    handle, watch = ctypes.c_void_p(), ctypes.c_uint64()
    with _pool(librados, ceph, place) as pool:
        _do(librbd.rbd_open(pool, image.encode(), ctypes.byref(handle), None))

        def still(_: object) -> None:
            asked.append("still")
            librbd.rbd_quiesce_complete(handle, watch, 0)

        callbacks = _Callback(still), _Callback(lambda _: asked.append("go on"))
        _do(librbd.rbd_quiesce_watch(handle, *callbacks, None, ctypes.byref(watch)))
        try:
            yield asked
        finally:
            _do(librbd.rbd_quiesce_unwatch(handle, watch))
            _do(librbd.rbd_close(handle))


@contextmanager
def _pool(librados: Any, ceph: Ceph, place: Place) -> Iterator[ctypes.c_void_p]:
    cluster, pool = ctypes.c_void_p(), ctypes.c_void_p()
    _do(librados.rados_create2(ctypes.byref(cluster), b"ceph", b"client.admin", ctypes.c_uint64(0)))
    _do(librados.rados_conf_read_file(cluster, ceph.conf.encode()))
    _do(librados.rados_connect(cluster))
    _do(librados.rados_ioctx_create(cluster, place.pool.encode(), ctypes.byref(pool)))
    librados.rados_ioctx_set_namespace(pool, place.namespace.encode())
    try:
        yield pool
    finally:
        librados.rados_ioctx_destroy(pool)
        librados.rados_shutdown(cluster)


def _do(code: int) -> None:
    assert code == 0, f"Ceph answers {code}"
