"""Is the estimate true? The figures of a validation, and what it may be made of."""

import importlib
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from latencykit import selection
from latencykit.agreement import ValidatedNetwork, Validation, agreement, summarise
from latencykit.architecture import network_graph
from latencykit.bench import PACED_VALIDATION_SAMPLES, STEADY_PCT, VALIDATION_PROTOCOL
from latencykit.calibrate import CALIBRATION_SEED
from latencykit.commands.truth import doubts
from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import FIT_SEED, cost
from latencykit.errors import InterruptedRunError, MissingRowError, UsageError
from latencykit.files import TEMPORARY, remove_leftovers
from latencykit.measurement import Protocol
from latencykit.minimisers import minimisers
from latencykit.predict import predict_graph, predict_isolated
from latencykit.report import validation_summary
from latencykit.sample import sample_architectures
from latencykit.selection import Chosen, choose_networks, mixed, tails, unet_family
from latencykit.space import Architecture, instantiate
from latencykit.sweep import network_protocol
from latencykit.table import Table, network_id
from latencykit.table_file import load_table, save_table
from latencykit.validate import journal_path, timed_networks, validate, validation_protocol
from tests.latencykit.made_up import ONE, QUICK, TINY, TWO, FakeWorkers, made_up_table

module = importlib.import_module("latencykit.validate")  # the package's own name is the function


def network(index: int, measured_ms: float, kernel_ms: float, *, calibrated=None, edge=None, macs=0, **changes):
    """A network whose raw kernel sum is `kernel_ms`, and what the calibrated levels say of it."""
    facts = {
        "half_a_ms": measured_ms, "half_b_ms": measured_ms, "interval_ms": (kernel_ms * 0.9, kernel_ms * 1.1),
        "chosen_from": "uniform", "raw_ms": {"isolated": 1.0, "kernel": kernel_ms},
    } | changes  # fmt: skip
    levels = {"kernel": calibrated, "edge": edge}
    calibrated_ms = {level: value for level, value in levels.items() if value is not None}
    return ValidatedNetwork(f"{index:03d}", macs=macs, measured_ms=measured_ms, calibrated_ms=calibrated_ms, **facts)


def summary(networks: list[ValidatedNetwork]) -> Validation:
    return summarise(ONE, None, networks)


# Which networks


@pytest.mark.parametrize("count", [1, 0, -3])
def test_one_network_is_too_few(count: int):
    with pytest.raises(UsageError, match="at least 2"):
        choose_networks(made_up_table({}), ONE, TINY, count, 7)


@pytest.mark.parametrize("seed", [COVERAGE_SEED, FIT_SEED, CALIBRATION_SEED])
@pytest.mark.parametrize("kind", ["uniform", "all", "mixed"])
def test_networks_that_the_table_was_made_with_prove_nothing(seed: int, kind):
    with pytest.raises(UsageError, match=f"seed {seed}.*take another"):
        choose_networks(made_up_table({}), ONE, TINY, 4, seed, kind)


def test_a_set_is_what_the_selection_gives_under_its_name(tiny_table: Table, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "TAIL_POOL", 200)
    costs = cost(tiny_table, ONE, TINY)
    expected = {
        "uniform": sample_architectures(TINY, 4, 7), "mixed": mixed(4, 7), "unet": unet_family(4, 7),
        "tails": tails(TINY, costs, 4, 7), "minimisers": minimisers(TINY, costs.edges_ms, 4, 7),
    }  # fmt: skip
    for kind, networks in expected.items():
        chosen = choose_networks(tiny_table, ONE, TINY, 4, 7, kind)
        assert chosen == [Chosen(kind, network) for network in networks]


