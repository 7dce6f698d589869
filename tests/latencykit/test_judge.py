"""Verdicts on simulated processes: what is unchanged, what is slower, and how often each reads as it should."""

import numpy as np
import pytest
from numpy.typing import NDArray

from latencykit.judge import MOST_PRIOR_FREEDOM, OUTCOMES, Judgement, judge, judge_medians, moderated
from latencykit.measurement import Measurement
from tests.latencykit.made_up import steady

MARGIN_PCT = 3.0
ROWS, RUNS = 300, 40
USUAL_PCT = (0.5, 1.5)
"""Deviation between processes, percent: it differs from row to row within this range."""

Floats = NDArray[np.float64]


def simulated(
    seed: int,
    slower_pct: Floats,
    processes: tuple[int, int] = (3, 3),
    spread_pct: tuple[float, float] = USUAL_PCT,
    tails: float | None = None,
) -> tuple[list[list[float]], list[list[float]]]:
    """Medians by process of two tables; each row of the second is slower by that much. `tails`: Student's freedom."""
    rng = np.random.default_rng(seed)
    rows = len(slower_pct)
    spread = rng.uniform(*spread_pct, (rows, 1)) / 100
    base = np.exp(rng.normal(4, 1.5, (rows, 1)))
    sides = []
    for count, factor in zip(processes, (np.ones(rows), 1 + slower_pct / 100), strict=True):
        unit = rng.standard_normal((rows, count))
        if tails is not None:
            unit = rng.standard_t(tails, (rows, count)) * np.sqrt((tails - 2) / tails)
        sides.append((base * factor[:, None] * np.exp(spread * unit)).tolist())
    return sides[0], sides[1]


def verdicts(slower_pct: Floats, runs: int = RUNS, **noise: object) -> tuple[NDArray[np.str_], Floats]:
    """Outcomes (runs x rows) of simulated tables, and whether each interval held the true ratio."""
    outcomes, covered = [], []
    for seed in range(runs):
        a, b = simulated(seed, slower_pct, **noise)  # type: ignore[arg-type]
        found = judge_medians(a, b, [0] * len(a), MARGIN_PCT)
        outcomes.append([judgement.outcome for judgement in found])
        true = 1 + slower_pct / 100
        covered.append(
            [low <= ratio <= high for (low, high), ratio in zip((j.interval for j in found), true, strict=True)]
        )
    return np.array(outcomes), np.array(covered, dtype=np.float64)


def share_pct(outcomes: NDArray[np.str_], outcome: str) -> float:
    return float(100 * (outcomes == outcome).mean())


def half_planted(percent: float) -> Floats:
    return np.where(np.arange(ROWS) % 2, percent, 0.0)


@pytest.mark.parametrize("tails", [None, 4.0])
def test_three_unchanged_processes_a_side_read_same(tails: float | None):
    outcomes, covered = verdicts(np.zeros(ROWS), tails=tails)
    assert share_pct(outcomes, "SAME") >= 97
    assert share_pct(outcomes, "SLOWER") + share_pct(outcomes, "FASTER") < 0.1
    assert covered.mean() >= 0.945


@pytest.mark.parametrize(("planted_pct", "least_pct"), [(5.0, 80), (10.0, 95)])
@pytest.mark.parametrize("tails", [None, 4.0])
def test_a_planted_slowdown_is_found_and_blames_no_unchanged_row(planted_pct, least_pct, tails):
    outcomes, covered = verdicts(half_planted(planted_pct), tails=tails)
    assert share_pct(outcomes[:, 1::2], "SLOWER") >= least_pct
    assert share_pct(outcomes[:, 1::2], "FASTER") == 0
    assert share_pct(outcomes[:, ::2], "SAME") >= 97
    assert share_pct(outcomes[:, ::2], "SLOWER") + share_pct(outcomes[:, ::2], "FASTER") < 1
    assert covered.mean() >= 0.945


def test_a_few_slow_rows_among_many_are_found_in_spite_of_the_correction():
    slower = np.zeros(ROWS)
    slower[:3] = 10.0
    outcomes, _ = verdicts(slower)
    assert share_pct(outcomes[:, :3], "SLOWER") >= 95
    assert share_pct(outcomes[:, 3:], "SLOWER") < 0.1


