"""What a claim hears of an error, and when it is tried again: the one table from the core's and Kubernetes' errors.

What passes by itself is tried again soon; what the user, the administrator or time has to mend, rarely: a broken class with a
thousand claims must not become a storm. A change of the claim or of its class has it tried at once anyway.
"""

from dataclasses import dataclass

from provisioner.core import errors
from provisioner.kube.backoff import Backoff
from provisioner.kube.errors import Conflict as Outdated
from provisioner.kube.errors import Forbidden, Invalid, KubeError


@dataclass(frozen=True, slots=True)
class Retry:
    """Seconds between tries, growing from the first to the last; `told` says whether the failure becomes an event."""

    backoff: Backoff
    told: bool = True


_SOON = Retry(Backoff(first=1.0, factor=1.6, most=10.0, jitter=0.2))
_QUIETLY = Retry(Backoff(first=0.2, factor=2.0, most=5.0, jitter=0.5), told=False)
_LATER = Retry(Backoff(first=15.0, factor=2.0, most=120.0, jitter=0.2))
_RARELY = Retry(Backoff(first=60.0, factor=2.0, most=600.0, jitter=0.2))

_TABLE: dict[type[Exception], Retry] = {
    errors.ProvisionerError: _LATER,
    errors.Unavailable: _SOON,
    errors.Conflict: _SOON,
    errors.InUse: _LATER,
    errors.HasDependants: _LATER,
    errors.Unfit: _LATER,
    errors.OutOfSpace: _LATER,
    errors.Denied: _LATER,
    errors.InvalidRequest: _RARELY,
    errors.AlreadyExists: _RARELY,
    errors.Unsupported: _RARELY,
    KubeError: _SOON,
    Outdated: _QUIETLY,
    Forbidden: _LATER,
    Invalid: _RARELY,
}

HANDLED = (errors.ProvisionerError, KubeError)
"""Everything that may go wrong with one claim; anything else is a defect, and left to the workers' boundary."""


def retry_for(error: Exception) -> Retry:
    """Look the error up along its class's ancestors."""
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)


def is_outcome_known(error: Exception) -> bool:
    """Tell whether a create that failed so has surely left nothing behind."""
    return isinstance(error, errors.ProvisionerError) and not isinstance(error, errors.Unavailable | errors.Conflict)
