"""From a table's rows to the latency of a network, and to the additive costs that a search needs (Eq. 4).

Every row was measured as a call of its own and holds the call's overhead, which a network pays once: it is taken off
each kernel and added once to the sum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latencykit.coverage import COVERAGE_SEED, network_kernels
from latencykit.errors import UsageError
from latencykit.graph import Graph
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, template
from latencykit.table import Level, Primitive, Row, Table

CANDIDATES = 5
"""Width of a cost array: the most candidates that an edge has (Table I)."""
FIT_NETWORKS = 240
FIT_SEED = COVERAGE_SEED + 1
_RIDGE = 1e-6


@dataclass(frozen=True)
class Share:
    """One kernel of a network: how often it runs and what all of its runs cost."""

    row: Row
    count: int
    cost_us: float


@dataclass(frozen=True)
class Prediction:
    """The latency of a network as a table has it.

    Attributes:
        latency_us: the sum of the rows, call overhead counted once.
        interval_us: the sums of the rows' lower and upper ends: their errors are taken to go together, since they come
            from the same processes.
        shares: its rows, the dearest first.
    """

    latency_us: float
    interval_us: tuple[float, float]
    shares: tuple[Share, ...]


def predict_kernels(table: Table, setting: Setting, kernels: Sequence[Kernel], remedy: str = "") -> Prediction:
    """The kernel sum of a network.

    Args:
        table: the table.
        setting: the execution setting.
        kernels: what the network runs (`latencykit.kernels_of`).
        remedy: options of `latencykit build` that would add what is missing.

    Raises:
        MissingRowError: naming every kernel that the table does not hold.
    """
    return _sum_rows(table, setting, kernels, remedy)


def predict_graph(table: Table, setting: Setting, graph: Graph) -> Prediction:
    """The kernel sum of a graph, lowered and optimised on this CPU; errors as `predict_kernels`."""
    with tempfile.TemporaryDirectory() as scratch:
        model = graph_to_onnx(graph).SerializeToString()
        return predict_kernels(table, setting, kernels_of(model, setting, Path(scratch)))


def predict_isolated(table: Table, setting: Setting, graph: Graph) -> Prediction:
    """The classical sum: every primitive as a model of its own."""
    return _sum_rows(table, setting, [Primitive(operations, inputs) for operations, inputs, _ in graph.fragments()])


def _sum_rows(
    table: Table, setting: Setting, keys: Sequence[Kernel] | Sequence[Primitive], remedy: str = ""
) -> Prediction:
    overhead = table.row(setting, CALL_OVERHEAD)
    counts: dict[Kernel | Primitive, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    rows = table.lookup(setting, counts, remedy)
    shares = [
        Share(row, count, count * _net(row, row.median_us, overhead.median_us))
        for row, count in zip(rows, counts.values(), strict=True)
    ]
    shares.sort(key=lambda share: -share.cost_us)
    ends = [
        overhead.interval_us[end]
        + sum(s.count * _net(s.row, s.row.interval_us[end], overhead.median_us) for s in shares)
        for end in (0, 1)
    ]
    total = overhead.median_us + sum(share.cost_us for share in shares)
    return Prediction(total, (min(ends[0], total), max(ends[1], total)), tuple(shares))


def _net(row: Row, figure_us: float, overhead_us: float) -> float:
    """A row's median or interval end without the call's overhead, which only a measured figure holds."""
    return max(figure_us - overhead_us, 0.0) if row.origin == "measured" else figure_us


@dataclass(frozen=True)
class SearchCosts:
    """The costs that the search's latency term is made of (Eq. 4).

    Attributes:
        fixed_ms: everything that is not chosen.
        edges_ms: by cell type, an array (edges, 5): milliseconds of each candidate on each edge, summed over the cells
            of the type, since they share their architecture parameters; 0 where an edge has fewer candidates.
        level: the level of the table that the costs stand for.
        residual_pct: mean absolute error against that level's sums on networks that were not fitted to.
    """

    fixed_ms: float
    edges_ms: Mapping[CellType, NDArray[np.float64]]
    level: Level
    residual_pct: float

    def total_ms(self, architecture: Architecture) -> float:
        """The latency of one architecture under these costs."""
        total = self.fixed_ms
        for cell_type, chosen in architecture.choices.items():
            for index, (edge, primitive) in enumerate(
                zip(cell_edges(cell_type, architecture.macro.cell_nodes), chosen, strict=True)
            ):
                if primitive in edge.candidates:
                    total += float(self.edges_ms[cell_type][index, edge.candidates.index(primitive)])
        return total


def cost(
    table: Table,
    setting: Setting,
    macro: Macro,
    level: Level = "kernel",
    networks: int = FIT_NETWORKS,
    advance: Callable[[int], None] = lambda done: None,
) -> SearchCosts:
    """What the search needs to know of a table: a fixed cost and one array per cell type (design 10).

    At level `kernel`, one cost per (cell type, edge, candidate) is fitted to the kernel sums of sampled networks, with
    `zero` at 0: what an edge costs depends on its neighbours (fusion, reorders), and the fit averages over them. At
    level `isolated` the rows are read as they are.

    Args:
        table: the table.
        setting: the execution setting.
        macro: the search's macro configuration.
        level: `kernel` or `isolated`; the `edge` level is not in this schema yet.
        networks: sampled networks to fit to, a fifth more to find the residual.
        advance: told the number of networks done.

    Raises:
        MissingRowError: the table does not cover the space.
        UsageError: a level without costs.
    """
    if level == "isolated":
        return _isolated_costs(table, setting, macro)
    if level != "kernel":
        raise UsageError(f"costs of level {level!r} are not in this table; use 'kernel' or 'isolated'.")
    architectures = sample_architectures(macro, networks + networks // 5, FIT_SEED)
    sums_us = np.array(list(kernel_sums_us(table, setting, architectures, advance)))
    return fit_costs(architectures, sums_us / 1000, networks)


def kernel_sums_us(
    table: Table, setting: Setting, architectures: Iterable[Architecture], advance: Callable[[int], None]
) -> Iterable[float]:
    """The kernel sum of each architecture, microseconds; lowers each on this CPU."""
    with tempfile.TemporaryDirectory() as scratch:
        for done, architecture in enumerate(architectures, start=1):
            kernels = network_kernels(architecture, Path(scratch), setting)
            yield predict_kernels(table, setting, kernels).latency_us
            advance(done)


def fit_costs(architectures: Sequence[Architecture], sums_ms: NDArray[np.float64], networks: int) -> SearchCosts:
    """Least squares of additive edge costs on the first `networks` architectures; the residual is from the others.

    Where no network is without an edge - it has no `zero` candidate, or is its node's only one - just differences are
    determined: its cheapest candidate is put at 0 and the rest into the fixed cost.
    """
    nodes = architectures[0].macro.cell_nodes
    design = np.stack([_one_hot(architecture) for architecture in architectures])
    fitted, mean = design[:networks], design[:networks].mean(axis=0)  # mean: how often each candidate was drawn
    centred = fitted - mean
    gram = centred.T @ centred + _RIDGE * networks * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (sums_ms[:networks] - sums_ms[:networks].mean()))
    fixed = float(sums_ms[:networks].mean() - mean @ weights)
    held_out = slice(networks, None) if len(architectures) > networks else slice(None)
    errors = np.abs(design[held_out] @ weights + fixed - sums_ms[held_out]) / sums_ms[held_out]
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
    return SearchCosts(fixed, edges, "kernel", float(100 * errors.mean()))


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
                    edges[choice.cell_type][choice.edge, index] += _net(row, row.median_us, overhead) / 1000
            case operation:
                row = table.row(setting, Primitive((operation,), inputs))
                fixed_us += _net(row, row.median_us, overhead)
    return SearchCosts(fixed_us / 1000, edges, "isolated", 0.0)
