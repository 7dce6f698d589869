import importlib

import numpy as np
import pytest

from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import FIT_SEED
from latencykit.errors import MissingRowError, UsageError
from latencykit.measurement import Protocol
from latencykit.sample import sample_architectures
from latencykit.table import Table
from latencykit.validate import ValidatedNetwork, agreement, summarise, validate
from tests.latencykit.made_up import ONE, QUICK, TINY, TWO, made_up_table

module = importlib.import_module("latencykit.validate")  # the package's own name is the function


def network(index: int, measured_ms: float, kernel_ms: float, isolated_ms: float = 1.0, macs: int = 0, **changes):
    facts = {
        "half_a_ms": measured_ms, "half_b_ms": measured_ms, "interval_ms": (kernel_ms * 0.9, kernel_ms * 1.1),
    } | changes  # fmt: skip
    predicted = {"isolated": isolated_ms, "kernel": kernel_ms}
    return ValidatedNetwork(f"{index:03d}", macs, measured_ms, predicted_ms=predicted, **facts)


# Refusals


def test_one_network_is_too_few():
    for count in (1, 0, -3):
        with pytest.raises(UsageError, match="at least 2"):
            validate(made_up_table({}), ONE, TINY, count, seed=7)


@pytest.mark.parametrize("seed", [COVERAGE_SEED, FIT_SEED])
def test_networks_that_the_table_was_made_with_prove_nothing(seed: int):
    with pytest.raises(UsageError, match=f"seed {seed}.*take another"):
        validate(made_up_table({}), ONE, TINY, 4, seed)


def test_an_odd_number_of_processes_has_no_halves():
    with pytest.raises(UsageError, match="3 processes; an even number"):
        validate(made_up_table({}), ONE, TINY, 4, seed=7, protocol=Protocol(processes=3))


def test_more_networks_than_the_tails_have_are_refused():
    with pytest.raises(UsageError, match="there are 200"):
        validate(made_up_table({}), ONE, TINY, 201, seed=7, chosen_from="tails")
    with pytest.raises(UsageError, match="201 networks of the tails"):
        validate(made_up_table({}), ONE, TINY, 402, seed=7, chosen_from="all")


def test_a_table_that_does_not_cover_the_networks_is_an_error_before_anything_is_timed():
    with pytest.raises(MissingRowError):
        validate(made_up_table({}), ONE, TINY, 2, seed=7)


# Figures


def test_a_perfect_predictor():
    fit = agreement(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]))
    assert (fit.bias_pct, fit.mape_pct, fit.within_5_pct, fit.within_10_pct) == (0, 0, 100, 100)
    assert fit.kendall_tau == pytest.approx(1)
    assert fit.spearman == pytest.approx(1)


def test_a_predictor_that_is_always_too_high_has_a_bias_and_keeps_the_order():
    measured = np.array([10.0, 20.0, 40.0])
    fit = agreement(1.07 * measured, measured)
    assert fit.bias_pct == pytest.approx(7)
    assert fit.mape_pct == pytest.approx(7)
    assert (fit.within_5_pct, fit.within_10_pct) == (0, 100)
    assert fit.kendall_tau == pytest.approx(1)


def test_errors_of_both_signs_have_no_bias_and_still_count():
    fit = agreement(np.array([110.0, 90.0]), np.array([100.0, 100.0]))
    assert fit.bias_pct == pytest.approx(0)
    assert fit.mape_pct == pytest.approx(10)


def test_a_constant_predictor_has_no_rank():
    fit = agreement(np.array([5.0, 5.0, 5.0]), np.array([4.0, 5.0, 6.0]))
    assert fit.kendall_tau is None
    assert fit.spearman is None
    assert fit.mape_pct == pytest.approx(100 * (1 / 4 + 0 + 1 / 6) / 3)


def test_equal_measurements_have_no_rank():
    assert agreement(np.array([1.0, 2.0]), np.array([3.0, 3.0])).kendall_tau is None


def test_a_reversed_order_is_worse_than_none():
    assert agreement(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])).kendall_tau == pytest.approx(-1)


def test_the_constant_is_predicted_from_the_other_networks():
    found = summarise(ONE, [network(index, ms, ms) for index, ms in enumerate([10.0, 20.0, 60.0])])
    predicted = np.array([40.0, 35.0, 15.0])
    assert found.constant.mape_pct == pytest.approx(100 * np.abs(predicted / [10, 20, 60] - 1).mean())
    assert found.levels["kernel"].mape_pct == 0


