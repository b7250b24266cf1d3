"""`iscsi`: the kubelet's plugin logs in to the target, as the initiator that the target was exported to."""

from typing import Any

from provisioner.claims.classes import Class
from provisioner.claims.connections.kind import Authentication, Mounting, reference, refuse_encrypted
from provisioner.core.connections import Connection
from provisioner.core.errors import Unsupported
from provisioner.core.parameters import SecretRef

_CHAP = {"": "node.session.auth", "discovery_": "discovery.sendtargets.auth"}
"""Cinder's prefix of a user and a password, and the one that iscsiadm knows them by."""


class IscsiKind:
    """CHAP's users and passwords are in the connection; the kubelet wants them in a Secret."""

    def authentication(self, connection: Connection, storage_class: Class) -> Authentication | SecretRef | None:
        """A Secret for the session and, where the target asks for it, for the discovery."""
        refuse_encrypted(connection)
        data = {
            f"{known_as}.{part}": str(connection.data.get(f"{prefix}auth_{part}", ""))
            for prefix, known_as in _CHAP.items()
            if _asks(connection, prefix)
            for part in ("username", "password")
        }
        return Authentication("kubernetes.io/iscsi-chap", data) if data else None

    def source(self, connection: Connection, secret: SecretRef | None, mounting: Mounting) -> dict[str, Any]:
        """Portal, IQN, LUN, further portals of the same target for multipath, initiator, CHAP and the Secret."""
        said = connection.data
        if not all(said.get(name) is not None for name in ("target_portal", "target_iqn", "target_lun")):
            raise Unsupported("a connection of type 'iscsi' without target_portal, target_iqn and target_lun")
        source = {
            "targetPortal": said["target_portal"],
            "iqn": said["target_iqn"],
            "lun": int(said["target_lun"]),
            "chapAuthSession": _asks(connection, ""),
            "chapAuthDiscovery": _asks(connection, "discovery_"),
            **({"portals": others} if (others := _further_portals(connection)) else {}),
            **({"initiatorName": connection.initiator} if connection.initiator else {}),
            **({"secretRef": reference(secret)} if secret else {}),
        }
        return {"iscsi": {**source, **mounting.fields()}}


def _asks(connection: Connection, prefix: str) -> bool:
    method = connection.data.get(f"{prefix}auth_method")
    if method not in (None, "", "None", "CHAP"):
        raise Unsupported(f"a connection of type 'iscsi' with {prefix}auth_method {method!r}: only CHAP is known")
    return bool(method == "CHAP")


def _further_portals(connection: Connection) -> list[str]:
    """Those that lead to the same IQN and LUN: a PersistentVolume has one of each for all its portals."""
    said = connection.data
    portals = list(said.get("target_portals") or [])
    iqns = list(said.get("target_iqns") or [said["target_iqn"]] * len(portals))
    luns = list(said.get("target_luns") or [said["target_lun"]] * len(portals))
    same = (said["target_iqn"], int(said["target_lun"]))
    found = zip(portals, iqns, luns, strict=True)
    return [portal for portal, iqn, lun in found if (iqn, int(lun)) == same and portal != said["target_portal"]]
