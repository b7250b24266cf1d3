"""How nodes use a volume, and which uses go together."""

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """How a volume may be used, on one node or on many: CSI's access modes."""

    SINGLE_NODE_WRITER = "single-node-writer"
    SINGLE_NODE_READER_ONLY = "single-node-reader-only"
    SINGLE_NODE_SINGLE_WRITER = "single-node-single-writer"
    SINGLE_NODE_MULTI_WRITER = "single-node-multi-writer"
    MULTI_NODE_READER_ONLY = "multi-node-reader-only"
    MULTI_NODE_SINGLE_WRITER = "multi-node-single-writer"
    MULTI_NODE_MULTI_WRITER = "multi-node-multi-writer"

    @property
    def many_nodes(self) -> bool:
        """Whether several nodes may have the volume at once."""
        return self.name.startswith("MULTI_NODE")

    @property
    def reads_only(self) -> bool:
        """Whether nobody writes."""
        return self.name.endswith("READER_ONLY")


@dataclass(frozen=True, slots=True)
class Use:
    """What one node does with a volume; `block` tells a device from a file system."""

    mode: Mode
    readonly: bool = False
    block: bool = False

    @property
    def writes(self) -> bool:
        """Whether the node may write."""
        return not self.readonly and not self.mode.reads_only


def conflicting(mine: Use, other: Use) -> bool:
    """Tell whether two nodes can't have the volume so at once."""
    if not (mine.mode.many_nodes and other.mode.many_nodes):
        return True
    single = Mode.MULTI_NODE_SINGLE_WRITER in (mine.mode, other.mode)
    reader = mine.mode.reads_only or other.mode.reads_only
    return (single and mine.writes and other.writes) or (reader and (mine.writes or other.writes))
