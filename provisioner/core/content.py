"""What a volume begins with: an image of an operating system out of a registry, or a LUKS header.

Ports and values only: `provisioner.oci` reads registries, `provisioner.ceph.content` writes images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from provisioner.core.model import Credentials, Volume

LUKS_HEADER = 16 << 20
"""Bytes at the begin of an encrypted image that are not its user's."""

OnProgress = Callable[[int], None]
"""Is told how many bytes are done."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The root file system of an OS image, as its manifest names it. `digest` is `sha256:<64 hex digits>`, `size` in bytes."""

    reference: str
    digest: str
    size: int


class ArtifactSource(Protocol):
    """Registries. Every call is bounded in time and raises errors of the core only."""

    def resolve(self, reference: str, architecture: str) -> Artifact:
        """What a reference means now, for a machine of the architecture ("" if there is but one).

        Raises InvalidRequest (no reference, or an artifact of another kind), NotFound, Denied, Unavailable.
        """

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """The bytes, in pieces. At the end raises InvalidRequest, if they are not those of the digest; else as `resolve`."""


class ContentStore(Protocol):
    """Writes what a volume begins with, before anybody uses it."""

    def fill(self, volume: Volume, content: Iterator[bytes], on_progress: OnProgress) -> None:
        """Write the content from the volume's begin on, sparsely. Conflict while another process does so."""

    def encrypt(self, volume: Volume, passphrase: bytes, credentials: Credentials | None = None) -> None:
        """Format the volume with LUKS 2, unless it was handed out already: then it is formatted."""
