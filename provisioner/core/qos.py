"""How fast a volume may be: limits on operations and bytes a second, and how they grow with it.

Parameters are named as ceph-csi's, in a StorageClass and in a VolumeAttributesClass alike. For each KIND of Iops, ReadIops,
WriteIops, Bps, ReadBps, WriteBps:

    base<KIND>          the limit of a volume of baseVolSizeBytes or less
    <kIND>PerGiB        what each whole GiB beyond baseVolSizeBytes adds
    max<KIND>           what the limit never goes over; on its own, the limit of any volume
    burst<KIND>         what may be had for burstSeconds by whoever was idle before (ours; ceph-csi has no bursts)

0 is no limit. The limits are librbd's `rbd_qos_*` options: whoever opens the image through librbd (QEMU, rbd-nbd) obeys them,
the kernel's client knows none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from provisioner.core.errors import InvalidRequest

_GIB = 1 << 30
_LARGEST = 10**15
_OPTION = {
    "Iops": "rbd_qos_iops",
    "ReadIops": "rbd_qos_read_iops",
    "WriteIops": "rbd_qos_write_iops",
    "Bps": "rbd_qos_bps",
    "ReadBps": "rbd_qos_read_bps",
    "WriteBps": "rbd_qos_write_bps",
}
_FROM, _SECONDS = "baseVolSizeBytes", "burstSeconds"


def _per_gib(kind: str) -> str:
    return f"{kind[0].lower()}{kind[1:]}PerGiB"


NAMES = (
    *(name for kind in _OPTION for name in (f"base{kind}", _per_gib(kind), f"max{kind}", f"burst{kind}")),
    *(_FROM, _SECONDS),
)
"""Every parameter of this module."""
OPTIONS = tuple(f"{option}_{part}" for option in _OPTION.values() for part in ("limit", "burst", "burst_seconds"))
"""Every option of an image that the parameters may come to."""
_SPELLED = {name.lower(): name for name in NAMES}


@dataclass(frozen=True, slots=True)
class Qos:
    """What was asked for: parameters and their values, in order of the names. False if nothing was."""

    settings: tuple[tuple[str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.settings)

    @classmethod
    def of(cls, settings: Mapping[str, int]) -> "Qos":
        """Make one of settings by name."""
        return cls(tuple(sorted(settings.items())))

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> "Qos":
        """Read parameters; like all of ours, in any case. Raises InvalidRequest naming the one at fault, or unknown.

        Not looked at: what makes sense only together, since these may be changes to others. See `checked`.
        """
        settings: dict[str, int] = {}
        for name, text in given.items():
            spelled = _SPELLED.get(name.lower())
            if spelled is None:
                raise InvalidRequest(name, text, f"unknown parameter; those of QoS are {', '.join(NAMES)}")
            value = _number(name, text)
            if settings.setdefault(spelled, value) != value:
                raise InvalidRequest(name, text, f"is given twice; the other value is {settings[spelled]}")
        return cls.of(settings)

    @classmethod
    def of_rates(cls, iops: int, bps: int, burst_factor: int = 0, burst_seconds: int = 0) -> "Qos":
        """Fixed limits of operations and bytes a second, 0 for none; bursts of so many times them, for so many seconds."""
        settings = {"maxIops": iops, "maxBps": bps}
        if burst_factor > 1 and (iops or bps):
            settings |= {"burstIops": iops * burst_factor, "burstBps": bps * burst_factor}
            settings[_SECONDS] = burst_seconds or 1
        return cls.of({name: value for name, value in settings.items() if value})

    def checked(self) -> "Qos":
        """Give itself if it is whole. Raises InvalidRequest naming a parameter that means nothing without another."""
        for kind in _OPTION:
            _check(dict(self.settings), kind)
        return self

    def changed(self, changes: "Qos") -> "Qos":
        """Give what the changes make of it: what they don't name stays (CSI, ControllerModifyVolume). Raises InvalidRequest."""
        return Qos.of(dict(self.settings) | dict(changes.settings)).checked()

    def described(self) -> dict[str, int]:
        """The settings by name, as `of` takes them."""
        return dict(self.settings)

    def options(self, size: int) -> dict[str, str]:
        """The options of an image of `size` bytes."""
        said, found = dict(self.settings), dict[str, str]()
        for kind, option in _OPTION.items():
            limit, burst = _limit(said, kind, size), said.get(f"burst{kind}", 0)
            if limit:
                found[f"{option}_limit"] = str(limit)
            if limit and burst:
                found[f"{option}_burst"] = str(max(burst, limit))  # librbd drops a limit that its burst is below
                found[f"{option}_burst_seconds"] = str(said.get(_SECONDS, 1))
        return found


NO_QOS = Qos()


@dataclass(frozen=True, slots=True)
class Throttle:
    """What an image is throttled by: the spec now, the one that it was made with, and the options that stand on it."""

    qos: Qos = NO_QOS
    made_with: Qos = NO_QOS
    options: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    """Changes with each change, "" as long as there was none: what a writer compares before it sets."""

    def fits(self, size: int) -> bool:
        """Tell whether the options are those of an image of `size` bytes; without a spec of ours, any may stand there."""
        return not self.stamp or dict(self.options) == self.qos.options(size)


NO_THROTTLE = Throttle()


def names_in(given: Iterable[str]) -> list[str]:
    """Those of the names that are parameters of this module."""
    return [name for name in given if name.lower() in _SPELLED]


def _check(said: Mapping[str, int], kind: str) -> None:
    per_gib, burst = _per_gib(kind), f"burst{kind}"
    if said.get(per_gib) and _FROM not in said:
        raise InvalidRequest(
            per_gib, said[per_gib], f"means nothing without {_FROM}, from which on it counts (0: all of the volume)"
        )
    if said.get(burst) and not any(said.get(name) for name in (f"base{kind}", per_gib, f"max{kind}")):
        raise InvalidRequest(burst, said[burst], f"means nothing without a limit: base{kind}, {per_gib} or max{kind}")


def _limit(said: Mapping[str, int], kind: str, size: int) -> int:
    base, per_gib, most = said.get(f"base{kind}", 0), said.get(_per_gib(kind), 0), said.get(f"max{kind}", 0)
    beyond = max(size - said.get(_FROM, 0), 0) // _GIB
    limit = base + beyond * per_gib or per_gib  # 0 would be no limit at all
    return min(limit, most) if limit and most else limit or most


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(_LARGEST)) or int(text) > _LARGEST:
        raise InvalidRequest(name, text, f"must be a whole number from 0 to {_LARGEST}")
    if name.lower() == _SECONDS.lower() and not int(text):
        raise InvalidRequest(name, text, "must be 1 second or more")
    return int(text)
