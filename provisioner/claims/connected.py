"""The way of volumes that their store exports: connection → Secret → PersistentVolume source. Cinder's are.

Once connected, a volume needs nothing of its store to be mounted: all that a kubelet reads stands in the PersistentVolume and
its Secret. What turns out not to be of use to any kubelet is undone, unless a PersistentVolume may speak of it already.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from provisioner.claims import objects
from provisioner.claims.classes import Class
from provisioner.claims.connections.fc import FcKind
from provisioner.claims.connections.iscsi import IscsiKind
from provisioner.claims.connections.kind import Authentication, Kind, Mounting
from provisioner.claims.connections.rbd import FindKey, RbdKind
from provisioner.claims.handout import Handouts, Minted
from provisioner.claims.nodes import Kubelets, choose
from provisioner.core.connections import Connection, Connector
from provisioner.core.errors import ProvisionerError, Unsupported
from provisioner.core.model import Volume
from provisioner.core.parameters import SecretRef
from provisioner.core.volumes import Volumes
from provisioner.kube.events import Recorder
from provisioner.kube.resources import Object

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exports:
    """What the composition root brings: who connects, where cephx keys are found, and which places are clouds."""

    connector: Connector
    find_key: FindKey
    clouds: Callable[[], Collection[str]]


def kinds(find_key: FindKey) -> Mapping[str, Kind]:
    """Every `driver_volume_type` that a native PersistentVolume can carry."""
    return {"rbd": RbdKind(find_key), "iscsi": IscsiKind(), "fibre_channel": FcKind()}


class Connected:
    """Hands out volumes by connecting them."""

    def __init__(self, exports: Exports, volumes: Volumes, handouts: Handouts, kubelets: Kubelets, recorder: Recorder) -> None:
        self._connector, self._volumes, self._handouts = exports.connector, volumes, handouts
        self._kubelets, self._recorder = kubelets, recorder
        self._kinds = kinds(exports.find_key)

    def give(self, claim: Object, volume: Volume, storage_class: Class) -> tuple[Object, Minted]:
        """Connect the volume, write its Secret, and give the PersistentVolume's source; the same again each time."""
        connection = self._connector.connect(volume)
        try:
            source, secret, contents = self._read(claim, connection, storage_class)
        except ProvisionerError:
            if not volume.published:
                self._undo(volume)
            raise
        if contents is None:
            return source, Minted(connection=connection.kind)
        self._handouts.write(secret, contents.type, contents.data, volume)
        return source, Minted(secret=f"{secret.namespace}/{secret.name}", connection=connection.kind)

    def take_back(self, volume: Object) -> None:
        """End the connection of a PersistentVolume that goes while its volume stays. Raises the core's errors."""
        self._connector.disconnect(objects.volume_id(volume))

    def _read(
        self, claim: Object, connection: Connection, storage_class: Class
    ) -> tuple[Object, SecretRef, Authentication | None]:
        """The source, where its Secret lies, and what to write into it if that is for us to do."""
        kind = self._kinds.get(connection.kind)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise Unsupported(f"a connection of type {connection.kind!r} fits no native PersistentVolume; known: {known}")
        if connection.kind == "rbd":
            self._look_at_kubelets(claim)
        ours = self._handouts.connection_secret(claim)
        needed = kind.authentication(connection, storage_class)
        if isinstance(needed, SecretRef):
            secret = SecretRef(needed.namespace or claim["metadata"]["namespace"], needed.name)
        else:
            secret = ours
        block = objects.volume_mode(claim) == "Block"
        read_only = objects.access_modes(claim) == ["ReadOnlyMany"] or connection.data.get("access_mode") == "ro"
        mounting = Mounting("" if block else storage_class.parameters.fs_type, read_only)
        source = kind.source(connection, secret if needed else None, mounting)
        return source, secret, needed if isinstance(needed, Authentication) else None

    def _look_at_kubelets(self, claim: Object) -> None:
        choice = choose("native", self._kubelets.versions())
        if choice.warning:
            self._recorder.event(claim, "Warning", "NotEveryNodeCanMount", choice.warning)

    def _undo(self, volume: Volume) -> None:
        try:
            self._volumes.delete(volume.id, None, volume.image_id)
        except ProvisionerError as error:
            log.warning("undoing the making of %s: %s", volume.id, error)
