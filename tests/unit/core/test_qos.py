"""How fast a volume may be: parameters by ceph-csi's names, and the options of librbd that they come to. Takes no time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.core.errors import InvalidRequest
from provisioner.core.qos import NAMES, OPTIONS, Qos, Throttle, names_in

GIB = 1 << 30
GROWING = {"baseIops": "3000", "iopsPerGiB": "30", "baseVolSizeBytes": str(20 * GIB)}


def iops(size: int, **given: str) -> int:
    """The limit on operations, 0 for none."""
    return int(Qos.parse(given).options(size).get("rbd_qos_iops_limit", "0"))


@pytest.mark.parametrize(
    ("parameter", "option"),
    [
        ("baseIops", "rbd_qos_iops_limit"),
        ("maxIops", "rbd_qos_iops_limit"),
        ("baseReadIops", "rbd_qos_read_iops_limit"),
        ("baseWriteIops", "rbd_qos_write_iops_limit"),
        ("baseBps", "rbd_qos_bps_limit"),
        ("maxReadBps", "rbd_qos_read_bps_limit"),
        ("baseWriteBps", "rbd_qos_write_bps_limit"),
    ],
)
def test_each_limit_is_an_option_of_the_image(parameter: str, option: str) -> None:
    assert Qos.parse({parameter: "1000"}).options(GIB) == {option: "1000"}


@pytest.mark.parametrize(
    ("size", "limit"), [(GIB, 3000), (20 * GIB, 3000), (21 * GIB - 1, 3000), (21 * GIB, 3030), (100 * GIB, 5400)]
)
def test_each_whole_gib_beyond_the_base_size_adds_to_the_base(size: int, limit: int) -> None:
    assert iops(size, **GROWING) == limit


def test_the_limit_never_goes_over_its_maximum() -> None:
    assert iops(10_000 * GIB, **GROWING, maxIops="15000") == 15000
    assert iops(GIB, **GROWING, maxIops="15000") == 3000


def test_without_a_base_a_small_volume_has_the_share_of_one_gib() -> None:
    assert iops(1 << 20, iopsPerGiB="100", baseVolSizeBytes="0") == 100
    assert iops(5 * GIB, iopsPerGiB="100", baseVolSizeBytes="0") == 500


def test_zero_is_no_limit() -> None:
    assert Qos.parse({"baseIops": "0", "maxBps": "0"}).options(GIB) == {}


def test_a_burst_lasts_as_long_as_it_is_said() -> None:
    found = Qos.parse({"maxIops": "100", "burstIops": "1000", "burstSeconds": "15"}).options(GIB)
    assert found == {"rbd_qos_iops_limit": "100", "rbd_qos_iops_burst": "1000", "rbd_qos_iops_burst_seconds": "15"}


def test_a_burst_is_never_below_the_limit_that_grew_over_it() -> None:
    found = Qos.parse(GROWING | {"burstIops": "4000"}).options(100 * GIB)
    assert found["rbd_qos_iops_burst"] == found["rbd_qos_iops_limit"] == "5400"


def test_rates_of_a_class_bound_all_operations_and_bytes() -> None:
    found = Qos.of_rates(iops=100, bps=1 << 20, burst_factor=10, burst_seconds=15).options(GIB)
    assert (found["rbd_qos_iops_limit"], found["rbd_qos_iops_burst"], found["rbd_qos_iops_burst_seconds"]) == (
        "100",
        "1000",
        "15",
    )
    assert (found["rbd_qos_bps_limit"], found["rbd_qos_bps_burst"]) == (str(1 << 20), str(10 << 20))


def test_rates_of_nothing_are_nothing() -> None:
    assert not Qos.of_rates(0, 0, burst_factor=10, burst_seconds=15)


class TestChanges:
    def test_what_they_do_not_name_stays(self) -> None:
        changed = Qos.parse({"maxIops": "100", "maxBps": "1000"}).changed(Qos.parse({"maxIops": "200"}))
        assert changed == Qos.parse({"maxBps": "1000", "maxIops": "200"})

    def test_they_may_name_what_makes_sense_only_with_the_rest(self) -> None:
        changed = Qos.parse(GROWING).changed(Qos.parse({"iopsPerGiB": "60"}))
        assert changed.options(21 * GIB) == {"rbd_qos_iops_limit": "3060"}

    @pytest.mark.parametrize("changes", [{"iopsPerGiB": "60"}, {"burstIops": "60"}])
    def test_what_makes_no_sense_with_the_rest_is_refused_by_name(self, changes: dict[str, str]) -> None:
        with pytest.raises(InvalidRequest, match=f"^{next(iter(changes))} '60': means nothing without"):
            Qos.parse({"maxBps": "1000"}).changed(Qos.parse(changes))


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "ten", "१", " 1", str(10**15 + 1), "9" * 5000])
def test_what_is_no_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^maxIops"):
        Qos.parse({"maxIops": value})


def test_bursts_take_a_second_or_more() -> None:
    with pytest.raises(InvalidRequest, match=r"^burstSeconds '0'"):
        Qos.parse({"maxIops": "1", "burstIops": "2", "burstSeconds": "0"})


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"^maxIpos 'x': unknown.*maxIops"):
        Qos.parse({"maxIpos": "x"})


def test_case_does_not_matter_but_two_values_do() -> None:
    assert Qos.parse({"MAXIOPS": "1"}) == Qos.parse({"maxIops": "1"})
    with pytest.raises(InvalidRequest, match="given twice"):
        Qos.parse({"MAXIOPS": "1", "maxIops": "2"})


def test_an_image_without_a_spec_of_ours_fits_whatever_stands_on_it() -> None:
    assert Throttle().fits(GIB)


def test_an_image_fits_until_it_grows() -> None:
    qos = Qos.parse(GROWING)
    throttle = Throttle(qos, qos, qos.options(GIB), stamp="x")
    assert throttle.fits(20 * GIB)
    assert not throttle.fits(21 * GIB)


SETTINGS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**15))


@given(SETTINGS, st.integers(1, 1 << 50), st.integers(1, 1 << 50))
def test_a_larger_volume_is_never_slower_and_options_are_those_of_librbd(settings: dict[str, int], one: int, other: int) -> None:
    qos = Qos.of(settings)
    small, large = (qos.options(size) for size in sorted((one, other)))
    assert set(small) == set(large) <= set(OPTIONS)
    assert all(int(small[option]) <= int(large[option]) for option in small)
    assert all(
        int(value) >= int(small[option.replace("burst", "limit")]) for option, value in small.items() if option.endswith("burst")
    )


@given(SETTINGS)
def test_what_is_described_is_read_back(settings: dict[str, int]) -> None:
    assert Qos.of(Qos.of(settings).described()) == Qos.parse({name: str(value) for name, value in settings.items()})
    assert sorted(names_in([*settings, "pool"])) == sorted(settings)
