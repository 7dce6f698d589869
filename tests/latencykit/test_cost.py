import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from latencykit.coverage import network_kernels
from latencykit.edges import CANDIDATES, SearchCosts, cost, fit_costs
from latencykit.errors import MissingRowError, UsageError
from latencykit.graph import chain
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Primitive
from latencykit.measurement import Measurement
from latencykit.predict import kernel_sums_us, predict_graph, predict_isolated, predict_kernels
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges, instantiate
from latencykit.spec import Conv, Identity
from latencykit.table import Row, Table, defined_row, make_row
from tests.latencykit.made_up import ONE, TINY, TWO, made_up_table, relu_kernel

A, B = relu_kernel(2), relu_kernel(4)


# Predictions


def test_a_missing_kernel_is_an_error_and_costs_nothing_by_default():
    with pytest.raises(MissingRowError, match="1x16x8x8"):
        predict_kernels(made_up_table({A: 5.0}), ONE, [A, relu_kernel(16)])


def test_a_table_without_the_call_s_overhead_predicts_nothing():
    rows = [row for row in made_up_table({A: 5.0}).rows if row.key != CALL_OVERHEAD]
    table = dataclasses.replace(made_up_table({}), rows=tuple(rows))
    with pytest.raises(MissingRowError, match="Identity 1x1x1x1"):
        predict_kernels(table, ONE, [A])


def test_no_kernels_cost_one_call():
    assert predict_kernels(made_up_table({}), ONE, []).latency_us == 2.0


def test_a_network_is_the_overhead_once_and_its_kernels_without_it():
    found = predict_kernels(made_up_table({A: 5.0, B: 9.0}), ONE, [A, B, A])
    assert found.latency_us == 2 + (5 - 2) + (9 - 2) + (5 - 2)
    assert [(share.row.key, share.count, share.cost_us) for share in found.shares] == [(B, 1, 7.0), (A, 2, 6.0)]
    assert found.interval_us == (15.0, 15.0)


def test_a_kernel_faster_than_the_overhead_costs_nothing_rather_than_less():
    assert predict_kernels(made_up_table({A: 1.5, B: 9.0}), ONE, [A, B]).latency_us == 2 + 7


def test_the_interval_sums_the_ends_of_the_rows():
    rows = made_up_table({}).with_rows([make_row(A, ONE, Measurement(((4.0,) * 3, (5.0,) * 3, (7.0,) * 3)))])
    found = predict_kernels(rows, ONE, [A, A])
    assert found.latency_us == 2 + 2 * 3
    assert found.interval_us == (2 + 2 * 2, 2 + 2 * 5)


def test_only_measured_rows_hold_the_overhead():
    table = made_up_table({}).with_rows([Row(A, ONE, "fitted", 0, 0, 0, value_us=5.0)])
    found = predict_kernels(table, ONE, [A])
    assert (found.latency_us, found.interval_us) == (7.0, (7.0, 7.0))


def test_settings_have_costs_of_their_own():
    table = made_up_table({A: 5.0}).with_rows(made_up_table({A: 9.0}, (TWO,)).rows)
    assert predict_kernels(table, ONE, [A]).latency_us == 5
    assert predict_kernels(table, TWO, [A]).latency_us == 9


def test_the_isolated_sum_is_over_the_primitives():
    shape = (2, 8, 8)
    separable = Primitive((Conv(2, groups=2, norm=False, activation="none"), Conv(2, kernel=1)), (shape,))
    table = made_up_table({separable: 10.0})
    assert predict_isolated(table, ONE, chain(separable.operations, (shape,))).latency_us == 10.0
    with pytest.raises(MissingRowError):
        predict_isolated(table, ONE, chain([Conv(2)], (shape,)))


def test_what_is_defined_to_cost_nothing_costs_nothing():
    identity = Primitive((Identity(),), ((2, 8, 8),))
    table = made_up_table({}).with_rows([defined_row(identity, ONE)])
    assert predict_isolated(table, ONE, chain([Identity()], [(2, 8, 8)])).latency_us == 2.0


