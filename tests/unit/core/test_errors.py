"""The tree of errors: each is a sentence that names what is wrong. Takes no time."""

import inspect

import pytest

from provisioner.core import errors
from provisioner.core.errors import ProvisionerError

TABLE = [
    (errors.InvalidRequest("pool", "nopool", "no such pool"), "pool 'nopool': no such pool"),
    (errors.OutOfRange("size", 0, "must be at least 1 byte"), "size '0': must be at least 1 byte"),
    (errors.NotFound("volume dev/rbd/a"), "volume dev/rbd/a does not exist"),
    (errors.AlreadyExists("volume a", ["size is 1", "pool is 2"]), "volume a exists already and differs: size is 1; pool is 2"),
    (errors.InUse("image a", ["10.0.0.1:0/5"]), "image a is in use by 10.0.0.1:0/5"),
    (errors.HasDependants("image a", ["snapshot s"]), "image a has dependants: snapshot s"),
    (errors.HasDependants("image a", list("123456")), "image a has dependants: 1, 2, 3, 4, 5 ..."),
    (errors.OutOfSpace("pool rbd"), "no space left in pool rbd"),
    (errors.LimitReached("snapshots of a", 512), "snapshots of a: the limit is 512"),
    (errors.Conflict("volume a", "expand of a runs since 3 s"), "volume a is busy: expand of a runs since 3 s"),
    (errors.Unfit("device a", "holds xfs"), "device a holds xfs"),
    (errors.Denied("opening pool rbd"), "Ceph denies opening pool rbd"),
    (errors.Unavailable("Ceph does not answer in time"), "Ceph does not answer in time"),
    (errors.Unsupported("a clone of a clone"), "a clone of a clone"),
]


@pytest.mark.parametrize(("error", "sentence"), TABLE)
def test_an_error_reads_as_a_sentence(error: ProvisionerError, sentence: str) -> None:
    assert str(error) == sentence


def test_every_kind_of_error_is_in_the_table_and_in_the_drawing() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ProvisionerError)}
    assert kinds - {ProvisionerError} == {type(error) for error, _ in TABLE}
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_a_size_out_of_range_is_an_invalid_request() -> None:
    assert issubclass(errors.OutOfRange, errors.InvalidRequest)
