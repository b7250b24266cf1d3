"""Kubernetes quantities of storage, to and from bytes."""

import re
from decimal import Decimal

from provisioner.core.errors import InvalidRequest
from provisioner.core.model import MIB

_BINARY = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_UNITS = {**_BINARY, **_DECIMAL}
_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[+-]?[0-9]+\.)(?:([eE][+-]?[0-9]{1,3})|([KMGTPE]i|[mkMGTPE]?))")


def to_bytes(field: str, text: str) -> int:
    """Bytes in a quantity such as `1Gi`, `1.5G` or `1e9`, rounded up. Raises InvalidRequest naming `field`."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidRequest(field, text, "is not a quantity")
    number, exponent, unit = match.groups()
    exact = Decimal(number + exponent) if exponent else Decimal(number) * _UNITS[unit or ""]
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def from_bytes(size: int) -> str:
    """Write a size as Kubernetes would: in the largest binary unit that is exact, MiB or more."""
    for unit in ("Ti", "Gi", "Mi"):
        if size % _BINARY[unit] == 0 and size >= MIB:
            return f"{size // _BINARY[unit]}{unit}"
    return str(size)
