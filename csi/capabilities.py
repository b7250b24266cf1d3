"""How a volume may be used: what an image can do as a file system and as a block device, on one node and on many."""

from collections.abc import Sequence

from csi.pb.csi_pb2 import VolumeCapability
from provisioner.core.errors import InvalidRequest
from provisioner.core.parameters import FS_TYPES

_Mode = VolumeCapability.AccessMode

_ONE_NODE = frozenset(
    (
        _Mode.SINGLE_NODE_WRITER,
        _Mode.SINGLE_NODE_READER_ONLY,
        _Mode.SINGLE_NODE_SINGLE_WRITER,
        _Mode.SINGLE_NODE_MULTI_WRITER,
    )
)
_READERS = frozenset((_Mode.MULTI_NODE_READER_ONLY,))
_MANY_NODES = frozenset((_Mode.MULTI_NODE_SINGLE_WRITER, _Mode.MULTI_NODE_MULTI_WRITER))


def refusal(capability: VolumeCapability, *, empty: bool = False) -> str:
    """Tell why a volume can't be used so; "" if it can. `empty` says that it is to be made without data."""
    mode, kind = capability.access_mode.mode, capability.WhichOneof("access_type")
    if kind is None:
        return "access_type must be block or mount"
    if mode not in _ONE_NODE | _READERS | _MANY_NODES:
        return "access_mode must be set to a mode of CSI 1.13"
    if kind == "block":
        return ""
    if mode in _MANY_NODES:
        return f"{_Mode.Mode.Name(mode)} needs a block volume: no file system of ours bears writers on several nodes"
    if mode in _READERS and empty:
        return "an empty file system that nobody may write makes no sense"
    return _file_system_refusal(capability.mount.fs_type)


def check(capabilities: Sequence[VolumeCapability], *, empty: bool = False) -> None:
    """Raise InvalidRequest unless each of the capabilities can be had."""
    if not capabilities:
        raise InvalidRequest("volume_capabilities", "", "must not be empty")
    for capability in capabilities:
        if why := refusal(capability, empty=empty):
            raise InvalidRequest("volume_capabilities", _Mode.Mode.Name(capability.access_mode.mode), why)


def is_block(capability: VolumeCapability) -> bool:
    """Tell whether the volume is used as a device, without a file system of ours on it."""
    return capability.WhichOneof("access_type") == "block"


def _file_system_refusal(fs_type: str) -> str:
    return "" if fs_type in ("", *FS_TYPES) else f"file system {fs_type!r} is none of {', '.join(FS_TYPES)}"
