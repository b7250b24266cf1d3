"""Where this node is in CRUSH, so that the kernel reads from the nearest replica: as it was told, or as its labels say.

It is an advice: a node that does not know (yet) where it is reads from the primaries.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from provisioner.core.errors import InvalidRequest
from provisioner.core.mapping import check_location, location_of

log = logging.getLogger(__name__)

Labels = Callable[[], Mapping[str, str]]
"""Reads the labels of this machine's Kubernetes node."""


class Locality:
    """The node's place, for the options of mappings; one that was mapped keeps what it was mapped with."""

    def __init__(self, location: str = "", wanted: Sequence[str] = (), labels: Labels | None = None) -> None:
        """`location` is `rack:a|host:b`; else it is what the `wanted` of the `labels` make. Raises InvalidRequest."""
        if location and wanted:
            raise InvalidRequest("--crush-location-labels", ",".join(wanted), "is given beside --crush-location: keep one")
        self._location = check_location("--crush-location", location)
        self._wanted, self._labels = wanted, labels

    def look(self) -> None:
        """Read the labels again, if they count. Raises what reading them raises, and InvalidRequest."""
        if self._labels is None or not self._wanted:
            return
        location = location_of(self._labels(), self._wanted)
        if not location:
            log.warning("the node bears none of the labels %s: reading from the primaries", ", ".join(self._wanted))
        elif location != self._location:
            log.info("reading from the replicas nearest to %s, as the node's labels say", location)
        self._location = location

    def options(self) -> str:
        """What a mapping gets."""
        return f"read_from_replica=localize,crush_location={self._location}" if self._location else ""
