"""What a claim asks for, judged from the claim alone."""

import pytest

from provisioner.claims.request import (
    Reference,
    is_populated_by_others,
    refuse_what_cannot_work,
    requested_bytes,
    size_of,
    source_of,
)
from provisioner.core.errors import InvalidRequest, OutOfRange
from tests.unit.claims.objects_of import claim

SNAPSHOT = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "monday"}
CLAIM = {"kind": "PersistentVolumeClaim", "name": "other"}
FOREIGN = {"apiGroup": "images.example.com", "kind": "Image", "name": "debian"}


def asks(storage: str, limit: str = "") -> dict[str, object]:
    return {"resources": {"requests": {"storage": storage}, **({"limits": {"storage": limit}} if limit else {})}}


class TestSize:
    def test_request_and_limit_are_bytes(self) -> None:
        size = size_of(claim(**asks("1Gi", "2Gi")))
        assert (size.required, size.limit) == (1 << 30, 2 << 30)

    @pytest.mark.parametrize("storage", ["8Ei", "9223372036854775807", "1Pi", "0", "-1Gi"])
    def test_no_size_that_can_be_had_is_refused_by_the_claims_own_field_and_value(self, storage: str) -> None:
        with pytest.raises(OutOfRange) as caught:
            size_of(claim(**asks(storage)))
        assert (caught.value.field, caught.value.value) == ("spec.resources.requests.storage", storage)

    def test_a_limit_below_the_next_mebibyte_is_refused(self) -> None:
        with pytest.raises(OutOfRange):
            size_of(claim(**asks("1000000", "1000001")))

    def test_what_is_requested_can_be_told_where_it_cannot_be_had(self) -> None:
        assert requested_bytes(claim(**asks("2Pi"))) == 2 << 50


class TestDataSources:
    @pytest.mark.parametrize("field", ["dataSource", "dataSourceRef"])
    @pytest.mark.parametrize("source", [CLAIM, SNAPSHOT])
    def test_a_volume_as_source_is_read_with_the_claims_own_namespace(self, field: str, source: dict[str, str]) -> None:
        found = source_of(claim(**{field: source}))
        assert found == Reference(source.get("apiGroup", ""), source["kind"], "team", source["name"])

    def test_a_source_in_another_namespace_is_read_as_such(self) -> None:
        found = source_of(claim(dataSourceRef={**CLAIM, "namespace": "library"}))
        assert found is not None
        assert found.key == f"PersistentVolumeClaim/library/{CLAIM['name']}"

    @pytest.mark.parametrize("spec", [{}, {"dataSourceRef": FOREIGN}])
    def test_nothing_and_a_populators_source_are_no_source_of_ours(self, spec: dict[str, object]) -> None:
        assert source_of(claim(**spec)) is None

    @pytest.mark.parametrize("source", [CLAIM, SNAPSHOT])
    def test_a_volume_as_source_is_ours_to_answer_for(self, source: dict[str, str]) -> None:
        assert not is_populated_by_others(claim(dataSourceRef=source))

    def test_any_other_source_is_its_populators(self) -> None:
        assert is_populated_by_others(claim(dataSourceRef=FOREIGN))

    def test_no_source_is_nobodys(self) -> None:
        assert not is_populated_by_others(claim())


class TestAccess:
    @pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany"])
    @pytest.mark.parametrize("volume_mode", ["Filesystem", "Block"])
    def test_one_writer_works_with_either_volume_mode(self, mode: str, volume_mode: str) -> None:
        refuse_what_cannot_work(claim(accessModes=[mode], volumeMode=volume_mode))

    def test_many_writers_work_with_a_block_device(self) -> None:
        refuse_what_cannot_work(claim(accessModes=["ReadWriteMany"], volumeMode="Block"))

    @pytest.mark.parametrize("modes", [["ReadWriteMany"], ["ReadWriteOnce", "ReadWriteMany"]])
    def test_many_writers_of_a_file_system_are_refused(self, modes: list[str]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            refuse_what_cannot_work(claim(accessModes=modes))
        assert (caught.value.field, caught.value.value) == ("spec.accessModes", ",".join(modes))

    def test_a_selector_is_refused(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            refuse_what_cannot_work(claim(selector={"matchLabels": {"disk": "ssd"}}))
        assert caught.value.field == "spec.selector"


@pytest.mark.parametrize(("asked", "namespace"), [("other", "team"), ("shop/other", "shop")])
def test_the_old_annotation_names_a_claim_to_clone(asked: str, namespace: str) -> None:
    made = claim(annotations={"k8s.io/CloneRequest": asked})
    assert source_of(made) == Reference("", "PersistentVolumeClaim", namespace, "other")


def test_a_data_source_wins_over_the_old_annotation() -> None:
    made = claim(annotations={"k8s.io/CloneRequest": "that"}, dataSource={"kind": "PersistentVolumeClaim", "name": "this"})
    assert source_of(made) == Reference("", "PersistentVolumeClaim", "team", "this")
