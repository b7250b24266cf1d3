"""Each error that can reach the claims front end has a pace of its own, and none can storm."""

import inspect

import pytest

from provisioner.claims.outcomes import is_outcome_known, retry_for
from provisioner.core import errors as core
from provisioner.kube import errors as kube


def classes_in(module: object, root: type[Exception]) -> list[type[Exception]]:
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, root)]
    return sorted(found, key=lambda kind: kind.__name__)


CORE = classes_in(core, core.ProvisionerError)
KUBE = classes_in(kube, kube.KubeError)


def made(kind: type[Exception]) -> Exception:
    """An instance without the arguments that its message takes."""
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", CORE + KUBE)
def test_every_error_is_tried_again_without_end_but_ever_more_rarely(kind: type[Exception]) -> None:
    backoff = retry_for(made(kind)).backoff
    assert backoff.after(1000) >= backoff.most >= 5
    assert backoff.factor > 1


@pytest.mark.parametrize("kind", CORE)
def test_every_error_of_ours_is_told_to_the_claims_owner(kind: type[Exception]) -> None:
    assert retry_for(made(kind)).told


def test_a_write_that_met_a_newer_version_is_nobodys_news() -> None:
    assert not retry_for(made(kube.Conflict)).told


@pytest.mark.parametrize("kind", [core.Unavailable, core.Conflict, kube.Unreachable, kube.ServerFailed])
def test_what_passes_by_itself_is_tried_within_seconds(kind: type[Exception]) -> None:
    assert retry_for(made(kind)).backoff.after(1000) <= 15


@pytest.mark.parametrize("kind", [core.InvalidRequest, core.OutOfRange, core.Unsupported, core.AlreadyExists, kube.Invalid])
def test_what_only_a_person_can_mend_waits_a_minute_from_the_start(kind: type[Exception]) -> None:
    assert retry_for(made(kind)).backoff.after(1) >= 60


@pytest.mark.parametrize("kind", [core.OutOfSpace, core.Denied, core.LimitReached, kube.Forbidden])
def test_what_an_administrator_may_mend_any_time_waits_seconds_not_minutes(kind: type[Exception]) -> None:
    assert 10 <= retry_for(made(kind)).backoff.after(1) <= 30


@pytest.mark.parametrize("kind", [core.Unavailable, core.Conflict, *KUBE])
def test_after_an_unknown_outcome_something_may_have_been_made(kind: type[Exception]) -> None:
    assert not is_outcome_known(made(kind))
