"""What a table of a space is made from, and what is fitted once it is measured."""

import dataclasses

import numpy as np
import pytest

from latencykit.baselines import Baseline
from latencykit.calibrate import (
    CALIBRATION_SEED,
    HAND_MADE_DEPTH,
    HAND_MADE_QUALITY_WIDTH,
    HAND_MADE_WIDTH,
    LIGHTEST_NETWORKS,
    SpaceNeeds,
    calibration_networks,
    fit_table,
    networks_to_lower,
    space_needs,
)
from latencykit.calibration import FEWEST_NETWORKS
from latencykit.coverage import COVERAGE_SEED, network_kernels, plain_networks, space_primitives
from latencykit.edges import FIT_NETWORKS, FIT_SEED, LoweredSamples, cost, edge_rows, fit_edges, held_out
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge
from latencykit.macro import Macro
from latencykit.minimisers import minimisers, work
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures, sparse_architectures
from latencykit.selection import unet_family
from latencykit.space import CELL_TYPES
from latencykit.table import LoweredNetwork, Table, network_id
from tests.latencykit.made_up import (
    MAPS,
    ONE,
    ONE_NODE,
    PLANTED,
    TINY,
    TWO,
    calibrated_table,
    drawn_networks,
    made_up_costs,
    made_up_table,
)

HELD_OUT = 4
"""As `conftest.py` says for tests; what `calibrate` has imported is unchanged."""
OTHER = dataclasses.replace(ONE_NODE, quality_stride=2)


# What is needed


def test_a_space_needs_its_primitives_and_all_kernels_of_its_networks(tiny_needs: SpaceNeeds):
    keys = tiny_needs.keys
    assert keys[0] == CALL_OVERHEAD
    assert len(set(keys)) == len(keys)
    assert set(space_primitives(TINY)) <= set(keys)
    lowered = [*(network.kernels for network in tiny_needs.calibration), *tiny_needs.samples[TINY].kernels]
    assert {kernel for kernels in lowered for kernel in kernels} | {CALL_OVERHEAD} == {
        key for key in keys if isinstance(key, Kernel)
    }


def test_few_networks_hold_all_kernels_of_a_space(tiny_needs: SpaceNeeds):
    for architecture in sample_architectures(TINY, 15, seed=99):
        assert set(network_kernels(architecture)) <= set(tiny_needs.keys)


def test_calibration_networks_are_of_five_kinds_under_names_of_their_content(
    tiny_needs: SpaceNeeds,
):
    uniform, sparse = sample_architectures(TINY, 6, CALIBRATION_SEED), sparse_architectures(TINY, 5, CALIBRATION_SEED)
    plain = plain_networks(TINY)
    light = minimisers(TINY, work(TINY), LIGHTEST_NETWORKS, CALIBRATION_SEED, plain)
    pair = Baseline(HAND_MADE_WIDTH, HAND_MADE_DEPTH, 1, HAND_MADE_QUALITY_WIDTH, TINY.image_size)
    expected = [*plain, *uniform, *sparse, *light, pair]
    assert [network.network for network in tiny_needs.calibration] == expected
    assert [network.id for network in tiny_needs.calibration] == [network_id(a) for a in expected]
    for network in (tiny_needs.calibration[0], tiny_needs.calibration[-1]):
        assert network.network is not None
        assert dict(network.kernels) == dict(network_kernels(network.network))


def test_networks_that_are_fitted_to_calibrated_with_and_looked_at_are_others(tiny_needs: SpaceNeeds):
    assert len({COVERAGE_SEED, FIT_SEED, CALIBRATION_SEED}) == 3
    assert tiny_needs.macros == (TINY,)
    samples = tiny_needs.samples[TINY]
    assert list(samples.architectures) == sample_architectures(TINY, 20 + HELD_OUT, FIT_SEED)
    timed = {network.id for network in tiny_needs.calibration}
    assert not timed & {network_id(architecture) for architecture in samples.architectures}


def test_several_configurations_share_what_is_alike_and_every_network_is_a_step():
    ticks: list[int] = []
    needs = space_needs([ONE_NODE, OTHER], 5, 2, lambda: ticks.append(1))
    assert needs.macros == (ONE_NODE, OTHER)
    assert len(ticks) == 2 * (5 + HELD_OUT + 2 + len(plain_networks(ONE_NODE)) + LIGHTEST_NETWORKS + 1)
    assert len({network.id for network in needs.calibration}) == len(needs.calibration)
    assert (
        len(needs.calibration) == 2 * (2 + 5 + LIGHTEST_NETWORKS) + 1
    )  # both are of one input stride, so their pair is the same
    alone = [set(space_needs([macro], 5, 2).keys) for macro in (ONE_NODE, OTHER)]
    assert set(needs.keys) == alone[0] | alone[1]
    assert alone[0] & alone[1] > {CALL_OVERHEAD}
    assert len(needs.keys) == len(set(needs.keys))


