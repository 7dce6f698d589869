"""From architecture parameters to an architecture (decision 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from latencykit.edges import SearchCosts
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.space import CELL_TYPES, Architecture, CellType, Edge, cell_edges

Rule = Literal["argmax", "two-strongest"]
TINY = 1e-12
"""Stands for a probability of 0."""
BAND = 0.03
"""A derived architecture is faster than its target by at most this part, where there is such a one."""
KEPT_EDGES = 2
"""Edges that a node keeps under `two-strongest`, as in DARTS."""

Tables = Mapping[CellType, npt.NDArray[np.floating]]
"""For each cell type, (edges, slots) probabilities; slots beyond an edge's candidates are ignored."""


def derive(tables: Tables, macro: Macro, rule: Rule = "argmax") -> Architecture:
    """The architecture that the tables stand for.

    Args:
        tables: an edge's candidates by strength.
        macro: the rest of the network.
        rule: `argmax` takes each edge's strongest candidate, `zero` included, which deletes the edge.
            `two-strongest` keeps at every node the two edges whose best candidate other than `zero` is strongest.
            A node left without an input keeps its best edge under either.
    """
    return Architecture(
        macro, {cell_type: _cell(cell_type, tables[cell_type], macro, rule) for cell_type in CELL_TYPES}
    )


def _cell(cell_type: CellType, table: npt.NDArray[np.floating], macro: Macro, rule: Rule) -> tuple[str, ...]:
    edges = cell_edges(cell_type, macro.cell_nodes)
    chosen = [ZERO] * len(edges)
    for node in range(macro.cell_nodes):
        arriving = [index for index, edge in enumerate(edges) if edge.node == node]
        best = {index: _best(edges[index], table[index]) for index in arriving}
        by_strength = sorted(arriving, key=lambda index: -best[index][0])
        if rule == "argmax":
            kept = [index for index in arriving if edges[index].candidates[_slot(edges[index], table[index])] != ZERO]
        else:
            kept = by_strength[:KEPT_EDGES]
        for index in kept or by_strength[:1]:
            chosen[index] = best[index][1]
    return tuple(chosen)


def derive_within(tables: Tables, macro: Macro, costs: SearchCosts, target_ms: float) -> Architecture:
    """The most probable architecture that takes what a target allows: a small integer programme, solved exactly.

    Probable is the product of the edges' probabilities, which argmax maximises without a target. It takes the target or
    up to `BAND` less; where nothing does, less than that; where nothing takes so little, it is the fastest one.
    """
    options = [
        (cell_type, index, slot, name, edge.node)
        for cell_type in CELL_TYPES
        for index, edge in enumerate(cell_edges(cell_type, macro.cell_nodes))
        for slot, name in enumerate(edge.candidates)
    ]
    unlikely = [-np.log(max(float(tables[c][index][slot]), TINY)) for c, index, slot, _, _ in options]
    cost_ms = [float(costs.edges_ms[c][index][slot]) for c, index, slot, _, _ in options]
    each_edge = _rows([(c, index) for c, index, *_ in options])
    each_node = _rows([(c, node) for c, *_, node in options]) * [float(name != ZERO) for *_, name, _ in options]
    valid = [LinearConstraint(each_edge, 1, 1), LinearConstraint(each_node, 1, np.inf)]
    most_ms = target_ms - costs.fixed_ms
    near, below = (LinearConstraint(np.array([cost_ms]), low, most_ms) for low in (most_ms - BAND * target_ms, -np.inf))
    for objective, more in ((unlikely, [near]), (unlikely, [below]), (cost_ms, [])):
        found = milp(objective, integrality=[1], bounds=Bounds(0, 1), constraints=[*valid, *more])
        if found.x is not None:
            break
    assert found.x is not None  # without a target something is always found
    chosen = [option for option, taken in zip(options, found.x, strict=True) if taken > 0.5]
    return Architecture(macro, {t: tuple(name for c, _, _, name, _ in chosen if c == t) for t in CELL_TYPES})


def _rows(groups: Sequence[object]) -> npt.NDArray[np.float64]:
    """A row for each group, with 1 in the columns of its members."""
    return np.array([[float(group == member) for member in groups] for group in dict.fromkeys(groups)])


def _slot(edge: Edge, row: npt.NDArray[np.floating]) -> int:
    return int(np.argmax(row[: len(edge.candidates)]))


def _best(edge: Edge, row: npt.NDArray[np.floating]) -> tuple[float, str]:
    """Probability and name of the strongest candidate other than `zero`."""
    return max(
        ((float(value), name) for value, name in zip(row, edge.candidates, strict=False) if name != ZERO),
        key=lambda pair: pair[0],
    )
