"""How the C library keeps the memory that Ceph's libraries asked for, and gave back.

By default every few threads get an arena of their own, and each keeps what its busiest moment took: half as much again as the
program needs, after a storm of clones. Two arenas are enough, since our threads wait for Ceph and not for memory.
"""

import ctypes

_ARENA_MAX = -8
"""glibc's number for mallopt(M_ARENA_MAX)."""
_ARENAS = 2

EVERY = 10.0
"""Seconds between two times that `give_back` is worth its milliseconds."""


def be_frugal() -> None:
    """Bound the arenas; before the first thread. A C library that knows no arenas is left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give what is free in whole pages back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
