"""`fibre_channel`: the kubelet's plugin looks for the LUN behind the targets' WWNs. The fabric is the authentication.

Made after what the drivers of Cinder document: no fabric was at hand to try it on, and none to record a connection of.
"""

from typing import Any

from provisioner.claims.classes import Class
from provisioner.claims.connections.kind import Authentication, Mounting, refuse_encrypted
from provisioner.core.connections import Connection
from provisioner.core.errors import Unsupported
from provisioner.core.parameters import SecretRef


class FcKind:
    """Zoning was done by Cinder when the connection was made."""

    def authentication(self, connection: Connection, storage_class: Class) -> Authentication | SecretRef | None:
        """Nothing to log in with."""
        refuse_encrypted(connection)
        return None

    def source(self, connection: Connection, secret: SecretRef | None, mounting: Mounting) -> dict[str, Any]:
        """WWNs, several of them being paths to the same LUN, which multipathd joins."""
        said = connection.data
        told = said.get("target_wwns") or said.get("target_wwn") or []
        wwns = [told] if isinstance(told, str) else list(told)
        luns = {int(lun) for lun in [*(said.get("target_luns") or []), *([said["target_lun"]] if "target_lun" in said else [])]}
        if not wwns or len(luns) != 1:
            raise Unsupported(f"a connection of type 'fibre_channel' with {len(wwns)} WWNs and the LUNs {sorted(luns)}")
        return {"fc": {"targetWWNs": [str(wwn).lower() for wwn in wwns], "lun": luns.pop(), **mounting.fields()}}
