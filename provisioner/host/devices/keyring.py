"""A key in the kernel's keyring of one thread, for as long as it takes (keyrings(7)). No other thread or process sees it."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_THREAD_KEYRING = -1
_KEYCTL_REVOKE = 3
_NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219)}
"""System calls add_key and keyctl."""


@contextmanager
def offered_key(name: str, secret: bytes) -> Iterator[None]:
    """Offer a key of type `ceph` to what this thread does in the block. Raises OSError."""
    add_key, keyctl = _NUMBERS[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    size = ctypes.c_size_t(len(secret))
    serial = libc.syscall(add_key, b"ceph", name.encode(), secret, size, ctypes.c_long(_THREAD_KEYRING))
    if serial < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield
    finally:
        libc.syscall(keyctl, ctypes.c_long(_KEYCTL_REVOKE), ctypes.c_long(serial))
