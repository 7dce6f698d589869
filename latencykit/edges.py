"""The additive costs that a search needs (Eq. 4): what each candidate costs on each edge, in its context.

What an edge costs depends on its neighbours, through fusion and memory layouts, and the fit averages over them: one
cost for each (cell type, edge, candidate) reproduces the predictions of other networks within 1 to 2 %, where one for
each (cell type, candidate) does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latencykit.coverage import COVERAGE_SEED, lower_all
from latencykit.errors import UsageError
from latencykit.instructions import used_cpu
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge, Level, Primitive
from latencykit.macro import Macro
from latencykit.minimisers import CANDIDATES, EdgeCosts
from latencykit.predict import latencies_us, net_us
from latencykit.primitives import ZERO
from latencykit.runtime import Setting, runtime_version
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, template
from latencykit.table import Row, Table

FIT_NETWORKS = 640
FEWEST_HELD_OUT = 4
FIT_SEED = COVERAGE_SEED + 1
_RIDGE = 1e-6


@dataclass(frozen=True)
class SearchCosts:
    """The costs that the search's latency term is made of (Eq. 4).

    Attributes:
        fixed_ms: everything that is not chosen.
        edges_ms: by cell type, an array (edges, 5): milliseconds of each candidate on each edge, summed over the cells
            of the type, since they share their architecture parameters; 0 where an edge has fewer candidates.
        level: `edge` or `isolated`.
        residual_pct: mean absolute error against predictions of whole networks that were not fitted to.
        pace_hz: calls a second that the costs hold for; None is back to back.
    """

    fixed_ms: float
    edges_ms: EdgeCosts
    level: Level
    residual_pct: float
    pace_hz: float | None = None

    @cached_property
    def _prices_ms(self) -> Mapping[CellType, list[dict[str, float]]]:
        """By cell type, each edge's candidates and their costs."""
        return {cell_type: list(_prices(cell_type, array.tolist())) for cell_type, array in self.edges_ms.items()}

    def total_ms(self, architecture: Architecture) -> float:
        """The latency of one architecture under these costs; over 100 000 of them a second."""
        total = self.fixed_ms
        for cell_type, chosen in architecture.choices.items():
            for prices, primitive in zip(self._prices_ms[cell_type], chosen, strict=True):
                total += prices[primitive]
        return total


def _prices(cell_type: CellType, costs_ms: list[list[float]]) -> Iterator[dict[str, float]]:
    nodes = next(n for n in itertools.count(1) if len(cell_edges(cell_type, n)) == len(costs_ms))
    for edge, row in zip(cell_edges(cell_type, nodes), costs_ms, strict=True):
        yield {ZERO: 0.0, **dict(zip(edge.candidates, row, strict=False))}  # a deleted edge, by whatever rule


def cost(
    table: Table,
    setting: Setting,
    macro: Macro,
    *,
    pace_hz: float | None = None,
    level: Level = "edge",
    networks: int = FIT_NETWORKS,
    advance: Callable[[], object] = lambda: None,
) -> SearchCosts:
    """What the search needs to know of a table: a fixed cost and one array per cell type (design 10).

    Args:
        table: the table; any host may use one that has edge rows for the macro configuration.
        setting: the execution setting.
        macro: the search's macro configuration.
        pace_hz: calls a second; None is back to back.
        level: `edge`, read from the table or fitted here without timing where it has none for this configuration; or
            `isolated`, whose rows are read as they are.
        networks: sampled networks to fit to; others find the residual.
        advance: called after each network.

    Raises:
        MissingRowError: the table does not cover the space, or is not calibrated for the rhythm.
        NotComparableError: there are no edge rows, and this host's instruction set or runtime gives other kernels.
        UsageError: a level without costs.
    """
    if level == "isolated":
        return _isolated_costs(table, setting, macro)
    if level != "edge":
        raise UsageError(f"a search has no costs of level {level!r}; use 'edge' or 'isolated'.")
    if table.has_edges(setting, macro, pace_hz):
        return _stored_costs(table, setting, macro, pace_hz)
    table.require_same_kernels(used_cpu(), {"onnxruntime": runtime_version()})
    return fit_edges(table, setting, lower_samples(macro, networks, advance), pace_hz)


@dataclass(frozen=True)
class LoweredSamples:
    """Sampled architectures with the kernels that they run; those after the first `fitted` are for the residual."""

    architectures: tuple[Architecture, ...]
    kernels: tuple[Mapping[Kernel, int], ...]
    fitted: int


def lower_samples(
    macro: Macro, networks: int = FIT_NETWORKS, advance: Callable[[], object] = lambda: None
) -> LoweredSamples:
    """Lower the networks that edge costs are fitted to, on this CPU; the same for every setting and rhythm."""
    architectures = fit_architectures(macro, networks)
    return LoweredSamples(tuple(architectures), tuple(lower_all(architectures, advance)), networks)


