"""Another key for an encrypted volume, in place of the one it has: beside it first, so that some key opens the volume always.

Killed between any two steps, it is finished by the next call: what was begun is read from the image's key record and from
the LUKS header itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from provisioner.core.errors import Denied, InUse, InvalidRequest, Unfit
from provisioner.core.ids import VolumeId
from provisioner.core.keys import VolumeKeys
from provisioner.core.model import Opening
from provisioner.host.errand import Errand
from provisioner.host.luks import Luks
from provisioner.host.ports import Kind


class Users(Protocol):
    """What is asked of Ceph."""

    def opening(self, volume: VolumeId, credentials: None) -> Opening:
        """Look the image up. Raises NotFound."""

    def users(self, image: Opening) -> list[str]:
        """The addresses of clients that have the image open, and are not fenced."""


class Rotation:
    """Rotations on this node: of volumes that are staged here, or that nobody has open."""

    def __init__(self, images: Users, keys: VolumeKeys, kinds: Sequence[Kind], luks: Luks, errand: Errand) -> None:
        """`kinds` in the order in which they are tried for a volume that is not staged here, which is an `errand`."""
        self._images, self._keys, self._kinds, self._luks = images, keys, kinds, luks
        self._errand = errand

    def rotate(self, volume: VolumeId, passphrase: str, new_passphrase: str = "") -> None:
        """Give the volume another key, and take the old one from it.

        Of a volume whose key is the passphrase itself, `new_passphrase` becomes the key. Else a KMS keeps a new random one;
        and a KMS of type metadata wraps with `new_passphrase` from then on, if that is given.
        Raises InUse for a volume that is open elsewhere, or another node's, Denied where no key opens it.
        """
        image = self._images.opening(volume, None)
        with self._device(image) as device:
            if self._keys.has_record(image):
                if new_passphrase:
                    self._keys.rewrap(image, passphrase, new_passphrase)
                self._by_kms(image, device, new_passphrase or passphrase)
            else:
                self._by_passphrase(device, passphrase, new_passphrase)

    def _by_kms(self, image: Opening, device: Path, passphrase: str) -> None:
        record, new = self._keys.begin_rotation(image, passphrase)
        old = [key for key in self._keys.find(image, passphrase) if key != new]
        self._add(device, old, new)
        record = self._keys.prefer_new(image, record)
        for key in old:
            self._luks.remove_key(device, key, new)
        self._keys.end_rotation(image, record)

    def _by_passphrase(self, device: Path, old: str, new: str) -> None:
        if not old or not new or old == new:
            raise InvalidRequest("new passphrase", "", "and the old one must be given, and differ: no KMS has the volume's key")
        self._add(device, [old], new)
        self._luks.remove_key(device, old, new)

    def _add(self, device: Path, old: Sequence[str], new: str) -> None:
        if self._luks.opens(device, new):
            return
        for key in old:
            if self._luks.opens(device, key):
                self._luks.add_key(device, key, new)
                return
        raise Denied("opening the volume: no key of its record does", str(device))

    @contextmanager
    def _device(self, image: Opening) -> Iterator[Path]:
        """The device with the LUKS header: where it is staged, else attached for the block."""
        if self._errand.is_begun(image.volume):
            self._errand.end(image.volume, self._kinds)
        if staged := next((found for kind in self._kinds if (found := kind.find(image.volume))), None):
            yield staged
            return
        if users := self._images.users(image):
            raise InUse(f"volume {image.volume}", [*users, "rotate its key on the node where it is staged"])
        with self._errand.device(self._able(), image) as device:
            yield device

    def _able(self) -> Kind:
        lacking = {kind.name: kind.missing() for kind in self._kinds}
        able = next((kind for kind in self._kinds if not lacking[kind.name]), None)
        if able is None:
            raise Unfit("this node", f"can't attach: {'; '.join(f'{name}: {why}' for name, why in lacking.items())}")
        return able