# Costs for the search


ONLY_EDGE = ("non_scaling", 0)
"""The one edge with a zero that no network can choose, since it is its node's only one."""


def planted(seed: int) -> tuple[float, dict[CellType, NDArray[np.float64]]]:
    """A fixed cost and edge costs; zero costs 0, and so does the cheapest where no network is without the edge."""
    rng = np.random.default_rng(seed)
    edges: dict[CellType, NDArray[np.float64]] = {}
    for cell_type in CELL_TYPES:
        cell = cell_edges(cell_type, TINY.cell_nodes)
        array = np.zeros((len(cell), CANDIDATES))
        for index, (row, edge) in enumerate(zip(array, cell, strict=True)):
            there = [place for place, name in enumerate(edge.candidates) if name != ZERO]
            row[there] = rng.uniform(0.1, 1, len(there))
            if ZERO not in edge.candidates or (cell_type, index) == ONLY_EDGE:
                row[there] -= row[there].min()
        edges[cell_type] = array
    return 30.0, edges


@pytest.fixture(scope="module")
def architectures() -> list[Architecture]:
    return sample_architectures(TINY, 300, seed=11)


def test_planted_costs_are_recovered(architectures: list[Architecture]):
    fixed, edges = planted(1)
    truth = SearchCosts(fixed, edges, "kernel", 0)
    sums = np.array([truth.total_ms(architecture) for architecture in architectures])
    found = fit_costs(architectures, sums, 240)
    assert found.fixed_ms == pytest.approx(fixed, rel=1e-3)
    for cell_type in CELL_TYPES:
        np.testing.assert_allclose(found.edges_ms[cell_type], edges[cell_type], atol=1e-3)
    assert found.residual_pct < 1e-3
    assert [found.total_ms(a) for a in architectures] == pytest.approx(sums.tolist(), rel=1e-4)


def test_zero_and_the_padding_cost_exactly_nothing(architectures: list[Architecture]):
    sums = np.random.default_rng(0).uniform(20, 30, len(architectures))
    found = fit_costs(architectures, sums, 240)
    for cell_type in CELL_TYPES:
        for row, edge in zip(found.edges_ms[cell_type], cell_edges(cell_type, TINY.cell_nodes), strict=True):
            assert not row[len(edge.candidates) :].any()
            if ZERO in edge.candidates:
                assert row[edge.candidates.index(ZERO)] == 0
            else:
                assert row[: len(edge.candidates)].min() == 0
    assert found.edges_ms["non_scaling"][0].min() == 0


def test_the_residual_is_that_of_networks_that_were_not_fitted_to(architectures: list[Architecture]):
    truth = SearchCosts(*planted(2), "kernel", 0)
    sums = np.array([truth.total_ms(architecture) for architecture in architectures])
    sums[240:] *= 1.1
    assert fit_costs(architectures, sums, 240).residual_pct == pytest.approx(100 * 0.1 / 1.1, rel=1e-3)


def test_without_further_networks_the_residual_is_that_of_the_fitted_ones(architectures: list[Architecture]):
    truth = SearchCosts(*planted(3), "kernel", 0)
    sums = np.array([truth.total_ms(architecture) for architecture in architectures])
    assert fit_costs(architectures, sums, len(architectures)).residual_pct < 1e-3


def test_equal_sums_mean_that_no_choice_costs_anything(architectures: list[Architecture]):
    found = fit_costs(architectures, np.full(len(architectures), 25.0), 240)
    assert found.fixed_ms == pytest.approx(25)
    assert all(abs(array).max() < 1e-9 for array in found.edges_ms.values())


def test_the_total_is_the_fixed_cost_and_one_entry_for_each_edge():
    (architecture,) = sample_architectures(TINY, 1, seed=4)
    fixed, edges = planted(5)
    expected = fixed
    for cell_type, chosen in architecture.choices.items():
        for index, (edge, name) in enumerate(zip(cell_edges(cell_type, 3), chosen, strict=True)):
            expected += edges[cell_type][index, edge.candidates.index(name)]
    assert SearchCosts(fixed, edges, "kernel", 0).total_ms(architecture) == pytest.approx(expected)


