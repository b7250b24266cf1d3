"""Objects of RBD in RADOS, read and changed as librbd and the kernel do: little-endian values, omap pairs, class methods.

Each function is one operation of the OSD. Ceph's exceptions leave this module, and those that stand on it, as they are:
callers name the operation that they belong to.
"""

import contextlib
import errno
import struct
from collections.abc import Iterator

import rados

from provisioner.ceph.errors import errno_of

FULL_FORCE = 128
"""librados' OPERATION_FULL_FORCE, which the binding does not name: a new object even in a full pool. For what deleting needs."""

PAGE = 1000
"""Omap pairs that one read can be trusted to give: the OSD stops at `osd_max_omap_entries_per_request`, 1024."""

MISMATCH = 4095
"""From here on, an errno says at which byte `cmpext` met a difference."""
_LOCK = "lock."
_EXCLUSIVE, _CLIENT = 1, 8
_MAY_RENEW, _MUST_RENEW = 1, 2
_LOCKERS_AT = 6
_LOCKER = struct.Struct("<6xBq")


def string(value: str) -> bytes:
    """Encode a string."""
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


def text(raw: bytes, at: int = 0) -> str:
    """Decode the string that begins at the byte `at`; what was garbled by hand gives what is left of it."""
    start = at + 4
    return raw[start : start + number(raw[at:start])].decode(errors="replace")


def number(raw: bytes) -> int:
    """Decode an unsigned number."""
    return int.from_bytes(raw, "little")


def omap_values(pool: rados.Ioctx, obj: str, *keys: str) -> dict[str, bytes]:
    """The values of the keys that are there."""
    with rados.ReadOpCtx() as operation:
        values, _ = pool.get_omap_vals_by_keys(operation, keys)
        try:
            pool.operate_read_op(operation, obj)
        except rados.ObjectNotFound:
            return {}
        return {key: value or b"" for key, value in values}  # the binding gives None for an empty value


def omap_page(pool: rados.Ioctx, obj: str, after: str, prefix: str, limit: int = PAGE) -> dict[str, bytes]:
    """Up to `limit` pairs, and never more than PAGE, behind the key `after`, in order of the keys."""
    with rados.ReadOpCtx() as operation:
        values, _ = pool.get_omap_vals(operation, after, prefix, min(limit, PAGE))
        try:
            pool.operate_read_op(operation, obj)
        except rados.ObjectNotFound:
            return {}
        return {key: value or b"" for key, value in values}  # the binding gives None for an empty value


def omap_all(pool: rados.Ioctx, obj: str) -> Iterator[tuple[str, bytes]]:
    """All pairs, page by page, in order of the keys."""
    after = ""
    while page := omap_page(pool, obj, after, ""):
        yield from page.items()
        after = max(page)


def omap_whole(pool: rados.Ioctx, obj: str) -> dict[str, bytes]:
    """All pairs at once; one read unless there are more than PAGE. Empty if there is no object."""
    values = page = omap_page(pool, obj, "", "")
    while len(page) >= PAGE:
        page = omap_page(pool, obj, max(page), "")
        values |= page
    return values


def omap_set(pool: rados.Ioctx, obj: str, key: str, value: str, flags: int = 0) -> None:
    """Set the key, whatever it was."""
    with rados.WriteOpCtx() as operation:
        pool.set_omap(operation, (key,), (value.encode(),))
        pool.operate_write_op(operation, obj, flags=flags)


def omap_replace(pool: rados.Ioctx, obj: str, key: str, value: str, expected: str, flags: int = 0) -> bool:
    """Set the key if it has the value `expected`, in one step; tell whether it had. "" means absent; all is ASCII."""
    with rados.WriteOpCtx() as operation:
        operation.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
        operation.omap_cmp(key, expected, rados.LIBRADOS_CMPXATTR_OP_EQ)
        pool.set_omap(operation, (key,), (value.encode(),))
        try:
            pool.operate_write_op(operation, obj, flags=flags)
        except rados.Error as error:
            if errno_of(error) == errno.ECANCELED:
                return False
            raise
    return True


def omap_drop(pool: rados.Ioctx, obj: str, key: str, expected: str) -> bool:
    """Remove the key if it has the value `expected`, in one step, even in a full pool; tell whether it had."""
    with rados.WriteOpCtx() as operation:
        operation.omap_cmp(key, expected, rados.LIBRADOS_CMPXATTR_OP_EQ)
        pool.remove_omap_keys(operation, (key,))
        try:
            pool.operate_write_op(operation, obj, flags=FULL_FORCE)
        except rados.Error as error:
            if errno_of(error) in (errno.ECANCELED, errno.ENOENT):
                return False
            raise
    return True


