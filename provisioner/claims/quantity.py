"""Kubernetes quantities of storage, to and from bytes."""

import math
import re
from fractions import Fraction

from provisioner.core.errors import InvalidRequest
from provisioner.core.model import MIB

_BINARY = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {letter: Fraction(1000) ** power for power, letter in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)}
_UNITS: dict[str, Fraction] = {unit: Fraction(factor) for unit, factor in (_BINARY | _DECIMAL).items()}
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE]?))")


def to_bytes(field: str, text: str) -> int:
    """Bytes in a quantity such as `1Gi`, `1.5G` or `1e9`, rounded up. Raises InvalidRequest naming `field`."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidRequest(field, text, "is not a quantity")
    number, exponent, unit = match.groups()
    factor = Fraction(10) ** int(exponent) if exponent else _UNITS[unit]
    return math.ceil(Fraction(number) * factor)


def from_bytes(size: int) -> str:
    """Write a size as Kubernetes would: in the largest binary unit that is exact, MiB or more."""
    for unit in ("Ti", "Gi", "Mi"):
        if size % _BINARY[unit] == 0 and size >= MIB:
            return f"{size // _BINARY[unit]}{unit}"
    return str(size)