def test_costs_of_a_level_that_has_none_are_refused(tiny_table: Table):
    with pytest.raises(UsageError, match="'edge'"):
        cost(tiny_table, ONE, TINY, level="edge")


def test_costs_of_a_space_that_the_table_does_not_cover_are_an_error(tiny_table: Table):
    other = dataclasses.replace(TINY, segmentation_widths=(2, 4, 12))
    for level in ("kernel", "isolated"):
        with pytest.raises(MissingRowError, match="latencykit build"):
            cost(tiny_table, ONE, other, level=level, networks=5)


def test_costs_of_a_setting_without_rows_are_an_error(tiny_table: Table):
    for level in ("kernel", "isolated"):
        with pytest.raises(MissingRowError, match="2 threads"):
            cost(tiny_table, TWO, TINY, level=level, networks=5)


def test_kernel_costs_of_a_measured_table_are_near_its_sums(tiny_table: Table):
    ticks: list[int] = []
    found = cost(tiny_table, ONE, TINY, networks=60, advance=ticks.append)
    assert ticks == list(range(1, 73))
    assert found.level == "kernel"
    assert found.fixed_ms > 0
    assert {cell_type: array.shape for cell_type, array in found.edges_ms.items()} == {
        "down": (9, 5), "up": (9, 5), "contracting": (6, 5), "non_scaling": (6, 5),
    }  # fmt: skip
    assert 0 < found.residual_pct < 50


def test_the_sums_that_are_fitted_to_are_the_predictions(tiny_table: Table, tmp_path):
    from latencykit.coverage import network_kernels

    chosen = sample_architectures(TINY, 2, seed=8)
    sums = list(kernel_sums_us(tiny_table, ONE, chosen, lambda done: None))
    expected = [predict_kernels(tiny_table, ONE, network_kernels(a, tmp_path)).latency_us for a in chosen]
    assert sums == expected


def test_isolated_costs_are_the_rows_summed_over_the_cells_that_share_a_choice(tiny_table: Table):
    found = cost(tiny_table, ONE, TINY, level="isolated")
    assert (found.level, found.residual_pct) == ("isolated", 0.0)
    overhead = tiny_table.row(ONE, CALL_OVERHEAD).median_us
    edge = cell_edges("non_scaling", 3)[0]
    row = tiny_table.row(ONE, Primitive((Conv(4),), ((4, 8, 8),)))
    assert edge.candidates[0] == "conv"
    assert found.edges_ms["non_scaling"][0, 0] == pytest.approx(max(row.median_us - overhead, 0) / 1000)
    for cell_type in CELL_TYPES:
        for costs, edge in zip(found.edges_ms[cell_type], cell_edges(cell_type, 3), strict=True):
            assert all(
                costs[edge.candidates.index(name)] == 0 for name in ("identity", ZERO) if name in edge.candidates
            )


def test_a_graph_costs_what_its_kernels_cost(tiny_table: Table, tmp_path):
    (architecture,) = sample_architectures(TINY, 1, seed=3)
    kernels = network_kernels(architecture, tmp_path)
    assert predict_graph(tiny_table, ONE, instantiate(architecture)) == predict_kernels(tiny_table, ONE, kernels)


def test_isolated_costs_without_deleted_edges_are_the_isolated_sum(tiny_table: Table):
    found = cost(tiny_table, ONE, TINY, level="isolated")
    names = {"down": "down_conv", "up": "up_conv", "normal": "conv"}
    choices = {c: tuple(names[e.kind] for e in cell_edges(c, TINY.cell_nodes)) for c in CELL_TYPES}
    architecture = Architecture(TINY, choices)
    expected = predict_isolated(tiny_table, ONE, instantiate(architecture)).latency_us / 1000
    assert found.total_ms(architecture) == pytest.approx(expected)
