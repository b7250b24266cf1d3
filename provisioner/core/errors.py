"""Everything that can go wrong, in one tree; each front end has one table from it to its own words.

    ProvisionerError
    ├── InvalidRequest(field, value, why)    the asker must change the request
    │   └── OutOfRange                       ... its size
    ├── NotFound(what)
    ├── AlreadyExists(what, differs)         the name is taken by something else
    ├── InUse(what, by)                      somebody has it open
    ├── HasDependants(what, dependants)      snapshots or clones need it
    ├── OutOfSpace(where)                    pool full, quota reached
    ├── LimitReached(what, limit)            a count that Ceph or the kernel bounds
    ├── Conflict(what, running)              another operation runs on the same volume
    ├── Unfit(what, why)                     it is there, but not in the state that the request needs
    ├── Denied(what)                         Ceph refuses the key, or the key may not do this
    ├── Unavailable(cause)                   the outcome is unknown: ask again
    └── Unsupported(what)                    can't be done here, whatever the parameters

`Unavailable` and `Conflict` are the only ones worth repeating unchanged and soon.
"""

from collections.abc import Sequence


class ProvisionerError(Exception):
    """The root: `str()` of each is one sentence that a user can act on."""


class InvalidRequest(ProvisionerError):
    """A field of the request has a value that can't be honoured."""

    def __init__(self, field: str, value: object, why: str) -> None:
        self.field, self.value, self.why = field, value, why
        super().__init__(f"{field} {str(value)!r}: {why}")


class OutOfRange(InvalidRequest):
    """A size, in bytes, that can't be had."""


class NotFound(ProvisionerError):
    """The thing named isn't there."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} does not exist")


class AlreadyExists(ProvisionerError):
    """The name is taken, and what holds it isn't what was asked for."""

    def __init__(self, what: str, differs: Sequence[str]) -> None:
        self.what, self.differs = what, tuple(differs)
        super().__init__(f"{what} exists already and differs: {'; '.join(differs)}")


class InUse(ProvisionerError):
    """A client has the image open; `by` names its addresses."""

    def __init__(self, what: str, by: Sequence[str]) -> None:
        self.what, self.by = what, tuple(by)
        super().__init__(f"{what} is in use by {', '.join(by)}")


class HasDependants(ProvisionerError):
    """Snapshots or clones would lose their data."""

    def __init__(self, what: str, dependants: Sequence[str]) -> None:
        self.what, self.dependants = what, tuple(dependants)
        shown = ", ".join(self.dependants[:5]) + (" ..." if len(self.dependants) > 5 else "")
        super().__init__(f"{what} has dependants: {shown}")


class OutOfSpace(ProvisionerError):
    """The pool is full or its quota is reached."""

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"no space left in {where}")


class LimitReached(ProvisionerError):
    """A count that Ceph or the kernel bounds."""

    def __init__(self, what: str, limit: int) -> None:
        self.what, self.limit = what, limit
        super().__init__(f"{what}: the limit is {limit}")


class Conflict(ProvisionerError):
    """Another operation runs on the same volume; `running` says which, since when, how far."""

    def __init__(self, what: str, running: str) -> None:
        self.what, self.running = what, running
        super().__init__(f"{what} is busy: {running}")


class Unfit(ProvisionerError):
    """The thing is there, but not in the state that the request needs: another step comes first, or it holds something else."""

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why
        super().__init__(f"{what} {why}")


class Denied(ProvisionerError):
    """Ceph, or a KMS, refuses the key, or the key's rights do not reach this far."""

    def __init__(self, what: str, by: str = "Ceph") -> None:
        self.what = what
        super().__init__(f"{by} denies {what}")


class Unavailable(ProvisionerError):
    """The cluster did not answer in time: the outcome is unknown, the same request may be sent again."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(cause)


class Unsupported(ProvisionerError):
    """Can't be done here, whatever the parameters."""
