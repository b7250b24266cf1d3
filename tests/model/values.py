"""What names stand for in the model of the CSI calls."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Volume:
    """What a name stands for; `source` is the id that it was asked for with, `content` the number in its pattern."""

    image_id: str
    size: int
    content: int
    features: str
    source: str = ""
    nodes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot's name stands for; that of a group's member is the volume's, in the group's dictionary."""

    id: str
    volume: str
    image_id: str
    size: int
    content: int
    group: str = ""
