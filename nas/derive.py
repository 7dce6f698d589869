"""From architecture parameters to an architecture (decision 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.space import CELL_TYPES, Architecture, CellType, Edge, cell_edges

Rule = Literal["argmax", "two-strongest"]
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


def _slot(edge: Edge, row: npt.NDArray[np.floating]) -> int:
    return int(np.argmax(row[: len(edge.candidates)]))


def _best(edge: Edge, row: npt.NDArray[np.floating]) -> tuple[float, str]:
    """Probability and name of the strongest candidate other than `zero`."""
    return max(
        ((float(value), name) for value, name in zip(row, edge.candidates, strict=False) if name != ZERO),
        key=lambda pair: pair[0],
    )
