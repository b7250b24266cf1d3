"""From rados and rbd exceptions to the core's errors: one table, by errno, since both libraries share the numbers."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from provisioner.core.errors import (
    AlreadyExists,
    Denied,
    HasDependants,
    InUse,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    ProvisionerError,
    Unavailable,
    Unsupported,
)

CEPH_ERRORS = (rados.Error, rbd.Error)
"""What the two libraries raise; anything else that escapes them is a defect."""

BROKEN = errno.ESHUTDOWN
"""The connection was blocklisted or shut down: it will never work again."""


def errno_of(error: BaseException) -> int:
    """The positive errno that a Ceph exception carries, 0 if it has none."""
    return abs(int(getattr(error, "errno", None) or 0))


def is_unanswered(error: BaseException | None) -> bool:
    """Tell whether it came of a call that Ceph did not answer in time, and may do all the same."""
    if error is None:
        return False
    return errno_of(error) == errno.ETIMEDOUT or is_unanswered(error.__cause__) or is_unanswered(error.__context__)


def explain(error: BaseException, doing: str) -> ProvisionerError:
    """Turn a Ceph exception met while `doing` something into the core's error."""
    code = errno_of(error)
    if code in (errno.EPERM, errno.EACCES):
        return Denied(doing)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{doing}: {'quota reached' if code == errno.EDQUOT else 'pool full'}")
    if code == errno.ENOENT:
        return NotFound(f"something needed for {doing}")
    if code == errno.EEXIST:
        return AlreadyExists(doing, ["made by somebody else"])
    if code == errno.EBUSY:
        return InUse(doing, ["a client that Ceph does not name"])
    if code == errno.ENOTEMPTY:
        return HasDependants(doing, ["snapshots"])
    if code in (errno.EINVAL, errno.EDOM, errno.ERANGE, errno.ENAMETOOLONG):
        return InvalidRequest("image", doing, f"Ceph finds it invalid ({error})")
    if code in (errno.ENOSYS, errno.EOPNOTSUPP):
        return Unsupported(f"{doing}: {error}")
    return Unavailable(f"{doing}: {_in_words(code, error)}")


def _in_words(code: int, error: BaseException) -> str:
    if code == errno.ETIMEDOUT:
        return "Ceph does not answer in time"
    if code == BROKEN:
        return "this client was cut off by Ceph (blocklisted); it connects anew"
    return str(error)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Let no Ceph exception out of the block: each becomes the core's error for `doing`."""
    try:
        yield
    except CEPH_ERRORS as error:
        raise explain(error, doing) from error
