"""The search's additive costs: fitted, stored, read back, and never made where the kernels are others."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from latencykit import coverage, edges
from latencykit.coverage import network_kernels
from latencykit.edges import (
    CANDIDATES,
    FIT_SEED,
    LoweredSamples,
    SearchCosts,
    cost,
    edge_rows,
    fit_costs,
    fit_edges,
    lower_samples,
)
from latencykit.errors import MissingRowError, NotComparableError, UsageError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge, Key, Primitive
from latencykit.predict import predict_isolated, predict_kernels
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges, instantiate
from latencykit.spec import Conv
from latencykit.table import Table
from latencykit.table_file import load_table, save_table
from tests.latencykit.made_up import (
    CPU,
    ONE,
    ONE_NODE,
    TINY,
    TWO,
    calibrated_table,
    made_up_costs,
    made_up_table,
    map_kernel,
    whole_table,
)

HELD_OUT = 4
"""As `conftest.py` says for tests."""


# Fitted


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
    truth = SearchCosts(fixed, edges, "edge", 0)
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
    truth = SearchCosts(*planted(2), "edge", 0)
    sums = np.array([truth.total_ms(architecture) for architecture in architectures])
    sums[240:] *= 1.1
    assert fit_costs(architectures, sums, 240).residual_pct == pytest.approx(100 * 0.1 / 1.1, rel=1e-3)


def test_errors_count_relative_to_the_network_s_own_latency(architectures: list[Architecture]):
    """Of the best fit the relative errors, weighed by 1 / latency, cancel out; the absolute ones do not."""
    rng = np.random.default_rng(0)
    sums = rng.uniform(5, 50, len(architectures))
    found = fit_costs(architectures, sums, len(architectures))
    errors = np.array([found.total_ms(architecture) for architecture in architectures]) - sums
    assert np.sum(errors / sums**2) == pytest.approx(0, abs=1e-6)
    assert errors.mean() < -1


def test_without_further_networks_the_residual_is_that_of_the_fitted_ones(architectures: list[Architecture]):
    truth = SearchCosts(*planted(3), "edge", 0)
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
    assert SearchCosts(fixed, edges, "edge", 0).total_ms(architecture) == pytest.approx(expected)


def test_a_deleted_edge_costs_nothing_wherever_it_is():
    """A rule that keeps two edges a node deletes edges that have no zero among their candidates."""
    costs = made_up_costs()
    choices = {c: tuple(edge.candidates[0] for edge in cell_edges(c, 1)) for c in CELL_TYPES}
    whole = costs.total_ms(Architecture(ONE_NODE, choices))
    fewer = costs.total_ms(Architecture(ONE_NODE, {**choices, "down": (ZERO, choices["down"][1])}))
    assert whole - fewer == pytest.approx(costs.edges_ms["down"][0, 0])


# Fitted to what a table predicts of whole networks


PARTS: Mapping[tuple[CellType, int, str], Kernel] = {
    (cell_type, index, name): map_kernel(4 + place, 8 * (1 + number))
    for number, (cell_type, index, edge) in enumerate(
        (c, i, e) for c in CELL_TYPES for i, e in enumerate(cell_edges(c, 1))
    )
    for place, name in enumerate(edge.candidates)
    if name != ZERO
}
"""A kernel for each candidate of each edge of one-node cells."""
REST = map_kernel(3, 64)


def pretended(architectures: list[Architecture]) -> LoweredSamples:
    """Samples of which each chosen candidate is one kernel, and one is fixed."""
    found = []
    for architecture in architectures:
        chosen = [(c, i, name) for c, names in architecture.choices.items() for i, name in enumerate(names)]
        found.append(Counter([REST, *(PARTS[key] for key in chosen if key[2] != ZERO)]))
    return LoweredSamples(tuple(architectures), tuple(found), 200)


@pytest.fixture(scope="module")
def samples() -> LoweredSamples:
    return pretended(sample_architectures(ONE_NODE, 240, FIT_SEED))


@pytest.fixture(scope="module")
def parts_table() -> Table:
    """What each part costs: 10 us and more, each its own."""
    costs: dict[Key, float] = {kernel: 12.0 + 3 * index for index, kernel in enumerate(PARTS.values())}
    return made_up_table({REST: 502.0, **costs}, (ONE, TWO))


def test_additive_costs_of_kernels_are_recovered_on_the_edges(samples: LoweredSamples, parts_table: Table):
    found = fit_edges(parts_table, ONE, samples, None)
    assert (found.level, found.pace_hz) == ("edge", None)
    assert found.residual_pct < 0.01
    for cell_type in CELL_TYPES:
        for index, edge in enumerate(cell_edges(cell_type, 1)):
            true = {
                n: parts_table.row(ONE, PARTS[cell_type, index, n]).median_us - 2 for n in edge.candidates if n != ZERO
            }
            fitted = dict(zip(edge.candidates, 1000 * found.edges_ms[cell_type][index], strict=False))
            cheapest = 0.0 if ZERO in edge.candidates and fitted_zero(samples, cell_type, index) else min(true.values())
            assert fitted.pop(ZERO, 0.0) == 0
            assert fitted == pytest.approx({name: value - cheapest for name, value in true.items()}, abs=0.05)
    for architecture, kernels in zip(samples.architectures, samples.kernels, strict=True):
        predicted = predict_kernels(parts_table, ONE, kernels).latency_us / 1000
        assert found.total_ms(architecture) == pytest.approx(predicted, rel=1e-3)


def fitted_zero(samples: LoweredSamples, cell_type: CellType, index: int) -> bool:
    """Whether any network is without the edge."""
    return any(architecture.choices[cell_type][index] == ZERO for architecture in samples.architectures)


def test_the_costs_of_a_calibrated_table_are_of_its_calibrated_figures(samples: LoweredSamples):
    table = calibrated_table(networks=12).with_rows(
        made_up_table({REST: 502.0, **dict.fromkeys(PARTS.values(), 22.0)}).rows
    )
    kernels = samples.kernels[0]
    found = fit_edges(table, ONE, samples, None)
    calibrated = predict_kernels(table, ONE, kernels)
    assert calibrated.latency_us > 1.05 * calibrated.raw_us
    assert found.total_ms(samples.architectures[0]) == pytest.approx(calibrated.latency_us / 1000, rel=0.01)
    paced = fit_edges(table, ONE, samples, 30.0)
    assert paced.pace_hz == 30.0
    assert paced.fixed_ms == pytest.approx(1.2 * found.fixed_ms, rel=0.02)
    with pytest.raises(MissingRowError, match="not calibrated for 25 calls a second"):
        fit_edges(table, ONE, samples, 25.0)


# Stored


def test_stored_rows_give_the_costs_that_were_fitted(samples: LoweredSamples, parts_table: Table, tmp_path):
    fitted = fit_edges(parts_table, ONE, samples, None)
    table = parts_table.with_rows(edge_rows(fitted, ONE, ONE_NODE))
    save_table(table, tmp_path / "t.json")
    assert load_table(tmp_path / "t.json") == table
    for stored in (cost(table, ONE, ONE_NODE), cost(load_table(tmp_path / "t.json"), ONE, ONE_NODE)):
        assert (stored.level, stored.pace_hz) == ("edge", None)
        assert stored.fixed_ms == pytest.approx(fitted.fixed_ms, abs=1e-6)
        assert stored.residual_pct == pytest.approx(fitted.residual_pct, abs=1e-3)
        for cell_type in CELL_TYPES:
            np.testing.assert_allclose(stored.edges_ms[cell_type], fitted.edges_ms[cell_type], atol=1e-6)
            assert stored.edges_ms[cell_type].shape == (len(cell_edges(cell_type, 1)), CANDIDATES)


def test_an_edge_row_says_where_it_comes_from_and_zero_costs_nothing_by_definition():
    costs = made_up_costs(pace_hz=30.0)
    rows = {row.key: row for row in edge_rows(costs, ONE, ONE_NODE)}
    assert len(rows) == 1 + sum(len(edge.candidates) for c in CELL_TYPES for edge in cell_edges(c, 1))
    assert {row.level for row in rows.values()} == {"edge"}
    for key, row in rows.items():
        assert isinstance(key, Edge)
        assert key.pace_hz == 30.0
        zero = key.candidate == ZERO
        assert row.origin == ("defined" if zero else "fitted")
        assert row.error_pct == (0 if zero else costs.residual_pct)
        assert row.median_us == 0 or not zero
    assert rows[Edge(ONE_NODE, None, 0, "", 30.0)].median_us == 3250


def test_each_rhythm_and_setting_has_costs_of_its_own():
    table = whole_table()
    for setting in (ONE, TWO):
        for pace_hz in (None, 30.0):
            planted = made_up_costs(seed=setting.threads, pace_hz=pace_hz)
            found = cost(table, setting, ONE_NODE, pace_hz=pace_hz)
            assert (found.fixed_ms, found.residual_pct, found.pace_hz) == (3.25, 1.25, pace_hz)
            for cell_type in CELL_TYPES:
                np.testing.assert_allclose(found.edges_ms[cell_type], planted.edges_ms[cell_type], atol=1e-9)


def test_costs_with_a_row_missing_are_an_error(parts_table: Table):
    rows = edge_rows(made_up_costs(), ONE, ONE_NODE)
    with pytest.raises(MissingRowError, match="down edge 0"):
        cost(
            parts_table.with_rows([row for row in rows if row.key != Edge(ONE_NODE, "down", 0, "max_pool")]),
            ONE,
            ONE_NODE,
        )


# On other hosts


def refuse(*_: object) -> None:
    raise AssertionError("a network was lowered")


FOREIGN = dataclasses.replace(CPU, isa=("sve2",), model="Another")


def test_a_foreign_table_with_edge_rows_serves_a_search_without_lowering(monkeypatch: pytest.MonkeyPatch):
    table = dataclasses.replace(whole_table(), cpu=FOREIGN, runtime={"onnxruntime": "0.0.1"})
    for module in (coverage, edges):
        for name in ("network_kernels", "lower_all", "read_cpu"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    assert cost(table, TWO, ONE_NODE, pace_hz=30.0).fixed_ms == 3.25


def test_without_edge_rows_another_instruction_set_or_runtime_is_refused_with_code_4(tiny_table, monkeypatch):
    bare = dataclasses.replace(tiny_table, rows=tuple(row for row in tiny_table.rows if row.level != "edge"))
    monkeypatch.setattr(edges, "lower_all", refuse)
    monkeypatch.setattr(coverage, "network_kernels", refuse)
    with pytest.raises(NotComparableError, match="of a CPU with sve2, this one has") as caught:
        cost(dataclasses.replace(bare, cpu=FOREIGN), ONE, TINY)
    assert caught.value.exit_code == 4
    with pytest.raises(NotComparableError, match=r"onnxruntime 0\.0\.1, this is"):
        cost(dataclasses.replace(bare, runtime={"onnxruntime": "0.0.1"}), ONE, TINY)
    with pytest.raises(AssertionError, match="was lowered"):
        cost(bare, ONE, TINY)


def test_without_edge_rows_costs_are_fitted_here_with_a_step_for_each_network(tiny_table: Table):
    bare = dataclasses.replace(tiny_table, rows=tuple(row for row in tiny_table.rows if row.level != "edge"))
    ticks: list[int] = []
    found = cost(bare, ONE, TINY, networks=20, advance=lambda: ticks.append(1))
    assert len(ticks) == 20 + HELD_OUT
    stored = cost(tiny_table, ONE, TINY)  # fitted to as many networks when it was built
    assert found.fixed_ms == pytest.approx(stored.fixed_ms, abs=1e-5)
    for cell_type in CELL_TYPES:
        np.testing.assert_allclose(found.edges_ms[cell_type], stored.edges_ms[cell_type], atol=1e-5)
    (fitted,) = sample_architectures(TINY, 1, FIT_SEED)  # fewer networks than costs: each is met
    predicted = predict_kernels(tiny_table, ONE, network_kernels(fitted)).latency_us / 1000
    assert found.total_ms(fitted) == pytest.approx(predicted, rel=0.01)


def test_costs_of_a_measured_table_have_the_shapes_of_its_cells(tiny_table: Table):
    found = cost(tiny_table, ONE, TINY)
    assert {cell_type: array.shape for cell_type, array in found.edges_ms.items()} == {
        "down": (9, 5), "up": (9, 5), "contracting": (6, 5), "non_scaling": (6, 5),
    }  # fmt: skip
    assert found.residual_pct > 0


def test_samples_are_lowered_in_their_order_more_than_are_fitted_to():
    found = lower_samples(ONE_NODE, 5)
    assert found.fitted == 5
    assert list(found.architectures) == sample_architectures(ONE_NODE, 5 + HELD_OUT, FIT_SEED)
    assert [dict(kernels) for kernels in found.kernels] == [dict(network_kernels(a)) for a in found.architectures]


@pytest.mark.parametrize("level", ["kernel", "layer"])
def test_costs_of_a_level_that_has_none_are_refused(tiny_table: Table, level: str):
    with pytest.raises(UsageError, match="'edge' or 'isolated'"):
        cost(tiny_table, ONE, TINY, level=level)  # type: ignore[arg-type]


def test_costs_of_a_space_that_the_table_does_not_cover_are_an_error(tiny_table: Table):
    other = dataclasses.replace(TINY, segmentation_widths=(2, 4, 12))
    for level in ("edge", "isolated"):
        with pytest.raises(MissingRowError, match="latencykit build"):
            cost(tiny_table, ONE, other, level=level, networks=5)


def test_costs_of_a_setting_without_rows_are_an_error(tiny_table: Table):
    for level in ("edge", "isolated"):
        with pytest.raises(MissingRowError, match="2 threads"):
            cost(tiny_table, TWO, TINY, level=level, networks=5)


def test_costs_of_a_rhythm_that_the_table_is_not_calibrated_for_are_an_error(tiny_table: Table):
    with pytest.raises(MissingRowError, match="not calibrated for 11 calls a second"):
        cost(tiny_table, ONE, TINY, pace_hz=11.0, networks=5)


# Isolated


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


def test_isolated_costs_without_deleted_edges_are_the_isolated_sum(tiny_table: Table):
    found = cost(tiny_table, ONE, TINY, level="isolated")
    names = {"down": "down_conv", "up": "up_conv", "normal": "conv"}
    choices = {c: tuple(names[e.kind] for e in cell_edges(c, TINY.cell_nodes)) for c in CELL_TYPES}
    architecture = Architecture(TINY, choices)
    expected = predict_isolated(tiny_table, ONE, instantiate(architecture)).latency_us / 1000
    assert found.total_ms(architecture) == pytest.approx(expected)
