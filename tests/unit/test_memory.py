"""What the C library keeps: few arenas, and nothing that is free for long. In processes of their own; about 2 s."""

import subprocess
import sys

_ARENAS = """
import ctypes, threading
from provisioner import memory
{first}
libc, gate = ctypes.CDLL(None), threading.Barrier(9)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
def work():
    gate.wait(); libc.malloc(5000); gate.wait()
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
gate.wait(); gate.wait()
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w"))); libc.fflush(None)
"""
_GIVEN_BACK = """
import ctypes
from pathlib import Path
from provisioner import memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
taken = [libc.malloc(10_000) for _ in range(10_000)]
for each in taken:
    ctypes.memset(each, 1, 10_000)
for each in taken[:-1]:  # the last one keeps the heap's end where it is
    libc.free(each)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
memory.give_back()
print(before - resident())
"""


def _said(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout


def test_threads_share_two_arenas() -> None:
    assert _said(_ARENAS.format(first="memory.be_frugal()")).count("<heap nr=") == 2
    assert _said(_ARENAS.format(first="")).count("<heap nr=") > 2, "else there is nothing to bound"


def test_what_is_free_is_given_back_though_the_heap_s_end_is_in_use() -> None:
    assert int(_said(_GIVEN_BACK)) > 50e6
