"""A client that writes to several images in order, as a database does to its log and its tables."""

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import rados
import rbd

from tests.harness.waiting import until

_NUMBER = struct.Struct("<Q")


class Writer:
    """Writes the same number to each image, one after the other, then the next number."""

    def __init__(self, images: Sequence[rbd.Image]) -> None:
        self._images, self._stop = images, threading.Event()
        self.rounds, self.slowest = 0, 0.0
        self.failures: list[Exception] = []
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def goes_on(self, seconds: float) -> float:
        """Wait until it wrote on; how long that took."""
        at, began = self.rounds, time.monotonic()
        until(lambda: self.rounds > at + 1, seconds, "the writer goes on")
        return time.monotonic() - began

    def stands(self, seconds: float = 0.5) -> bool:
        """Tell whether it writes nothing for so long, but for what was under way."""
        pause = threading.Event()
        pause.wait(0.2)
        at = self.rounds
        return not pause.wait(seconds) and self.rounds == at

    def _write(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                for image in self._images:
                    image.write(_NUMBER.pack(self.rounds), 0)
            except rbd.Error as error:
                self.failures.append(error)
            self.rounds += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


@contextmanager
def writing(pool: rados.Ioctx, images: Sequence[str]) -> Iterator[Writer]:
    """A writer at work for the block."""
    with ExitStack() as opened:
        writer = Writer([opened.enter_context(rbd.Image(pool, image)) for image in images])
        writer.start()
        try:
            until(lambda: writer.rounds > 3, 120, "it writes")
            yield writer
        finally:
            writer.stop()


def number_in(pool: rados.Ioctx, image: str, snapshot: str) -> int:
    """The number that a snapshot holds."""
    with rbd.Image(pool, image, snapshot=snapshot) as opened:
        (number,) = _NUMBER.unpack(opened.read(0, _NUMBER.size))
        return int(number)