def test_a_change_below_the_margin_is_no_change():
    outcomes, _ = verdicts(np.full(ROWS, 1.0), spread_pct=(0.2, 0.4))
    assert share_pct(outcomes, "SAME") > 99.9


def test_noise_that_hides_a_change_reads_unclear_and_not_same():
    unchanged, _ = verdicts(np.zeros(ROWS), runs=10, spread_pct=(8.0, 12.0))
    assert share_pct(unchanged, "SAME") < 5
    assert share_pct(unchanged, "SLOWER") < 0.1
    changed, _ = verdicts(np.full(ROWS, 6.0), runs=10, spread_pct=(2.0, 3.0))
    assert share_pct(changed, "SAME") < 5


def test_more_processes_see_more():
    few, _ = verdicts(half_planted(5.0), runs=10, spread_pct=(2.0, 3.0))
    many, _ = verdicts(half_planted(5.0), runs=10, spread_pct=(2.0, 3.0), processes=(12, 12))
    assert share_pct(few[:, 1::2], "SLOWER") < 60
    assert share_pct(many[:, 1::2], "SLOWER") > 80
    assert share_pct(many[:, ::2], "SAME") > 97


def test_sides_of_different_numbers_of_processes_are_judged_too():
    outcomes, covered = verdicts(half_planted(10.0), runs=10, processes=(3, 7))
    assert share_pct(outcomes[:, 1::2], "SLOWER") > 95
    assert covered.mean() >= 0.94


def test_swapping_the_sides_swaps_faster_and_slower_and_nothing_else():
    a, b = simulated(1, np.linspace(-15, 15, ROWS), spread_pct=(0.5, 3.0))
    there, back = (judge_medians(*sides, [0] * ROWS, MARGIN_PCT) for sides in ((a, b), (b, a)))
    assert {judgement.outcome for judgement in there} == set(OUTCOMES)
    mirror = {"SLOWER": "FASTER", "FASTER": "SLOWER"}
    assert [mirror.get(j.outcome, j.outcome) for j in there] == [j.outcome for j in back]
    for one, other in zip(there, back, strict=True):
        assert one.ratio == pytest.approx(1 / other.ratio)
        assert one.interval == pytest.approx((1 / other.interval[1], 1 / other.interval[0]))
        assert one.q == pytest.approx(other.q)


def test_units_and_order_of_rows_and_processes_do_not_matter():
    a, b = simulated(2, half_planted(5.0))
    found = judge_medians(a, b, [0] * ROWS, MARGIN_PCT)
    other = judge_medians(
        [[1000 * v for v in row[::-1]] for row in a[::-1]],
        [[1000 * v for v in row] for row in b[::-1]],
        [0] * ROWS,
        3.0,
    )
    for one, again in zip(found, other[::-1], strict=True):
        assert one.outcome == again.outcome
        assert (one.ratio, *one.interval) == pytest.approx((again.ratio, *again.interval))


def test_the_ratio_is_that_of_the_quoted_figures():
    a = Measurement(((10.0, 10.0), (11.0,), (90.0,)))
    b = Measurement(((20.0,), (22.0,), (5.0,)))
    (found,) = judge([a], [b], [0], MARGIN_PCT)
    assert found.ratio == pytest.approx(b.median_us / a.median_us)
    assert found.interval[0] < found.ratio < found.interval[1]
    assert found.outcome == "UNCLEAR"


def test_what_both_sides_of_one_run_share_is_no_change():
    """Processes in two states of the machine, 40 % apart, half of them each: together they tell 5 % all the same."""
    rng = np.random.default_rng(6)
    states = np.where(rng.random((ROWS, 24)) < 0.5, 1.4, 1.0) * np.exp(0.01 * rng.standard_normal((ROWS, 24)))
    noise = np.exp(0.02 * rng.standard_normal((ROWS, 24)))
    a, b = 100 * states, 100 * states * noise * (1 + half_planted(5.0)[:, None] / 100)
    for one_run, share in ((True, 99), (False, 30)):
        found = judge_medians(a.tolist(), b.tolist(), [0] * ROWS, MARGIN_PCT, one_run=one_run)
        right = [j.outcome == ("SLOWER" if n % 2 else "SAME") for n, j in enumerate(found)]
        assert (100 * np.mean(right) > share) == one_run
    assert found[0].ratio == pytest.approx(np.median(b[0]) / np.median(a[0]))


