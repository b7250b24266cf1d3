"""Writing what volumes begin with: OS images, sparsely, and LUKS headers. The Ceph side of `core.content`.

One process at a time writes one image: it holds a RADOS lock, renewed as it goes. A killed one leaves a half-written image
that nobody was told of; whoever comes next begins anew.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import rados
import rbd

from provisioner.ceph import marks
from provisioner.ceph.errors import explained
from provisioner.ceph.lost_locks import opened
from provisioner.ceph.places import Places
from provisioner.ceph.registry import Turn
from provisioner.core.content import OnProgress
from provisioner.core.errors import Conflict, NotFound
from provisioner.core.model import MIB, Credentials, Volume

_PIECE = 4 * MIB
"""Bytes written at once: an object."""
_STRETCH = 1 << 30
"""Bytes blanked at once: librbd refuses to discard 2 GiB in one call."""
_TELL = 0.5
"""Seconds between two words on progress."""
_FORMATTING = 120
"""Seconds that deriving a key may take on a machine under load."""


class CephContent:
    """Implements `core.content.ContentStore`."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def fill(self, volume: Volume, content: Iterator[bytes], on_progress: OnProgress) -> None:
        """Write the content, sparsely."""
        with (
            self._places.enrolled(volume.id.place, None) as room,
            explained(f"filling image {volume.id}"),
            room.registry.alone(room.pool, _task(volume), str(volume.id)) as turn,
            opened(room.registry.instance, room.pool, volume.image_id) as image,
        ):
            go_on = partial(_go_on, turn, volume)
            _blank(image, go_on)
            _write(image, _pieces(content), go_on, on_progress)
            image.flush()

    def encrypt(self, volume: Volume, passphrase: bytes, credentials: Credentials | None = None) -> None:
        """Format with LUKS 2."""
        with (
            self._places.enrolled(volume.id.place, credentials) as room,
            explained(f"formatting image {volume.id}"),
            room.registry.alone(room.pool, _task(volume), str(volume.id), _FORMATTING),
        ):
            if not _is_published(room.pool, volume):
                with opened(room.registry.instance, room.pool, volume.image_id) as image:
                    image.encryption_format(rbd.RBD_ENCRYPTION_FORMAT_LUKS2, passphrase, rbd.RBD_ENCRYPTION_ALGORITHM_AES256)


def _task(volume: Volume) -> str:
    return f"fill.{volume.image_id}"


def _go_on(turn: Turn, volume: Volume) -> None:
    if not turn.renew():
        raise Conflict(str(volume.id), "another process of ours may have taken over writing it")


def _is_published(pool: rados.Ioctx, volume: Volume) -> bool:
    header = marks.read_header(pool, volume.image_id)
    if header is None:
        raise NotFound(f"volume {volume.id}")
    return header.metadata.get(marks.PUBLISHED) == volume.image_id


def _blank(image: rbd.Image, go_on: Callable[[], None]) -> None:
    """Write zeros everywhere: a killed predecessor may have written where they belong."""
    size = image.size()
    for at in range(0, size, _STRETCH):
        go_on()
        image.discard(at, min(_STRETCH, size - at))


def _write(image: rbd.Image, pieces: Iterator[bytes], go_on: Callable[[], None], on_progress: OnProgress) -> None:
    at, told = 0, time.monotonic()
    for piece in pieces:
        go_on()
        if piece.count(0) != len(piece):
            image.write(piece, at)
        at += len(piece)
        if time.monotonic() - told > _TELL:
            on_progress(at)
            told = time.monotonic()
    on_progress(at)


def _pieces(content: Iterator[bytes]) -> Iterator[bytes]:
    """The content in pieces of one object each."""
    buffer = bytearray()
    for chunk in content:
        buffer += chunk
        while len(buffer) >= _PIECE:
            yield bytes(buffer[:_PIECE])
            del buffer[:_PIECE]
    if buffer:
        yield bytes(buffer)
