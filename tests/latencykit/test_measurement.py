import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latencykit.errors import InputError, UsageError
from latencykit.measurement import Measurement, Protocol, best_state_us

microseconds = st.floats(0.01, 1e7)
measurements = st.lists(st.lists(microseconds, min_size=1, max_size=12), min_size=1, max_size=5).map(
    lambda processes: Measurement(tuple(map(tuple, processes)))
)


def codes(*samples_us: tuple[float, ...]) -> list[str]:
    return [caution.code for caution in Measurement(samples_us).warnings]


@pytest.mark.parametrize("samples", [(), ((),), ((1.0,), ())])
def test_a_measurement_without_samples_is_refused(samples):
    with pytest.raises(InputError, match="without samples"):
        Measurement(samples)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, math.nan, math.inf, -math.inf])
def test_a_sample_that_is_no_positive_number_is_refused(value: float):
    with pytest.raises(InputError, match="positive"):
        Measurement(((1.0, value),))


@pytest.mark.parametrize(
    "change",
    [{"samples": 0}, {"processes": 0}, {"processes": -2}, {"block_us": -1.0}, {"warmup_ms": math.nan}, {"pace_hz": 0}],
)
def test_a_protocol_that_measures_nothing_is_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        Protocol(**change)


def test_the_best_state_is_not_a_moment_s_boost():
    assert best_state_us([]) == math.inf
    assert best_state_us([50.0, 70.0]) == 50.0
    steady = [100.0 + number % 3 for number in range(97)]
    assert best_state_us([*steady, 80.0, 81.0, 82.0]) == 100.0
    assert best_state_us([*steady, *[80.0] * 6]) == 80.0


def test_one_sample_is_its_own_median_and_interval():
    single = Measurement(((7.0,),))
    assert (single.median_us, single.interval_us, single.error_pct) == (7.0, (7.0, 7.0), 0.0)
    assert single.warnings == ()


def test_the_median_is_over_processes_not_over_samples():
    uneven = Measurement(((10.0,) * 100, (20.0,), (30.0,)))
    assert uneven.median_us == 20.0
    assert (uneven.count, uneven.processes) == (102, 3)
    assert uneven.percentile_us(50) == 10.0


def test_an_outlier_is_kept_and_moves_only_the_tail():
    measured = Measurement(((10.0,) * 99 + (500.0,),))
    assert measured.median_us == 10.0
    assert measured.percentile_us(100) == 500.0


def test_the_interval_widens_with_the_spread_between_processes():
    rng = np.random.default_rng(0)

    def width(between: float) -> float:
        levels = 100 + between * np.array([-1.0, 0.0, 1.0])
        low, high = Measurement(tuple(tuple(level + rng.normal(size=15)) for level in levels)).interval_us
        return high - low

    assert width(0) < width(5) < width(20)


def test_the_interval_sees_between_process_spread_that_pooled_samples_would_hide():
    apart = Measurement(((100.0,) * 50, (110.0,) * 50, (130.0,) * 50))
    assert apart.interval_us == (100.0, 130.0)


def test_the_interval_narrows_with_more_processes():
    rng = np.random.default_rng(1)

    def error_pct(processes: int) -> float:
        return Measurement(tuple(tuple(rng.normal(rng.normal(100, 5), 1, 10)) for _ in range(processes))).error_pct

    assert np.mean([error_pct(20) for _ in range(5)]) < np.mean([error_pct(4) for _ in range(5)])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(60):
        low, high = Measurement(tuple(tuple(rng.normal(rng.normal(100, 3), 1, 15)) for _ in range(9))).interval_us
        inside += low <= 100 <= high
    assert inside / 60 > 0.85


def test_steady_samples_carry_no_warning():
    assert codes((10.0, 10.1) * 8, (10.05, 10.15) * 8) == []


def test_a_wide_spread_is_noisy():
    assert codes((8.0, 12.0, 8.0, 12.0, 8.0, 12.0)) == ["noisy"]
    assert codes((9.6, 10.4, 9.6, 10.4, 9.6, 10.4)) == []


def test_processes_that_differ_are_named():
    assert "processes-differ" in codes((10.0,) * 4, (11.5,) * 4)
    assert "processes-differ" not in codes((10.0,) * 4, (10.9,) * 4)


def test_drift_within_a_process_is_named_where_there_are_samples_enough():
    rising = (10.0,) * 4 + (10.6,) * 4
    assert codes(rising) == ["drift"]
    assert codes(rising[::-1]) == ["drift"]
    assert codes((10.0,) * 4 + (10.4,) * 4) == []
    assert codes((10.0,) * 3 + (10.6,) * 3) == []


def test_every_warning_says_what_to_do():
    measured = Measurement(((10.0,) * 4 + (16.0,) * 4, (30.0,) * 8))
    assert {caution.code for caution in measured.warnings} == {"noisy", "processes-differ", "drift"}
    assert all(caution.remedy and caution.value > 0 for caution in measured.warnings)


@settings(max_examples=40, deadline=None)
@given(measurements)
def test_the_interval_contains_the_median_and_lies_within_the_samples(measured: Measurement):
    low, high = measured.interval_us
    pooled = np.concatenate(measured.samples_us)
    assert low <= measured.median_us <= high
    assert low >= pooled.min() * (1 - 1e-9)
    assert high <= pooled.max() * (1 + 1e-9)
    assert measured.error_pct >= 0


@settings(max_examples=25, deadline=None)
@given(measurements, st.floats(0.1, 10))
def test_another_unit_scales_the_figures(measured: Measurement, factor: float):
    scaled = Measurement(tuple(tuple(v * factor for v in samples) for samples in measured.samples_us))
    assert scaled.median_us == pytest.approx(measured.median_us * factor)
    assert scaled.interval_us == pytest.approx(tuple(end * factor for end in measured.interval_us))
    assert scaled.error_pct == pytest.approx(measured.error_pct, rel=1e-6, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(measurements)
def test_the_same_samples_give_the_same_interval(measured: Measurement):
    assert measured.interval_us == Measurement(measured.samples_us).interval_us


@settings(max_examples=25, deadline=None)
@given(measurements, st.randoms(use_true_random=False))
def test_the_median_does_not_depend_on_the_order_of_samples_or_processes(measured: Measurement, random):
    shuffled = [tuple(random.sample(samples, len(samples))) for samples in measured.samples_us]
    random.shuffle(shuffled)
    assert Measurement(tuple(shuffled)).median_us == measured.median_us


def test_the_first_decile_of_a_process_hardly_sees_its_neighbours():
    rng = np.random.default_rng(0)
    calls = 100 + np.where(rng.random((5, 20)) < 0.4, 40, rng.uniform(0, 2, (5, 20)))  # two in five are disturbed
    found = Measurement(tuple(map(tuple, calls.tolist()))).process_figures_us(None)
    assert len(found) == 5
    assert max(found) < 102


def test_at_a_rhythm_a_process_says_what_its_median_call_takes():
    measured = Measurement(((3.0, 1.0, 2.0, 9.0, 4.0), (5.0, 6.0, 7.0)))
    assert measured.process_figures_us(30.0) == (3.0, 6.0) == measured.process_medians_us
