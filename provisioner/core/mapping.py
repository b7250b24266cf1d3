"""Options of mappings, as a class gives them: `a,b` for every kind of device, or `krbd:a,b;nbd:c,d` for each its own.

What the kernel's client knows is checked as the volume is made (rbd(8), "Kernel rbd (krbd) options"); it would say of a typo no
more than EINVAL, on some node, much later.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from provisioner.core.errors import InvalidRequest

_KINDS = {"krbd": "rbd", "rbd": "rbd", "nbd": "rbd-nbd", "rbd-nbd": "rbd-nbd", "fuse": "fuse"}
_WITHOUT_OPTIONS = ("fuse",)
_OURS_TO_SAY = ("name", "key", "secret", "fsid", "_pool_ns", "pool_ns", "ro", "read_only", "rw", "read_write")
_LOCATION = re.compile(r"[A-Za-z0-9._-]+:[A-Za-z0-9._-]+(\|[A-Za-z0-9._-]+:[A-Za-z0-9._-]+)*")
_FLAGS = frozenset(
    (
        *("share", "noshare", "crc", "nocrc", "tcp_nodelay", "notcp_nodelay", "abort_on_full", "lock_on_read", "exclusive"),
        *("notrim", "rxbounce", "nocephx_require_signatures", "nocephx_sign_messages"),
        *("cephx_require_signatures", "cephx_sign_messages"),
    )
)


def _one_of(*values: str) -> Callable[[str], str]:
    return lambda value: "" if value in values else f"must be one of {', '.join(values)}"


def _whole(value: str) -> str:
    return "" if value.isascii() and value.isdecimal() else "must be a whole number"


def _location(value: str) -> str:
    return "" if _LOCATION.fullmatch(value) else "must look like rack:r1|host:h1"


_VALUES: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(("mount_timeout", "osdkeepalive", "osd_idle_ttl", "osd_request_timeout", "lock_timeout"), _whole),
    **dict.fromkeys(("queue_depth", "alloc_size"), _whole),
    "read_from_replica": _one_of("no", "balance", "localize"),
    "compression_hint": _one_of("none", "compressible", "incompressible"),
    "ms_mode": _one_of("legacy", "crc", "secure", "prefer-crc", "prefer-secure"),
    "crush_location": _location,
    "ip": lambda value: "" if value else "must be an address",
}
_NBD_FLAGS, _NBD_NUMBERS = ("exclusive", "quiesce", "try-netlink"), ("io-timeout", "max_part", "reattach-timeout")


def options_for(kind: str, text: str, parameter: str = "mapOptions") -> str:
    """Find the options of one kind of device. Raises InvalidRequest for a kind that isn't known."""
    if ":" not in text.partition("=")[0] and ";" not in text:
        return text.strip()
    found = ""
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, options = part.partition(":")
        if not colon or name.strip() not in _KINDS:
            raise InvalidRequest(parameter, text, f"{name!r} is none of {', '.join(_KINDS)}")
        if _KINDS[name.strip()] == kind:
            found = options.strip()
    return found


def check_map_options(text: str, mounter: str) -> None:
    """Raise InvalidRequest, with the option, for what the class's `mounter` can't do; of "auto", the kernel's client counts."""
    options = options_for(mounter, text)
    if options and mounter in _WITHOUT_OPTIONS:
        raise InvalidRequest("mapOptions", text, f"mounter {mounter} has none")
    if mounter == "rbd-nbd":
        nbd_options(options, text)
    for option in _split(options_for("rbd", text)) if mounter in ("rbd", "auto") else ():
        if why := _refusal(option):
            raise InvalidRequest("mapOptions", text, f"{option}: {why}")


def nbd_options(options: str, said: str = "") -> dict[str, str]:
    """Read options of rbd-nbd(8), `io-timeout=30,exclusive`. Raises InvalidRequest for what is none, of what the class `said`."""
    found = {}
    for option in _split(options):
        name, equals, value = option.partition("=")
        if name not in (*_NBD_FLAGS, *_NBD_NUMBERS):
            raise InvalidRequest(
                "mapOptions", said or options, f"{option}: known are {', '.join(sorted((*_NBD_FLAGS, *_NBD_NUMBERS)))}"
            )
        if why := _whole(value) if name in _NBD_NUMBERS else "takes no value" if equals else "":
            raise InvalidRequest("mapOptions", said or options, f"{option}: {why}")
        found[name] = value
    return found


def is_forced(text: str) -> bool:
    """Whether these `unmapOptions` have the kernel unmap a device that a process still has open."""
    return "force" in _split(options_for("rbd", text, "unmapOptions"))


def check_unmap_options(text: str, mounter: str) -> None:
    """Raise InvalidRequest for what the class's `mounter` can't do."""
    if mounter not in ("rbd", "auto") and options_for(mounter, text, "unmapOptions"):
        raise InvalidRequest("unmapOptions", text, f"mounter {mounter} has none")
    for option in _split(options_for("rbd", text, "unmapOptions")) if mounter in ("rbd", "auto") else ():
        if option != "force":
            raise InvalidRequest("unmapOptions", text, f"{option}: the kernel knows force only")


def check_location(field: str, text: str) -> str:
    """Give a CRUSH location as it is. Raises InvalidRequest for what is none; "" is none, and fine."""
    if text and (why := _location(text)):
        raise InvalidRequest(field, text, why)
    return text


def location_of(labels: Mapping[str, str], wanted: Sequence[str]) -> str:
    """Where a Kubernetes node is in CRUSH, by those of its labels: `zone:a|host:b`; "" where it bears none of them.

    A bucket's type is a label's last part, with `host` for `hostname`; its name is the label's value, with dashes for the dots of
    a host's name, as Rook names hosts.
    """
    buckets = []
    for label in wanted:
        kind = label.rpartition("/")[2]
        if not (name := labels.get(label, "")):
            continue
        buckets.append(f"host:{name.replace('.', '-')}" if kind == "hostname" else f"{kind}:{name}")
    return check_location("--crush-location-labels", "|".join(buckets))


def _refusal(option: str) -> str:
    name, equals, value = option.partition("=")
    if name in _OURS_TO_SAY:
        return "is not for a class to say"
    if name in _FLAGS:
        return "takes no value" if equals else ""
    check = _VALUES.get(name)
    if check is None:
        return f"the kernel's client has no such option; known: {', '.join(sorted({*_FLAGS, *_VALUES}))}"
    return check(value)


def _split(options: str) -> list[str]:
    return [option.strip() for option in options.split(",") if option.strip()]
