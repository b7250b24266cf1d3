"""Health of volumes over a store that answers as told, and Ceph's own report sorted by pool."""

from collections.abc import Mapping, Sequence

import pytest

from provisioner.ceph.health import read_checks
from provisioner.core.errors import NotFound, Unavailable
from provisioner.core.health import Health, Ill
from provisioner.core.ids import Place, VolumeId
from provisioner.core.model import Credentials, Volume

ID = VolumeId(Place("dev", "rbd"), "pvc-1")
VOLUME = Volume(ID, "1a2b3c", "pvc-1", 1 << 30, {"dataPool": "ec"}, {}, "")
FULL = Ill("DEGRADED", "PoolFull", "pool rbd: full")
DATA_FULL = Ill("DEGRADED", "PoolFull", "pool ec: full")
MAP = Ill("DEGRADED", "ObjectMapInvalid", "invalid")


class Store:
    """One volume."""

    def __init__(self, ills: list[Ill] | None = None, pools: Mapping[str, Sequence[Ill]] | None = None) -> None:
        self.ills, self.sick, self.error = ills or [], pools or {}, None

    def examine(self, volume: VolumeId, credentials: Credentials | None) -> tuple[Volume | None, list[Ill]]:
        if volume != ID:
            raise NotFound(f"volume {volume}")
        return VOLUME, self.ills

    def pools(self, cluster: str, credentials: Credentials | None) -> Mapping[str, Sequence[Ill]]:
        return self.sick


class Mute(Store):
    """Answers nothing."""

    def examine(self, volume: VolumeId, credentials: Credentials | None) -> tuple[Volume | None, list[Ill]]:
        raise Unavailable("no answer in time")


def test_where_nothing_is_known_to_be_wrong_nothing_is_told() -> None:
    assert Health(Store()).of(ID) == []
    assert Health(Store(pools={"elsewhere": [FULL]})).of(ID) == []


def test_the_image_and_both_of_its_pools_count_and_each_reason_is_told_once() -> None:
    ills = Health(Store([MAP], {"rbd": [FULL], "ec": [DATA_FULL]})).of(ID)
    assert ills == [MAP, Ill("DEGRADED", "PoolFull", "pool ec: full; pool rbd: full")]


def test_a_cluster_that_does_not_answer_makes_its_volumes_inaccessible() -> None:
    for health in (Health(Mute()), Health(Store(), lambda cluster: cluster != "dev")):
        (ill,) = health.of(ID)
        assert (ill.status, ill.reason) == ("INACCESSIBLE", "ClusterNotAnswering")


def test_what_is_no_volume_has_no_health() -> None:
    with pytest.raises(NotFound):
        Health(Store()).of(VolumeId(ID.place, "none"))


def test_of_many_volumes_only_the_sick_are_told() -> None:
    well = Volume(VolumeId(Place("dev", "well"), "pvc-2"), "1a2b3d", "pvc-2", 1 << 30, {}, {}, "")
    assert Health(Store(pools={"rbd": [FULL]})).among([VOLUME, well]) == [(VOLUME, [FULL])]


def test_cephs_report_is_sorted_by_pool_and_cut_where_it_is_long() -> None:
    inactive = [
        f"pg 6.{number:x} is stuck inactive for 76s, current state undersized+peered, last acting [0]" for number in range(5)
    ]
    checks = {
        "POOL_FULL": {"detail": [{"message": "pool 'rbd' is full (running out of quota)"}]},
        "PG_AVAILABILITY": {"detail": [{"message": message} for message in inactive]},
        "OBJECT_UNFOUND": {"detail": [{"message": "pg 1.2 has 1 unfound objects"}, {"message": "pg 77.2 has 1 unfound objects"}]},
        "POOL_PG_NUM_NOT_POWER_OF_TWO": {"detail": [{"message": "pool 'rbd' pg_num 12 is not a power of two"}]},
    }
    assert read_checks(checks, {"1": "rbd", "6": "ec"}) == {
        "rbd": [
            Ill("DEGRADED", "PoolFull", "pool rbd: pool 'rbd' is full (running out of quota)"),
            Ill("DEGRADED", "ObjectsUnfound", "pool rbd: pg 1.2 has 1 unfound objects"),
        ],
        "ec": [Ill("INACCESSIBLE", "PlacementGroupsInactive", f"pool ec: {', '.join(inactive[:3])} and 2 more")],
    }