def held_out(networks: int) -> int:
    """How many networks tell the residual of a fit to so many."""
    return max(FEWEST_HELD_OUT, networks // 8)


def fit_architectures(macro: Macro, networks: int = FIT_NETWORKS) -> list[Architecture]:
    """The networks that edge costs are fitted to, and those that tell the residual."""
    return sample_architectures(macro, networks + held_out(networks), FIT_SEED)


def fit_edges(table: Table, setting: Setting, samples: LoweredSamples, pace_hz: float | None) -> SearchCosts:
    """Edge costs fitted to what the table predicts of whole networks."""
    predicted_us = latencies_us(table, setting, samples.kernels, pace_hz)
    costs = fit_costs(samples.architectures, predicted_us / 1000, samples.fitted)
    return replace(costs, pace_hz=pace_hz)


def edge_rows(costs: SearchCosts, setting: Setting, macro: Macro) -> list[Row]:
    """Fitted costs as rows of a table, in whole nanoseconds, which is what a file keeps; `zero` is 0 by definition."""
    error, rhythm = round(costs.residual_pct, 3), costs.pace_hz
    fixed = Edge(macro, None, 0, "", rhythm)
    rows = [Row(fixed, setting, "fitted", 0, 0, 0, None, round(1000 * costs.fixed_ms, 3), error)]
    for cell_type in CELL_TYPES:
        for index, edge in enumerate(cell_edges(cell_type, macro.cell_nodes)):
            for candidate, value_ms in zip(edge.candidates, costs.edges_ms[cell_type][index], strict=False):
                key = Edge(macro, cell_type, index, candidate, rhythm)
                if candidate == ZERO:
                    rows.append(Row(key, setting, "defined", 0, 0, 0))
                else:
                    value_us = round(1000 * float(value_ms), 3)
                    rows.append(Row(key, setting, "fitted", 0, 0, 0, None, value_us, error))
    return rows


def _stored_costs(table: Table, setting: Setting, macro: Macro, pace_hz: float | None) -> SearchCosts:
    fixed = table.row(setting, Edge(macro, None, 0, "", pace_hz))
    edges: dict[CellType, NDArray[np.float64]] = {}
    for cell_type in CELL_TYPES:
        cell = cell_edges(cell_type, macro.cell_nodes)
        edges[cell_type] = np.zeros((len(cell), CANDIDATES))
        for index, edge in enumerate(cell):
            keys = [Edge(macro, cell_type, index, candidate, pace_hz) for candidate in edge.candidates]
            costs_us = [row.median_us for row in table.lookup(setting, keys)]
            edges[cell_type][index, : len(keys)] = np.array(costs_us) / 1000
    return SearchCosts(fixed.median_us / 1000, edges, "edge", fixed.residual_pct, pace_hz)


def fit_costs(architectures: Sequence[Architecture], sums_ms: NDArray[np.float64], networks: int) -> SearchCosts:
    """Least squares, of relative errors, on the first `networks` architectures; the residual is from the others.

    Where no network is without an edge - it has no `zero` candidate, or is its node's only one - just differences are
    determined: its cheapest candidate is put at 0 and the rest into the fixed cost.
    """
    nodes = architectures[0].macro.cell_nodes
    design = np.stack([_one_hot(architecture) for architecture in architectures])
    fitted, target = design[:networks], sums_ms[:networks]
    trust = np.square(1 / target)
    trust = trust / trust.sum()  # errors count relative to their target
    mean = trust @ fitted  # how often each candidate was drawn
    mean_ms = float(trust @ target)
    centred = fitted - mean
    gram = centred.T @ (trust[:, None] * centred) + _RIDGE * np.eye(design.shape[1])
    weights = np.asarray(np.linalg.solve(gram, centred.T @ (trust * (target - mean_ms))), np.float64)
    fixed = mean_ms - float(mean @ weights)
    others = slice(networks, None) if len(architectures) > networks else slice(None)
    errors = np.abs(design[others] @ weights + fixed - sums_ms[others]) / sums_ms[others]
    edges: dict[CellType, NDArray[np.float64]] = {}
    start = 0
    for cell_type in CELL_TYPES:
        cell = cell_edges(cell_type, nodes)
        columns = slice(start, start + len(cell) * CANDIDATES)
        array, drawn = (part[columns].reshape(len(cell), CANDIDATES).copy() for part in (weights, mean))
        start += array.size
        for row, often, edge in zip(array, drawn, cell, strict=True):
            there = [index for index, name in enumerate(edge.candidates) if name != ZERO]
            zero = edge.candidates.index(ZERO) if ZERO in edge.candidates else None
            reference = float(row[there].min() if zero is None or not often[zero] else row[zero])
            row[there] -= reference
            row[len(edge.candidates) :] = 0
            fixed += reference
            if zero is not None:
                row[zero] = 0
        edges[cell_type] = array
    return SearchCosts(fixed, edges, "edge", float(100 * errors.mean()))


def _one_hot(architecture: Architecture) -> NDArray[np.float64]:
    parts = []
    for cell_type in CELL_TYPES:
        for edge, primitive in zip(
            cell_edges(cell_type, architecture.macro.cell_nodes), architecture.choices[cell_type], strict=True
        ):
            parts.append(np.eye(CANDIDATES)[edge.candidates.index(primitive)])
    return np.concatenate(parts)


def _isolated_costs(table: Table, setting: Setting, macro: Macro) -> SearchCosts:
    plan = template(macro)
    edges = {c: np.zeros((len(cell_edges(c, macro.cell_nodes)), CANDIDATES)) for c in CELL_TYPES}
    overhead = table.row(setting, CALL_OVERHEAD).median_us
    fixed_us = overhead
    for node in plan.nodes:
        inputs = plan.input_shapes(node)
        match node.operation:
            case Choice() as choice:
                for index, candidate in enumerate(choice.candidates):
                    row = table.row(setting, Primitive(choice.operations(candidate), inputs))
                    edges[choice.cell_type][choice.edge, index] += net_us(row, row.median_us, overhead) / 1000
            case operation:
                row = table.row(setting, Primitive((operation,), inputs))
                fixed_us += net_us(row, row.median_us, overhead)
    return SearchCosts(fixed_us / 1000, edges, "isolated", 0.0)