def test_the_hand_made_pair_that_is_calibrated_with_is_none_that_is_validated_or_compared_with():
    for stride in (1, 2, 4, 8):
        timed = calibration_networks(Macro(segmentation_stride=stride, quality_stride=stride), 2)
        [pair] = [network for network in timed if isinstance(network, Baseline)]
        assert pair.stride == stride
        assert pair.quality_width not in {other.quality_width for other in unet_family(72, 0)}
    odd = Macro(48, 4, 1, segmentation_widths=(4, 4, 4), quality_widths=(4, 4))  # 12 pixels halve twice
    assert {pair.depth for pair in calibration_networks(odd, 2) if isinstance(pair, Baseline)} == {2}


def test_the_steps_are_known_before_roughly():
    timed = calibration_networks(ONE_NODE)
    needed = FIT_NETWORKS + held_out(FIT_NETWORKS) + len(timed)
    assert networks_to_lower() <= needed <= networks_to_lower() + 8


def test_no_space_needs_the_call_s_overhead_alone():
    assert space_needs([]) == SpaceNeeds((CALL_OVERHEAD,), (), {})


# What is fitted


def test_every_setting_and_rhythm_with_enough_timings_gets_a_model():
    table = calibrated_table(settings=(ONE, TWO))
    assert [(m.setting, m.pace_hz, m.networks) for m in table.models] == [
        (ONE, None, 30), (ONE, 30.0, 30), (TWO, None, 30), (TWO, 30.0, 30),
    ]  # fmt: skip
    for model in table.models:
        factor = 1.2 if model.pace_hz else 1.0
        seen = {name: value * factor for name, value in PLANTED.items() if name != "beyond_8_l2"}
        assert {name: model.coefficients[name] for name in seen} == pytest.approx(seen, rel=0.01)


def test_too_few_timings_make_no_model_and_no_error():
    table = calibrated_table(networks=FEWEST_NETWORKS)
    short = tuple(t for t in table.timings if t.pace_hz is None or t.network != "drawn-000")
    assert [m.pace_hz for m in fit_table(dataclasses.replace(table, timings=short), {}).models] == [None]
    assert fit_table(dataclasses.replace(table, timings=()), {}).models == ()


def lowered(macro: Macro, count: int = 60) -> LoweredSamples:
    """Architectures with kernels that are drawn, not lowered: the fit is pure computation."""
    return LoweredSamples(tuple(sample_architectures(macro, count, FIT_SEED)), tuple(drawn_networks(count, 8)), 50)


def edges_of(table: Table, macro: Macro) -> dict[Edge, float]:
    keys = {row.key: row.median_us for row in table.rows}
    return {key: value for key, value in keys.items() if isinstance(key, Edge) and key.macro == macro}


def extended(table: Table, settings: tuple[Setting, ...] = (ONE,), pace_hz: float | None = None) -> Table:
    """The table with the timing of a further network."""
    more = LoweredNetwork("further", None, {MAPS[0]: 3, MAPS[5]: 1})
    timings = [dataclasses.replace(table.timings[0], setting=s, pace_hz=pace_hz, network="further") for s in settings]
    return dataclasses.replace(table, networks=(*table.networks, more), timings=(*table.timings, *timings))


def test_edge_costs_of_every_setting_and_rhythm_are_rows():
    table = fit_table(calibrated_table(0.01, settings=(ONE, TWO)), {ONE_NODE: lowered(ONE_NODE)})
    for setting in (ONE, TWO):
        for pace_hz in (None, 30.0):
            fitted = fit_edges(table, setting, lowered(ONE_NODE), pace_hz)
            stored = cost(table, setting, ONE_NODE, pace_hz=pace_hz)
            assert stored.fixed_ms == pytest.approx(fitted.fixed_ms, abs=1e-6)
            for cell_type in CELL_TYPES:
                np.testing.assert_allclose(stored.edges_ms[cell_type], fitted.edges_ms[cell_type], atol=1e-6)
    assert len(edges_of(table, ONE_NODE)) == 2 * 29


