"""What librbd does to an image while it has the image's lock, without opening it: each step only while nobody has that lock.

The step and the look at the lock are one operation of the OSD, which takes the lock and gives it back: who holds it has the
step refused, who takes it after finds the step done.
"""

import errno
from collections.abc import Collection

import rados

from provisioner.ceph import wire
from provisioner.ceph.errors import errno_of

_LOCK = "rbd_lock"
_OTHERWISE = (errno.EBUSY, errno.ENOENT, errno.ERANGE, errno.EOVERFLOW, errno.EINVAL)
"""How Ceph says that there is a lock, no such object, another version of it, or that it is garbled, which librbd can mend."""


def done(pool: rados.Ioctx, operation: rados.WriteOp, obj: str, why: str, refusals: Collection[int] = ()) -> bool:
    """Do it if nobody has the object's lock; tell whether it was done. `refusals` are what else says that it was not."""
    operation.execute("lock", "lock", wire.lock_request(_LOCK, why, why, 0))
    operation.rm_xattr(f"lock.{_LOCK}")
    try:
        pool.operate_write_op(operation, obj)
    except rados.Error as error:
        if errno_of(error) in (*_OTHERWISE, *refusals) or errno_of(error) >= wire.MISMATCH:
            return False
        raise
    return True