def test_macs_are_a_line_through_the_other_networks():
    straight = [network(index, 5.0 + 2 * index, 1.0, macs=1000 * index) for index in range(6)]
    assert summarise(ONE, straight).macs.mape_pct == pytest.approx(0, abs=1e-9)
    bent = [*straight[:5], network(5, 40.0, 1.0, macs=5000)]
    assert summarise(ONE, bent).macs.mape_pct > 10  # the bent one does not teach its own prediction


def test_equal_macs_predict_a_constant():
    found = summarise(ONE, [network(index, ms, 1.0, macs=7) for index, ms in enumerate([10.0, 20.0, 60.0])])
    assert found.macs.mape_pct == found.constant.mape_pct


def test_two_networks_are_enough():
    found = summarise(ONE, [network(0, 10.0, 10.0, macs=1), network(1, 20.0, 19.0, macs=2)])
    assert found.constant.mape_pct == pytest.approx(75)
    assert found.levels["kernel"].kendall_tau == pytest.approx(1)


def test_the_halves_tell_how_well_the_measurement_repeats():
    networks = [network(index, ms, 1.0, half_a_ms=ms * 1.02, half_b_ms=ms) for index, ms in enumerate([10.0, 20.0])]
    assert summarise(ONE, networks).repeat.bias_pct == pytest.approx(2)


def test_the_intervals_cover_what_they_cover():
    spans = [(9.0, 11.0), (10.0, 10.0), (10.1, 12.0), (0.0, 9.9)]
    networks = [network(index, 10.0, 10.0, interval_ms=span) for index, span in enumerate(spans)]
    assert summarise(ONE, networks).interval_coverage_pct == 50


def test_the_worst_networks_come_first_whatever_the_sign():
    errors = [0.01, -0.30, 0.20, 0.05, -0.04, 0.25, 0.02]
    found = summarise(ONE, [network(index, 10.0, 10 * (1 + e)) for index, e in enumerate(errors)])
    assert [entry.id for entry in found.worst] == ["001", "005", "002", "003", "004"]


# Networks


@pytest.mark.real_clock
def test_a_validation_holds_every_network_predicted_and_measured(tiny_table: Table):
    seen: list[str] = []
    found = validate(tiny_table, ONE, TINY, 3, seed=7, protocol=QUICK, advance=seen.append)
    assert [entry.id for entry in found.networks] == ["000", "001", "002"]
    assert sorted(seen) == sorted(["000", "001", "002"] * QUICK.processes)
    for entry in found.networks:
        assert entry.measured_ms > 0
        assert min(entry.half_a_ms, entry.half_b_ms) <= entry.measured_ms <= max(entry.half_a_ms, entry.half_b_ms)
        assert set(entry.predicted_ms) == {"isolated", "kernel"}
        assert min(entry.predicted_ms.values()) > 0
        assert entry.interval_ms[0] <= entry.predicted_ms["kernel"] <= entry.interval_ms[1]
    assert found.setting == ONE


def test_a_setting_without_rows_is_an_error(tiny_table: Table):
    with pytest.raises(MissingRowError, match="2 threads"):
        validate(tiny_table, TWO, TINY, 2, seed=7, protocol=QUICK)


@pytest.mark.parametrize(("kind", "count"), [("tails", 6), ("all", 7)])
def test_tails_are_the_extremes_of_a_large_sample(tiny_table: Table, monkeypatch: pytest.MonkeyPatch, kind, count):
    monkeypatch.setattr(module, "TAIL_POOL", 200)
    real = module.cost
    monkeypatch.setattr(module, "cost", lambda table, setting, macro: real(table, setting, macro, networks=40))
    chosen = module._choose(tiny_table, ONE, TINY, count, 7, kind)
    assert len(chosen) == count
    costs = real(tiny_table, ONE, TINY, networks=40)
    ranked = sorted(costs.total_ms(a) for a in sample_architectures(TINY, 200, 7))
    tails = {*ranked[:10], *ranked[-10:]}
    extreme = [a for a in chosen if costs.total_ms(a) in tails]
    assert len(extreme) >= (count if kind == "tails" else count // 2)