def test_all_is_uniform_ones_and_a_quarter_as_many_tails_and_a_tenth_minimisers(tiny_table: Table, monkeypatch):
    monkeypatch.setattr(selection, "TAIL_POOL", 200)
    chosen = choose_networks(tiny_table, ONE, TINY, 40, 7, "all")
    assert [one.chosen_from for one in chosen] == ["uniform"] * 40 + ["tails"] * 10 + ["minimisers"] * 4
    assert [one.network for one in chosen[:40]] == sample_architectures(TINY, 40, 7)
    few = choose_networks(tiny_table, ONE, TINY, 4, 7, "all")
    assert [one.chosen_from for one in few] == ["uniform"] * 4 + ["tails"] * 2 + ["minimisers"] * 2


def test_sets_are_chosen_by_the_costs_of_the_rhythm_that_is_validated(tiny_table: Table):
    asked = []
    real = selection.cost

    def spied(*arguments, **options):
        asked.append(options)
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "cost", spied)
        choose_networks(tiny_table, ONE, TINY, 2, 7, "minimisers", 30.0)
    assert asked == [{"pace_hz": 30.0}]


def test_more_networks_than_the_tails_have_are_refused(tiny_table: Table):
    with pytest.raises(UsageError, match="there are 200"):
        choose_networks(tiny_table, ONE, TINY, 201, 7, "tails")
    with pytest.raises(UsageError, match="201 networks of the tails"):
        choose_networks(tiny_table, ONE, TINY, 804, 7, "all")


# Refusals


UNIFORM = [Chosen("uniform", architecture) for architecture in sample_architectures(TINY, 3, 7)]


def test_an_odd_number_of_processes_has_no_halves():
    with pytest.raises(UsageError, match="3 processes; an even number"):
        validate(made_up_table({}), ONE, UNIFORM, protocol=Protocol(processes=3))


