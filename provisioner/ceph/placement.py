"""Which placement group an object lies in: RADOS hashes the name (Bob Jenkins' lookup2, Ceph's default) and folds the number.

Computed here because a barrier needs one name in each group of a pool, and asking the monitor for each would take thousands
of commands.
"""

from collections.abc import Iterator

_GOLDEN = 0x9E3779B9
_WORD = 0xFFFFFFFF
_CHUNK = 12
_SEPARATOR = "\x1f"
"""Between a RADOS namespace and an object's name, in what is hashed."""


def group_of(name: str, namespace: str, groups: int) -> int:
    """The number of the placement group, among `groups`, that the object of a pool lies in."""
    told = f"{namespace}{_SEPARATOR}{name}" if namespace else name
    value, mask = _hash(told.encode()), (1 << (groups - 1).bit_length()) - 1
    folded = value & mask
    return folded if folded < groups else value & (mask >> 1)


def name_in_each(groups: int, namespace: str, prefix: str) -> Iterator[str]:
    """Names that begin with `prefix`, one in each placement group."""
    missing, number = set(range(groups)), 0
    while missing:
        name = f"{prefix}{number}"
        group = group_of(name, namespace, groups)
        if group in missing:
            missing.remove(group)
            yield name
        number += 1


def _hash(raw: bytes) -> int:
    a = b = _GOLDEN
    c = 0
    whole = len(raw) // _CHUNK * _CHUNK
    for start in range(0, whole, _CHUNK):
        words = [int.from_bytes(raw[at : at + 4], "little") for at in range(start, start + _CHUNK, 4)]
        a, b, c = _mixed(a + words[0], b + words[1], c + words[2])
    rest = raw[whole:]
    # the lowest byte of the last word is the length's
    return _mixed(
        a + int.from_bytes(rest[0:4], "little"),
        b + int.from_bytes(rest[4:8], "little"),
        c + (int.from_bytes(rest[8:11], "little") << 8) + len(raw),
    )[2]


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second, third in ((13, 8, 13), (12, 16, 5), (3, 10, 15)):
        a = ((a - b - c) & _WORD) ^ ((c & _WORD) >> first)
        b = ((b - c - a) & _WORD) ^ ((a << second) & _WORD)
        c = ((c - a - b) & _WORD) ^ (b >> third)
    return a, b, c