def test_rows_without_any_spread_are_told_apart_by_the_margin():
    factors = (1.0, 1.029, 1.031, 0.96, 1.5)
    a = [steady(100.0, processes=3)] * len(factors)
    b = [steady(100.0 * factor, processes=3) for factor in factors]
    assert [j.outcome for j in judge(a, b, [0] * 5, 3.0)] == ["SAME", "SAME", "SLOWER", "FASTER", "SLOWER"]
    assert [j.outcome for j in judge(a, b, [0] * 5, 10.0)] == ["SAME", "SAME", "SAME", "SAME", "SLOWER"]


def test_one_process_a_side_tells_nothing():
    found = judge([steady(1.0, processes=1)] * 9, [steady(2.0, processes=1)] * 9, [0] * 9, MARGIN_PCT)
    assert {j.outcome for j in found} == {"UNCLEAR"}
    assert {j.interval for j in found} == {(0.0, float("inf"))}


def test_one_process_a_side_is_judged_by_the_spread_of_the_other_rows():
    a, b = simulated(3, np.full(ROWS, 20.0))
    (found,) = judge_medians([*a, [100.0]], [*b, [120.0]], [0] * (ROWS + 1), MARGIN_PCT)[-1:]
    assert found.outcome == "SLOWER"
    assert np.isfinite(found.interval).all()


def test_nothing_to_judge_is_no_error():
    assert judge([], [], [], MARGIN_PCT) == []


def test_groups_do_not_share_their_spread():
    calm_a, calm_b = simulated(4, np.full(ROWS, 4.5), spread_pct=(0.2, 0.3))
    wild_a, wild_b = simulated(5, np.zeros(ROWS), spread_pct=(20.0, 30.0))
    groups = ["calm"] * ROWS + ["wild"] * ROWS
    found = judge_medians(calm_a + wild_a, calm_b + wild_b, groups, MARGIN_PCT)
    assert {j.outcome for j in found[:ROWS]} == {"SLOWER"}
    alone = judge_medians(calm_a, calm_b, groups[:ROWS], MARGIN_PCT)
    assert [j.interval for j in alone] == [j.interval for j in found[:ROWS]]


# Moderated variances


def test_a_variance_is_drawn_towards_the_usual_one_and_keeps_its_place():
    rng = np.random.default_rng(0)
    variance = rng.chisquare(4, 500) / 4
    drawn, freedom = moderated(variance, np.full(500, 4.0))
    assert freedom == pytest.approx(4 + MOST_PRIOR_FREEDOM)
    assert (np.argsort(drawn) == np.argsort(variance)).all()
    assert drawn.std() < variance.std() / 4
    assert drawn.mean() == pytest.approx(1, abs=0.05)


def test_rows_that_differ_in_truth_are_drawn_less():
    rng = np.random.default_rng(0)
    true = np.exp(rng.normal(0, 2, 500))
    variance = true * rng.chisquare(4, 500) / 4
    drawn, freedom = moderated(variance, np.full(500, 4.0))
    assert 4 < freedom[0] < 7
    assert np.abs(np.log(drawn / true)).mean() < np.abs(np.log(variance / true)).mean()


def test_few_rows_stand_for_themselves():
    variance = np.array([1.0, 4.0, 9.0])
    drawn, freedom = moderated(variance, np.full(3, 4.0))
    assert drawn == pytest.approx(variance)
    assert freedom == pytest.approx(4)


def test_a_judgement_is_plain_numbers():
    a, b = simulated(6, half_planted(5.0))
    for found in judge_medians(a, b, [0] * ROWS, MARGIN_PCT):
        assert isinstance(found, Judgement)
        assert {type(value) for value in (found.ratio, *found.interval, found.q)} == {float}
        assert found.outcome in OUTCOMES
        assert 0 <= found.q <= 1
