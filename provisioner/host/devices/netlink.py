"""What the kernel's nbd is told by generic netlink (include/uapi/linux/nbd-netlink.h): to let a device go, or of its new size.

A device that was connected so takes neither by ioctl. rbd-nbd tells a new size by itself, but up to Ceph 18.2.1 without the
device's cookie, which the kernel refuses (https://tracker.ceph.com/issues/64139).
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence

_FAMILY = b"nbd"
_GENERIC = 16
_SECONDS = 30.0
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
"""include/uapi/linux/genetlink.h: the family of families, its command, two attributes."""
_REQUEST_AND_ACKNOWLEDGE = 1 | 4
_ERROR = 2
_HEADER, _COMMAND, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_DISCONNECT, _RECONFIGURE = 2, 3
_INDEX, _SIZE, _BACKEND = 1, 2, 10


def disconnect(index: int) -> None:
    """Let the device go, whoever uses it; one that shows nothing is fine. Raises OSError."""
    try:
        _tell(_DISCONNECT, (_INDEX, struct.pack("=I", index)))
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL):
            raise


def resize(index: int, cookie: str, size: int) -> None:
    """Have the device show so many bytes. Raises OSError."""
    named = (_INDEX, struct.pack("=I", index)), (_BACKEND, cookie.encode() + b"\0")
    _tell(_RECONFIGURE, *named, (_SIZE, struct.pack("=Q", size)))


def _tell(command: int, *attributes: tuple[int, bytes]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as kernel:
        kernel.settimeout(_SECONDS)
        _ask(kernel, _number_of_family(kernel), command, attributes)


def _number_of_family(kernel: socket.socket) -> int:
    told = _ask(kernel, _CONTROLLER, _GET_FAMILY, [(_FAMILY_NAME, _FAMILY + b"\0")])
    while told:
        length, kind = _ATTRIBUTE.unpack_from(told)
        if kind == _FAMILY_ID:
            return int(struct.unpack_from("=H", told, _ATTRIBUTE.size)[0])
        told = told[_aligned(length) :]
    raise OSError(errno.ENOENT, "the kernel has no nbd")


def _ask(kernel: socket.socket, family: int, command: int, attributes: Sequence[tuple[int, bytes]]) -> bytes:
    """Send one request; gives the attributes of what is answered before the kernel acknowledges."""
    words = b"".join(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + _padded(value) for kind, value in attributes)
    words = _COMMAND.pack(command, 1, 0) + words
    kernel.send(_HEADER.pack(_HEADER.size + len(words), family, _REQUEST_AND_ACKNOWLEDGE, 1, 0) + words)
    answer = b""
    while True:
        told = kernel.recv(65536)
        while told:
            length, kind, *_ = _HEADER.unpack_from(told)
            if kind == _ERROR:
                if code := struct.unpack_from("=i", told, _HEADER.size)[0]:
                    raise OSError(-code, os.strerror(-code))
                return answer
            answer += told[_HEADER.size + _COMMAND.size : length]
            told = told[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
