"""What all doors of CSI have in common: which calls are light, and which fields no log may show."""

from google.protobuf.descriptor import FieldDescriptor

from csi.pb import csi_pb2

LIGHT = frozenset(
    (
        "/csi.v1.Identity/GetPluginInfo",
        "/csi.v1.Identity/GetPluginCapabilities",
        "/csi.v1.Identity/Probe",
        "/csi.v1.Controller/ControllerGetCapabilities",
        "/csi.v1.GroupController/GroupControllerGetCapabilities",
        "/csi.v1.Node/NodeGetCapabilities",
        "/csi.v1.Node/NodeGetInfo",
    )
)


def is_secret(field: FieldDescriptor) -> bool:
    """Tell whether the contract marks the field as one that no log may show."""
    return bool(field.GetOptions().Extensions[csi_pb2.csi_secret])