def call(pool: rados.Ioctx, obj: str, method: str, payload: bytes, cls: str = "rbd") -> None:
    """Call a method of an object class on the object, which it makes if need be."""
    with rados.WriteOpCtx() as operation:
        operation.execute(cls, method, payload)
        pool.operate_write_op(operation, obj, flags=FULL_FORCE)


def lock(pool: rados.Ioctx, obj: str, name: str, cookie: str, why: str, seconds: int) -> bool:
    """Take an exclusive lock that lapses, or renew one's own; False while another holds it, be it only under another cookie."""
    try:
        call(pool, obj, "lock", lock_request(name, cookie, why, seconds), cls="lock")
    except rados.ObjectBusy:
        return False
    return True


def renew_lock(pool: rados.Ioctx, obj: str, name: str, cookie: str, why: str, seconds: int) -> bool:
    """Renew one's own lock; False if it lapsed, or was taken away, whoever had it since."""
    try:
        call(pool, obj, "lock", lock_request(name, cookie, why, seconds, _MUST_RENEW), cls="lock")
    except (rados.ObjectBusy, rados.ObjectNotFound):
        return False
    return True


def unlock(pool: rados.Ioctx, obj: str, name: str, cookie: str) -> None:
    """Let go of a lock, to the last trace; one that lapsed is fine."""
    _end_lock(pool, obj, name, "unlock", string(cookie))


def break_lock(pool: rados.Ioctx, obj: str, name: str, instance: int, cookie: str) -> None:
    """Take a lock away from the client `instance`, if it has it."""
    _end_lock(pool, obj, name, "break_lock", struct.pack("<Bq", _CLIENT, instance) + string(cookie))


def lockers(pool: rados.Ioctx, obj: str) -> list[tuple[str, int, str]]:
    """The exclusive locks on the object, those that lapsed included: name, client and cookie of each."""
    with contextlib.suppress(rados.ObjectNotFound):
        locks = [(name.removeprefix(_LOCK), raw) for name, raw in pool.get_xattrs(obj) if name.startswith(_LOCK)]
        return [(name, *_locker(raw)) for name, raw in locks if number(raw[_LOCKERS_AT : _LOCKERS_AT + 4])]
    return []


def _locker(raw: bytes) -> tuple[int, str]:
    """Client and cookie of the first locker in cls_lock's `lock_info_t`."""
    _, instance = _LOCKER.unpack_from(raw, _LOCKERS_AT + 4)
    return instance, text(raw, _LOCKERS_AT + 4 + _LOCKER.size)


def _end_lock(pool: rados.Ioctx, obj: str, name: str, method: str, whose: bytes) -> None:
    """End a lock if it is whose it is said to be; the class itself would leave an empty one behind for each name."""
    body = string(name) + whose
    with rados.WriteOpCtx() as operation, contextlib.suppress(rados.ObjectNotFound):
        operation.execute("lock", method, struct.pack("<BBI", 1, 1, len(body)) + body)
        operation.rm_xattr(_LOCK + name)
        pool.operate_write_op(operation, obj, flags=FULL_FORCE)


def lock_request(name: str, cookie: str, why: str, seconds: int, flags: int = _MAY_RENEW) -> bytes:
    """Encode what `lock` asks for, to be one step of several in an operation."""
    body = string(name) + bytes((_EXCLUSIVE,)) + string(cookie) + string("") + string(why)
    body += struct.pack("<II", seconds, 0) + bytes((flags,))
    return struct.pack("<BBI", 1, 1, len(body)) + body


def remove_if_holds(pool: rados.Ioctx, obj: str, content: bytes) -> bool:
    """Remove the object if it begins with these bytes, in one step; tell whether it did."""
    with rados.WriteOpCtx() as operation:
        operation.cmpext(content, 0)
        operation.remove()
        try:
            pool.operate_write_op(operation, obj)
        except rados.Error as error:
            if errno_of(error) == errno.ENOENT or errno_of(error) >= MISMATCH:
                return False
            raise
    return True


def write_new(pool: rados.Ioctx, obj: str, content: bytes, flags: int) -> bool:
    """Make the object with this content, in one step; tell whether it was new."""
    with rados.WriteOpCtx() as operation:
        operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        operation.write_full(content)
        try:
            pool.operate_write_op(operation, obj, flags=flags)
        except rados.ObjectExists:
            return False
    return True