def test_an_uncalibrated_table_gets_edge_costs_of_its_plain_sums():
    plain = made_up_table(dict.fromkeys(MAPS, 9.0))
    table = fit_table(plain, {ONE_NODE: lowered(ONE_NODE)})
    assert table.models == ()
    assert {key.pace_hz for key in edges_of(table, ONE_NODE)} == {None}
    again = fit_table(table, {OTHER: lowered(OTHER)})  # nothing changed that these rest on
    assert edges_of(again, ONE_NODE) == edges_of(table, ONE_NODE) != {}


def test_fitting_again_changes_nothing_not_even_the_order_of_rows():
    table = fit_table(calibrated_table(0.01), {ONE_NODE: lowered(ONE_NODE), OTHER: lowered(OTHER)})
    assert fit_table(table, {}) == table
    assert fit_table(table, {ONE_NODE: lowered(ONE_NODE)}) == table
    assert fit_table(table, {OTHER: lowered(OTHER), ONE_NODE: lowered(ONE_NODE)}) == table


def test_edge_costs_of_other_configurations_stay_while_their_model_does():
    table = fit_table(calibrated_table(0.01), {ONE_NODE: lowered(ONE_NODE)})
    both = fit_table(table, {OTHER: lowered(OTHER)})
    assert edges_of(both, ONE_NODE) == edges_of(table, ONE_NODE)
    assert len(edges_of(both, OTHER)) == 2 * 29


def test_edge_costs_of_other_configurations_go_when_their_model_changed():
    table = fit_table(calibrated_table(0.01, settings=(ONE, TWO)), {ONE_NODE: lowered(ONE_NODE)})
    both = fit_table(extended(table), {OTHER: lowered(OTHER)})
    left = {
        (row.setting, row.key.pace_hz) for row in both.rows if isinstance(row.key, Edge) and row.key.macro == ONE_NODE
    }
    assert left == {(ONE, 30.0), (TWO, None), (TWO, 30.0)}  # only back to back at one thread was timed anew
    again = fit_table(both, {ONE_NODE: lowered(ONE_NODE)})
    assert again.has_edges(ONE, ONE_NODE, None)
    assert again.has_edges(ONE, OTHER, None)


def test_edge_costs_of_the_fitted_configuration_follow_its_changed_model():
    table = fit_table(calibrated_table(0.01), {ONE_NODE: lowered(ONE_NODE)})
    again = fit_table(extended(table), {ONE_NODE: lowered(ONE_NODE)})
    assert again.model(ONE, None) != table.model(ONE, None)
    assert edges_of(again, ONE_NODE).keys() == edges_of(table, ONE_NODE).keys()
    fitted = fit_edges(again, ONE, lowered(ONE_NODE), None)
    assert cost(again, ONE, ONE_NODE).fixed_ms == pytest.approx(fitted.fixed_ms, abs=1e-6)


def test_models_that_differ_by_rounding_keep_what_rests_on_them():
    table = fit_table(calibrated_table(0.01), {ONE_NODE: lowered(ONE_NODE)})
    rounded = tuple(
        dataclasses.replace(m, coefficients={name: v * (1 + 1e-12) for name, v in m.coefficients.items()})
        for m in table.models
    )
    elsewhere = dataclasses.replace(table, models=rounded)
    assert elsewhere.models != table.models
    again = fit_table(elsewhere, {})
    assert again == elsewhere
    off = tuple(dataclasses.replace(m, coefficients={**m.coefficients, "sum_us": 2.0}) for m in table.models)
    assert edges_of(fit_table(dataclasses.replace(table, models=off), {}), ONE_NODE) == {}


def test_a_setting_that_lacks_a_configuration_s_kernels_gets_no_edge_costs_and_no_error():
    """As after `build --threads 2 --only-added` on a table of one thread."""
    partial = made_up_table({MAPS[0]: 9.0}, (TWO,)).rows
    table = fit_table(calibrated_table(0.01).with_rows(partial), {ONE_NODE: lowered(ONE_NODE)})
    assert table.has_edges(ONE, ONE_NODE, None)
    assert not table.has_edges(TWO, ONE_NODE, None)


def test_stored_costs_that_came_with_a_table_survive_fitting_of_others():
    table = calibrated_table(0.01).with_rows(edge_rows(made_up_costs(), ONE, ONE_NODE))
    assert cost(fit_table(table, {OTHER: lowered(OTHER)}), ONE, ONE_NODE).fixed_ms == 3.25
