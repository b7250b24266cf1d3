"""Which sources in other namespaces a claim may use: what ReferenceGrants say. No time at all."""

import pytest

from provisioner.claims.data_source import is_granted
from provisioner.claims.request import Reference
from provisioner.kube.resources import REFERENCE_GRANTS, Object

CLAIM = Reference("", "PersistentVolumeClaim", "library", "golden")
SNAPSHOT = Reference("snapshot.storage.k8s.io", "VolumeSnapshot", "library", "golden")
TEAM = {"group": "", "kind": "PersistentVolumeClaim", "namespace": "team"}
ANY_CLAIM = {"group": "", "kind": "PersistentVolumeClaim"}
ANY_SNAPSHOT = {"group": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot"}


def grant(*to: Object, source: Object | None = None, namespace: str = "library") -> Object:
    return REFERENCE_GRANTS.body({"namespace": namespace, "name": "g"}, spec={"from": [source or TEAM], "to": list(to)})


@pytest.mark.parametrize(("reference", "to"), [(CLAIM, ANY_CLAIM), (SNAPSHOT, ANY_SNAPSHOT)])
def test_a_grant_without_a_name_is_for_all_of_the_kind(reference: Reference, to: Object) -> None:
    assert is_granted("team", reference, [grant(to)])


def test_a_grant_with_a_name_is_for_that_one() -> None:
    assert is_granted("team", CLAIM, [grant({**ANY_CLAIM, "name": "golden"})])
    assert not is_granted("team", CLAIM, [grant({**ANY_CLAIM, "name": "other"})])


def test_one_grant_that_fits_is_enough() -> None:
    assert is_granted("team", CLAIM, [grant(ANY_SNAPSHOT), grant(ANY_SNAPSHOT, ANY_CLAIM)])


@pytest.mark.parametrize(
    "unfit",
    [
        grant(ANY_SNAPSHOT),
        grant(ANY_CLAIM, source={**TEAM, "namespace": "others"}),
        grant(ANY_CLAIM, source={**TEAM, "kind": "Pod"}),
        grant(ANY_CLAIM, source={**TEAM, "group": "example.com"}),
        grant({**ANY_CLAIM, "group": "example.com"}),
        grant(ANY_CLAIM, namespace="team"),
    ],
    ids=["other kind", "other namespace", "no claim", "foreign claim", "foreign group", "given by the asker"],
)
def test_what_does_not_fit_grants_nothing(unfit: Object) -> None:
    assert not is_granted("team", CLAIM, [unfit])


def test_the_two_halves_must_stand_in_one_grant() -> None:
    others = grant(ANY_CLAIM, source={**TEAM, "namespace": "others"})
    assert not is_granted("team", CLAIM, [others, grant(ANY_SNAPSHOT)])
