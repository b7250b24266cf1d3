"""How to reach one Cinder: values only, so that reading a config file costs no import of the OpenStack SDK."""

from dataclasses import dataclass

from provisioner import watched

POOL = "cinder"
"""The pool of every volume id in a cloud: which backend holds a volume is Cinder's business."""

INITIATOR = "iqn.2026-11.io.ceph-provisioner:nodes"
"""The iSCSI initiator that targets are exported to, and that every node logs in as."""


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """A Cinder of its own (`endpoint`), one behind Keystone (`cloud` of a clouds.yaml), or what OS_* variables say."""

    name: str
    endpoint: str = ""
    """The v3 URL of a Cinder that asks nobody who calls; `user` and `project` are told to it."""
    user: str = "admin"
    project: str = "admin"
    cloud: str = ""
    """A name in a clouds.yaml: `file`, or where the SDK looks for one."""
    file: str = ""
    region: str = ""
    timeout: int = 30
    """Seconds that any one call may take."""
    patience: int = 60
    """Seconds that a volume may need for one change of state, before its asker has to come again."""
    host: str = "ceph-provisioner"
    """The name that attachments bear in Cinder."""
    initiator: str = INITIATOR
    wwpns: tuple[str, ...] = ()
    """Fibre Channel ports of the nodes."""
    multipath: bool = False

    def stamp(self) -> tuple[object, ...]:
        """Changes whenever the file behind this configuration does."""
        return (self, watched.stamp(self.file))

    def connector(self) -> dict[str, object]:
        """Who connects: told to Cinder when a connection is made, and the same again when it ends."""
        told: dict[str, object] = {
            "host": self.host,
            "ip": "127.0.0.1",
            "initiator": self.initiator,
            "multipath": self.multipath,
            "os_type": "linux",
        }
        return {**told, "wwpns": list(self.wwpns)} if self.wwpns else told
