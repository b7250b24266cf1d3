"""What the host needs of others: of Ceph, to know an image and its notes; of a kind of device, to attach the image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from provisioner.core.encryption import Encryption
from provisioner.core.ids import VolumeId
from provisioner.core.model import Credentials, Opening


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an image is to be attached: the image, for reading only or not, with the options of the kind of device."""

    image: Opening
    read_only: bool = False
    options: str = ""
    forced: bool = False
    """To be detached also while a process has the device open, by a kind that can."""


class Images(Protocol):
    """What Ceph knows of an image. Each call is bounded in time and raises the core's errors only."""

    def opening(self, volume: VolumeId, credentials: Credentials | None) -> Opening:
        """Look the image up. Raises NotFound."""

    def note(self, image: Opening, key: str, *, inherited: bool = False) -> str:
        """Read what a node noted on the image, "" if nothing. A clone has its parent's notes only where `inherited`."""

    def take_note(self, image: Opening, key: str, value: str) -> None:
        """Note something on the image; "" takes the note away."""

    def is_blank(self, image: Opening, head: int, tail: int) -> bool:
        """Whether the first and the last so many bytes were surely never written; False where that takes reading them."""

    def check_room(self, image: Opening) -> None:
        """Raise OutOfSpace where nothing can be written: whoever attaches there to write waits."""

    def used(self, image: Opening) -> int | None:
        """Bytes of the image that hold data, where the image can tell cheaply."""


class Keys(Protocol):
    """Where the keys of encrypted volumes come from, newest first: the passphrase itself, or those that a KMS has."""

    def ensure(self, image: Opening, how: Encryption) -> tuple[str, ...]:
        """The keys of a volume that is to be encrypted; made, if it has none yet."""

    def held(self, image: Opening, how: Encryption) -> tuple[str, ...]:
        """The keys of a volume that is encrypted already: none is made for it. Those that a clone inherited become its own."""

    def find(self, image: Opening, passphrase: str) -> tuple[str, ...]:
        """The keys of an encrypted volume; none where no KMS has any and the passphrase is "" too."""


class Kind(Protocol):
    """A kind of block device that shows an image. What is attached is read from the kernel, every time."""

    @property
    def name(self) -> str:
        """As `mounter` in a class has it."""

    def missing(self) -> str:
        """What this host lacks for it; "" if nothing."""

    def find(self, volume: VolumeId) -> Path | None:
        """The device of the volume, if it is attached and alive."""

    def lost(self) -> list[VolumeId]:
        """Volumes whose device is there, but not the process that served it; `attach` has it served again."""

    def let_go(self, volume: VolumeId) -> None:
        """End the process that serves a device which is in use, at once, and leave the device: the volume is lost then."""

    def attach(self, attachment: Attachment) -> Path:
        """Attach the image, or give the device that shows it already. Raises InUse, Denied, Unavailable, Unfit."""

    def detach(self, volume: VolumeId) -> None:
        """Undo `attach`, whatever is left of it; nothing is fine. Raises InUse while the device is open."""

    def grow(self, image: Opening) -> None:
        """Have the device show the image's size of now."""

    def address(self, volume: VolumeId) -> str:
        """The full address of the client behind the device, "" where the kind can't tell."""

    def living(self) -> list[str] | None:
        """The addresses of all clients of this kind that there are now; None if there are some that it can't name."""

    def apart(self, attachment: Attachment) -> Attachment:
        """The same, but through a client of its own."""
