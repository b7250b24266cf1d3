"""From Ceph's exceptions to the core's errors, by errno and whatever its sign. Takes no time."""

import errno

import pytest
import rados
import rbd

from provisioner.ceph.errors import CEPH_ERRORS, errno_of, explain, explained
from provisioner.core import errors
from provisioner.core.errors import ProvisionerError

TABLE = [
    (errno.EPERM, errors.Denied),
    (errno.EACCES, errors.Denied),
    (errno.ENOSPC, errors.OutOfSpace),
    (errno.EDQUOT, errors.OutOfSpace),
    (errno.ENOENT, errors.NotFound),
    (errno.EEXIST, errors.AlreadyExists),
    (errno.EBUSY, errors.InUse),
    (errno.ENOTEMPTY, errors.HasDependants),
    (errno.EINVAL, errors.InvalidRequest),
    (errno.EDOM, errors.InvalidRequest),
    (errno.ERANGE, errors.InvalidRequest),
    (errno.ENAMETOOLONG, errors.InvalidRequest),
    (errno.ENOSYS, errors.Unsupported),
    (errno.EOPNOTSUPP, errors.Unsupported),
    (errno.ETIMEDOUT, errors.Unavailable),
    (errno.ESHUTDOWN, errors.Unavailable),
    (errno.EIO, errors.Unavailable),
    (errno.ESTALE, errors.Unavailable),
    (4099, errors.Unavailable),
    (0, errors.Unavailable),
]


@pytest.mark.parametrize(("number", "expected"), TABLE)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_errno_of_either_sign_becomes_one_of_ours(number: int, expected: type[ProvisionerError], sign: int) -> None:
    for error in (rados.OSError("what Ceph says", errno=sign * number), rbd.OSError("what Ceph says", errno=sign * number)):
        told = explain(error, "creating image dev/rbd/a")
        assert type(told) is expected
        assert "dev/rbd/a" in str(told)


def test_an_exception_without_errno_leaves_the_outcome_unknown() -> None:
    for error in (rados.RadosStateError("not connected"), rados.IoctxStateError("closed"), rados.Error("?")):
        assert errno_of(error) == 0
        assert isinstance(explain(error, "x"), errors.Unavailable)


@pytest.mark.parametrize(
    "raised",
    [
        rbd.ImageNotFound("gone", errno=2),
        rbd.ImageBusy("busy", errno=16),
        rbd.Timeout("late", errno=110),
        rbd.ConnectionShutdown("cut off", errno=108),
        rbd.DiskQuotaExceeded("quota", errno=122),
        rbd.PermissionError("no", errno=1),
        rados.ObjectNotFound("gone", errno=2),
        rados.TimedOut("late", errno=110),
        rados.ExtendMismatch("differs", errno=4097, offset=2),
        rados.RadosStateError("not connected"),
    ],
)
def test_nothing_of_ceph_leaves_an_explained_block(raised: Exception) -> None:
    assert isinstance(raised, CEPH_ERRORS)
    with pytest.raises(ProvisionerError) as told, explained("looking"):
        raise raised
    assert told.value.__cause__ is raised


def test_a_defect_is_not_explained_away() -> None:
    with pytest.raises(ZeroDivisionError), explained("looking"):
        raise ZeroDivisionError


def test_a_blocklisted_client_is_told_in_words() -> None:
    assert "cut off by Ceph" in str(explain(rados.OSError("?", errno=errno.ESHUTDOWN), "looking"))