def test_a_table_that_does_not_cover_the_networks_is_an_error_before_anything_is_timed(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    with pytest.raises(MissingRowError):
        validate(made_up_table({}), ONE, UNIFORM)
    assert workers.orders == []


def test_a_setting_or_rhythm_without_figures_is_an_error(tiny_table: Table):
    with pytest.raises(MissingRowError, match="2 threads"):
        validate(tiny_table, TWO, UNIFORM, protocol=QUICK)
    with pytest.raises(MissingRowError, match="not calibrated for 11 calls a second"):
        validate(tiny_table, ONE, UNIFORM, protocol=replace(QUICK, pace_hz=11.0))


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


def test_the_constant_is_predicted_from_the_other_networks_and_has_no_rank():
    """Left out, a network's own figure lowers the mean of the others: every pair would be in the wrong order."""
    found = summary([network(index, ms, ms) for index, ms in enumerate([10.0, 20.0, 60.0])])
    predicted = np.array([40.0, 35.0, 15.0])
    assert found.constant.mape_pct == pytest.approx(100 * np.abs(predicted / [10, 20, 60] - 1).mean())
    assert (found.constant.kendall_tau, found.constant.spearman) == (None, None)
    assert found.raw["kernel"].mape_pct == 0
    assert found.raw["kernel"].kendall_tau == pytest.approx(1)


def test_macs_are_a_line_through_the_other_networks():
    straight = [network(index, 5.0 + 2 * index, 1.0, macs=1000 * index) for index in range(6)]
    assert summary(straight).macs.mape_pct == pytest.approx(0, abs=1e-9)
    bent = [*straight[:5], network(5, 40.0, 1.0, macs=5000)]
    assert summary(bent).macs.mape_pct > 10  # the bent one does not teach its own prediction


def test_equal_macs_predict_a_constant():
    found = summary([network(index, ms, 1.0, macs=7) for index, ms in enumerate([10.0, 20.0, 60.0])])
    assert found.macs.mape_pct == found.constant.mape_pct


def test_two_networks_are_enough():
    found = summary([network(0, 10.0, 10.0, macs=1), network(1, 20.0, 19.0, macs=2)])
    assert found.constant.mape_pct == pytest.approx(75)
    assert found.raw["kernel"].kendall_tau == pytest.approx(1)


def test_raw_and_calibrated_figures_stand_side_by_side():
    found = summary([network(index, ms, 0.7 * ms, calibrated=1.01 * ms) for index, ms in enumerate([10.0, 20.0, 60.0])])
    assert found.raw["kernel"].bias_pct == pytest.approx(-30)
    assert found.calibrated["kernel"].bias_pct == pytest.approx(1)
    assert (set(found.raw), set(found.calibrated)) == ({"isolated", "kernel"}, {"kernel"})


def test_the_best_figure_is_the_calibrated_one_where_there_is_one():
    assert network(0, 10.0, 7.0, calibrated=9.9).predicted_ms == 9.9
    assert network(0, 10.0, 7.0).predicted_ms == 7.0


def test_a_level_that_some_networks_lack_is_left_out():
    networks = [network(index, 10.0 + index, 9.0, calibrated=10.0, edge=10.5) for index in range(3)]
    assert set(summary(networks).calibrated) == {"kernel", "edge"}
    lacking = [*networks, network(3, 11.0, 9.0, calibrated=10.0, raw_ms={"kernel": 9.0})]
    assert (set(summary(lacking).raw), set(summary(lacking).calibrated)) == ({"kernel"}, {"kernel"})


def test_edge_costs_are_held_against_the_kernel_level_not_against_the_clock():
    networks = [network(0, 99.0, 7.0, calibrated=10.0, edge=10.2), network(1, 1.0, 7.0, calibrated=20.0, edge=19.2)]
    assert summary(networks).edge_against_kernel_pct == pytest.approx((2 + 4) / 2)
    assert summary([*networks, network(2, 5.0, 5.0, calibrated=5.0)]).edge_against_kernel_pct == pytest.approx(3)
    assert summary([network(0, 1.0, 1.0), network(1, 2.0, 2.0)]).edge_against_kernel_pct is None


def test_the_halves_tell_how_well_the_measurement_repeats():
    networks = [network(index, ms, 1.0, half_a_ms=ms * 1.02, half_b_ms=ms) for index, ms in enumerate([10.0, 20.0])]
    assert summary(networks).repeat.bias_pct == pytest.approx(2)


def test_the_order_of_the_prediction_is_held_against_that_of_one_half_with_the_other():
    halves = [(1.0, 1.0), (2.0, 2.0), (3.0, 4.0), (4.0, 3.0)]  # one pair of six the other way: tau 2/3
    networks = [network(i, a, 1.0 + i, half_a_ms=a, half_b_ms=b) for i, (a, b) in enumerate(halves)]
    assert summary(networks).repeat.kendall_tau == pytest.approx(2 / 3)
    assert summary(networks).tau_ratio == pytest.approx(1)
    perfect = [replace(n, raw_ms={"kernel": n.half_b_ms}) for n in networks]
    assert summary(perfect).tau_ratio == pytest.approx(1.5)
    reversed_order = [replace(n, raw_ms={"kernel": 9 - n.half_b_ms}) for n in networks]
    assert summary(reversed_order).tau_ratio == pytest.approx(-1.5)


def test_without_ranks_there_is_no_ratio_of_them():
    assert summary([network(0, 5.0, 1.0), network(1, 5.0, 2.0)]).tau_ratio is None
    assert summary([network(0, 5.0, 1.0), network(1, 6.0, 1.0)]).tau_ratio is None
    halves = [(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0), (2.5, 2.5)]
    networks = [network(i, a, 1.0 + i, half_a_ms=a, half_b_ms=5.0) for i, (a, _) in enumerate(halves)]
    assert summary(networks).tau_ratio is None


def test_the_intervals_cover_what_they_cover():
    spans = [(9.0, 11.0), (10.0, 10.0), (10.1, 12.0), (0.0, 9.9)]
    networks = [network(index, 10.0, 10.0, interval_ms=span) for index, span in enumerate(spans)]
    assert summary(networks).interval_coverage_pct == 50


def test_the_worst_networks_come_first_whatever_the_sign():
    errors = [0.01, -0.30, 0.20, 0.05, -0.04, 0.25, 0.02]
    found = summary([network(index, 10.0, 10 * (1 + e)) for index, e in enumerate(errors)])
    assert [entry.id for entry in found.worst] == ["001", "005", "002", "003", "004"]


def test_every_set_of_two_networks_has_figures_of_its_own():
    sets = {"uniform": (10.0, 12.0, 14.0), "tails": (5.0, 30.0), "minimisers": (4.0,)}
    places = [(name, ms) for name, measured in sets.items() for ms in measured]
    networks = [
        network(i, ms, ms * (1.5 if name == "tails" else 1.1), chosen_from=name) for i, (name, ms) in enumerate(places)
    ]
    found = summary(networks).by_set()
    assert list(found) == ["uniform", "tails"]
    assert found["uniform"].raw["kernel"].mape_pct == pytest.approx(10)
    assert found["tails"].raw["kernel"].mape_pct == pytest.approx(50)
    assert [len(part.networks) for part in found.values()] == [3, 2]
    assert (found["tails"].setting, found["tails"].pace_hz) == (ONE, None)


def test_a_validation_on_a_machine_that_is_unsteady_or_of_another_speed_says_so():
    steady = summary([network(index, 10.0 + index, 10.5 + index) for index in range(4)])
    assert doubts(replace(steady, slowdown_pct=-4.0)) == []
    (speed,) = doubts(replace(steady, slowdown_pct=-7.25))
    assert "7.2 % faster than in the build" in speed
    (again,) = doubts(replace(steady, repeat=replace(steady.repeat, mape_pct=95.8)))
    assert "95.8 % off the other" in again
    assert len(doubts(replace(steady, slowdown_pct=27.0, unsteady=3, repeat=replace(steady.repeat, mape_pct=9.0)))) == 3


# Timed


def test_every_network_is_predicted_at_each_level_and_measured(tiny_table: Table, tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, 'result["samples_us"] = [1000.0] * len(samples)')
    seen: list[str] = []
    found = validate(tiny_table, ONE, UNIFORM, protocol=replace(QUICK, processes=4), advance=seen.append)
    assert [entry.id for entry in found.networks] == ["000", "001", "002"]
    names = {network_id(one.network) for one in UNIFORM}
    timed = {name for order in workers.orders for name in order}
    assert names < timed
    assert len(timed) == timed_networks(tiny_table, ONE, UNIFORM)
    assert Counter(seen) == dict.fromkeys(timed, 4)
    assert len(workers.orders) == 4
    costs = cost(tiny_table, ONE, TINY)
    for entry, chosen in zip(found.networks, UNIFORM, strict=True):
        graph = instantiate(chosen.network)
        kernel, isolated = predict_graph(tiny_table, ONE, graph), predict_isolated(tiny_table, ONE, graph)
        assert entry.raw_ms == pytest.approx({"kernel": kernel.raw_us / 1000, "isolated": isolated.raw_us / 1000})
        assert entry.calibrated_ms["kernel"] == pytest.approx(kernel.latency_us / 1000)
        assert entry.calibrated_ms["edge"] == pytest.approx(costs.total_ms(chosen.network))
        assert set(entry.calibrated_ms) == {"isolated", "kernel", "edge"}
        assert entry.interval_ms == pytest.approx([end / 1000 for end in kernel.interval_us])
        assert entry.macs == graph.macs
        assert (entry.measured_ms, entry.half_a_ms, entry.half_b_ms) == (1.0, 1.0, 1.0)
    assert (found.setting, found.pace_hz, found.unsteady) == (ONE, None, 0)


def isolated_of(table, network):
    try:
        return predict_isolated(table, ONE, network_graph(network))
    except MissingRowError:
        return None


def test_the_isolated_level_is_calibrated_by_one_factor_from_the_table_s_own_timings(
    tiny_table: Table, tmp_path, monkeypatch
):
    FakeWorkers(tmp_path, monkeypatch)
    found = validate(tiny_table, ONE, UNIFORM, protocol=QUICK)
    factors = [entry.calibrated_ms["isolated"] / entry.raw_ms["isolated"] for entry in found.networks]
    timings = [timing for timing in tiny_table.timings if timing.pace_hz is None]
    sums = [isolated_of(tiny_table, tiny_table.network_of(timing).network) for timing in timings]
    assert None in sums  # hand-made pairs have operations that are no primitives of the space
    ratios = [timing.median_us / one.raw_us for timing, one in zip(timings, sums, strict=True) if one]
    assert factors == pytest.approx([float(np.median(ratios))] * 3)


def test_halves_are_every_second_process(tiny_table: Table, tmp_path, monkeypatch):
    states = [50.0, 51.0, 52.0, 53.0]
    FakeWorkers(tmp_path, monkeypatch, 'result["samples_us"] = [state] * len(samples)', states)
    found = validate(tiny_table, ONE, UNIFORM[:2], protocol=replace(QUICK, processes=4))
    for entry in found.networks:
        assert (entry.half_a_ms, entry.half_b_ms, entry.measured_ms) == pytest.approx((0.051, 0.052, 0.0515))


def test_a_table_without_calibration_has_raw_levels_alone(tiny_table: Table, tmp_path, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    rows = tuple(row for row in tiny_table.rows if row.level == "kernel")
    raw = replace(tiny_table, rows=rows, models=(), timings=())
    found = validate(raw, ONE, UNIFORM, protocol=QUICK)
    assert (set(found.raw), set(found.calibrated)) == ({"kernel"}, set())
    assert found.edge_against_kernel_pct is None
    assert found.networks[0].predicted_ms == found.networks[0].raw_ms["kernel"]


def test_a_pace_is_timed_and_predicted_paced(tiny_table: Table, tmp_path, monkeypatch):
    body = f'open({str(tmp_path / "paces")!r}, "a").write(str(job["protocol"]["pace_hz"]) + " ")'
    FakeWorkers(tmp_path, monkeypatch, body)
    found = validate(tiny_table, ONE, UNIFORM[:2], protocol=replace(QUICK, pace_hz=30.0))
    assert set((tmp_path / "paces").read_text().split()) == {"30.0"}
    assert found.pace_hz == 30.0
    for entry, chosen in zip(found.networks, UNIFORM, strict=False):
        paced = predict_graph(tiny_table, ONE, instantiate(chosen.network), pace_hz=30.0)
        assert entry.calibrated_ms["kernel"] == pytest.approx(paced.latency_us / 1000)
        assert entry.calibrated_ms["edge"] == pytest.approx(
            cost(tiny_table, ONE, TINY, pace_hz=30.0).total_ms(chosen.network)
        )


def test_samples_of_another_state_are_counted(tiny_table: Table, tmp_path, monkeypatch):
    monkeypatch.setattr("latencykit.journal.ATTEMPTS", 1)
    reference = tiny_table.reference_us(ONE)
    FakeWorkers(tmp_path, monkeypatch, states=[reference, 1.2 * reference])
    found = validate(tiny_table, ONE, UNIFORM, protocol=QUICK)
    assert found.unsteady == timed_networks(tiny_table, ONE, UNIFORM)
    assert validation_summary(found)["unsteady"] == found.unsteady


def test_a_summary_is_kept_by_a_table_and_its_file(tiny_table: Table, tmp_path, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    found = validation_summary(validate(tiny_table, ONE, UNIFORM, protocol=QUICK))
    table = replace(tiny_table, validations=(found,))
    save_table(table, tmp_path / "t.json")
    assert load_table(tmp_path / "t.json").validations == (json.loads(json.dumps(found, allow_nan=False)),)


# The machine's speed, by calibration networks


def calibrated_ids(table: Table, pace_hz: float | None = None) -> set[str]:
    return {timing.network for timing in table.timings if timing.pace_hz == pace_hz}


def test_calibration_networks_tell_how_much_slower_the_machine_is_than_in_the_build(tiny_table, tmp_path, monkeypatch):
    us = {timing.network: timing.median_us for timing in tiny_table.timings if timing.pace_hz is None}
    body = f'result["samples_us"] = [{us}.get(item["id"], 1000.0) * (1.1 if state > 50.5 else 1.04)] * len(samples)'
    FakeWorkers(tmp_path, monkeypatch, body, [50.0, 51.0])
    found = validate(tiny_table, ONE, UNIFORM, protocol=QUICK)
    assert found.slowdown_pct == pytest.approx(7)
    assert [entry.measured_ms for entry in found.networks] == pytest.approx([1.07] * 3)
    assert [entry.measured_ms for entry in found.at_build_speed.networks] == pytest.approx([1.0] * 3)
    assert [entry.half_b_ms for entry in found.at_build_speed.networks] == pytest.approx([1.1 / 1.07] * 3)
    assert found.calibrated["kernel"].bias_pct < found.at_build_speed.calibrated["kernel"].bias_pct
    kept = validation_summary(found)
    assert kept["slowdown_pct"] == found.slowdown_pct
    assert kept["at_build_speed"]["levels"]["kernel"]["calibrated"]["bias_pct"] == (
        found.at_build_speed.calibrated["kernel"].bias_pct
    )
    assert set(kept["at_build_speed"]["sets"]) == {"uniform"}


def test_the_networks_timed_along_are_spread_over_all_latencies_and_are_never_the_validated_ones(tiny_table):
    few = replace(tiny_table, timings=tuple(t for t in tiny_table.timings if t.pace_hz is None))
    alike = [t for t in few.timings if isinstance(few.network_of(t).network, Architecture)]
    by_latency = [t.network for t in sorted(alike, key=lambda t: t.median_us)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ANCHORS", 5)
        anchors = [timing.network for timing in module._anchors(few, ONE, UNIFORM, None)]
    assert len(anchors) == len(set(anchors)) == 5
    assert (anchors[0], anchors[-1]) == (by_latency[0], by_latency[-1])
    assert sorted(anchors, key=by_latency.index) == anchors
    chosen = choose_networks(tiny_table, ONE, TINY, 12, 7, "minimisers")
    assert not {network_id(one.network) for one in chosen} & calibrated_ids(tiny_table)


def test_large_networks_may_be_slowed_more_than_small_ones():
    now_us = np.array([1000.0, 2000.0, 4000.0, 8000.0])
    slowdown = module._Slowdown(now_us, np.array([1.0, 1.03, 1.06, 1.09]))
    assert slowdown.percent == pytest.approx(4.5)
    for measured_ms, factor in ((1.0, 1.0), (4.0, 1.06), (8.0, 1.09), (80.0, 1.09), (0.1, 1.0)):
        undone = slowdown.undone(network(0, measured_ms, 1.0, half_a_ms=2 * measured_ms))
        assert (undone.measured_ms, undone.half_a_ms) == pytest.approx((measured_ms / factor, 2 * measured_ms / factor))
    outlier = module._Slowdown(now_us, np.array([1.02, 1.02, 1.5, 1.02]))
    assert outlier.undone(network(0, 2.0, 1.0)).measured_ms == pytest.approx(2 / 1.02, rel=0.01)
    alike = module._Slowdown(np.full(3, 500.0), np.array([1.0, 1.1, 1.2]))
    assert alike.undone(network(0, 2.0, 1.0)).measured_ms == pytest.approx(2 / 1.1)


def test_without_timed_networks_nobody_knows_the_machine_s_speed(tiny_table: Table, tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    found = validate(replace(tiny_table, timings=(), models=()), ONE, UNIFORM, protocol=QUICK)
    assert (found.slowdown_pct, found.at_build_speed) == (None, None)
    assert {len(order) for order in workers.orders} == {3}
    assert validation_summary(found)["at_build_speed"] is None


# Stopped and resumed


def test_a_validation_that_was_stopped_goes_on_and_measures_nothing_twice(tiny_table: Table, tmp_path, monkeypatch):
    journal, seen = tmp_path / "v.journal", []
    body = 'result["samples_us"] = [1000.0 + len(item["id"])] * len(samples)'
    FakeWorkers(tmp_path / "first", monkeypatch, body)

    def stop(name: str) -> None:
        seen.append(name)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="the same command resumes"):
        validate(tiny_table, ONE, UNIFORM, protocol=QUICK, journal=journal, advance=stop)
    assert journal.exists()
    workers = FakeWorkers(tmp_path / "second", monkeypatch, body)
    again: list[str] = []
    found = validate(tiny_table, ONE, UNIFORM, protocol=QUICK, journal=journal, advance=again.append)
    timed = [name for order in workers.orders for name in order]
    assert Counter(again) == dict.fromkeys(set(again), QUICK.processes)
    assert len(timed) == len(again) - len(seen)
    assert {entry.measured_ms for entry in found.networks} == {(1000.0 + len(network_id(UNIFORM[0].network))) / 1000}
    assert len(found.networks) == len(UNIFORM)
    assert journal.exists()  # until the outcome is safe, which only the caller knows


def test_every_question_has_a_journal_of_its_own(tmp_path):
    asked = (ONE, UNIFORM, QUICK)
    path = journal_path(tmp_path / "t.json", *asked)
    assert path.parent == tmp_path
    assert path.name.endswith(".t.json.journal")
    assert journal_path(tmp_path / "t.json", *asked) == path
    others = [(TWO, UNIFORM, QUICK), (ONE, UNIFORM[:2], QUICK), (ONE, UNIFORM, replace(QUICK, pace_hz=30.0))]
    assert len({journal_path(tmp_path / "t.json", *other) for other in others} | {path}) == 4


def test_what_a_running_build_tidies_up_is_not_a_validation_s(tmp_path):
    """A build removes what a killed one left beside its table, and a validation may be running there."""
    table = tmp_path / "t.json"
    scratch = tmp_path / f".{journal_path(table, ONE, UNIFORM, QUICK).name}.abc{TEMPORARY}"
    scratch.mkdir()
    remove_leftovers(table)
    assert scratch.exists()


def test_a_rhythm_is_validated_in_fewer_calls():
    assert validation_protocol(None, 6) == replace(VALIDATION_PROTOCOL, processes=6)
    paced = validation_protocol(30.0, 6)
    assert (paced.pace_hz, paced.samples, paced.processes, paced.rounds) == (30.0, PACED_VALIDATION_SAMPLES, 6, 1)


def test_networks_are_validated_with_as_many_calls_on_end_as_they_were_calibrated_with_at_one_thread():
    """Else what differs is how warm the caches are: by 2.5 % at 1 to 3 ms."""
    calibration = network_protocol(None)
    assert calibration.samples / calibration.rounds == VALIDATION_PROTOCOL.samples / VALIDATION_PROTOCOL.rounds


def test_a_rhythm_s_calls_are_on_end_in_calibration_and_validation():
    """How many of them hardly counts where the figure is their median: 5 are within 0.3 % of 30 (LOG, 2026-11-27)."""
    assert network_protocol(30.0).rounds == validation_protocol(30.0).rounds == 1


@pytest.mark.real_clock
def test_networks_are_really_timed(tiny_table: Table, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latencykit.bench.STEADY_PCT", dict.fromkeys(STEADY_PCT, math.inf))
    found = validate(tiny_table, ONE, UNIFORM, protocol=QUICK)
    for entry in found.networks:
        assert entry.measured_ms > 0
        assert min(entry.half_a_ms, entry.half_b_ms) <= entry.measured_ms <= max(entry.half_a_ms, entry.half_b_ms)
