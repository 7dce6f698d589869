"""Networks that minimise an additive cost (Eq. 4): where a search under a strong latency weight ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from latencykit.architecture import Network
from latencykit.errors import UsageError
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, template
from latencykit.spec import BYTES_PER_ELEMENT, Operation, Shape, element_count

CANDIDATES = 5
"""Width of a cost array: the most candidates that an edge has (Table I)."""
JITTER = 0.3
"""Minimisers are those of costs that are off by this part of their spread on an edge, so that there are several."""
FRUITLESS = 1000
"""Draws without a new minimiser after which there are no more."""
MACS_A_BYTE = 4
"""Multiply-accumulates that take a processor core about as long as moving a byte."""

EdgeCosts = Mapping[CellType, NDArray[np.float64]]


def work(macro: Macro) -> EdgeCosts:
    """What each candidate has to do on each edge, in bytes to move: known before anything is timed.

    Returns:
        By cell type an array (edges, 5), summed over the cells of the type, 0 where an edge has fewer candidates.
    """
    edges = {c: np.zeros((len(cell_edges(c, macro.cell_nodes)), CANDIDATES)) for c in CELL_TYPES}
    plan = template(macro)
    for node in plan.nodes:
        if isinstance(choice := node.operation, Choice):
            for index, candidate in enumerate(choice.candidates):
                if candidate != ZERO:
                    cost = _work(choice.operations(candidate), plan.input_shapes(node))
                    edges[choice.cell_type][choice.edge, index] += cost
    return edges


def _work(operations: Sequence[Operation], shapes: tuple[Shape, ...]) -> float:
    """Bytes to move, those that the node's sum reads included, and multiply-accumulates in their terms."""
    cost = 0.0
    for operation in operations:
        cost += operation.moved_bytes(shapes) + operation.macs(shapes) / MACS_A_BYTE
        shapes = (operation.output_shape(shapes),)
    return cost + BYTES_PER_ELEMENT * element_count(*shapes)


def minimisers(
    macro: Macro, edges_ms: EdgeCosts, count: int, seed: int, known: Collection[Network] = ()
) -> list[Architecture]:
    """Networks that minimise LAT: the cheapest candidate of every edge, then the same under jittered costs.

    Args:
        macro: the configuration of all of them.
        edges_ms: what each candidate costs on each edge, by cell type: a table's (`SearchCosts`), or `work`.
        count: how many.
        seed: of the jitter.
        known: networks to leave out: a table's own calibration networks prove nothing.

    Raises:
        UsageError: fewer than 1, or more than there are.
    """
    if count < 1 or seed < 0:
        raise UsageError(f"{count} minimisers of seed {seed}; expected at least 1 and a seed of at least 0.")
    rng = np.random.default_rng((seed, count))
    found: list[Architecture] = []
    jitter, fruitless = 0.0, 0
    while len(found) < count:
        choices = {c: _cheapest(c, macro.cell_nodes, edges_ms[c], jitter, rng) for c in CELL_TYPES}
        new = (architecture := Architecture(macro, choices)) not in (*found, *known)
        found += [architecture] * new
        jitter = JITTER
        fruitless = 0 if new else fruitless + 1
        if fruitless > FRUITLESS:
            raise UsageError(f"{count} networks that minimise LAT were asked for; {len(found)} were found.")
    return found


def _cheapest(
    cell_type: CellType, nodes: int, cell_ms: NDArray[np.float64], jitter: float, rng: np.random.Generator
) -> tuple[str, ...]:
    """The cheapest candidates; a node keeps at least its cheapest edge."""
    edges = cell_edges(cell_type, nodes)
    prices: list[dict[str, float]] = []
    for edge, costs_ms in zip(edges, cell_ms, strict=True):
        there = costs_ms[: len(edge.candidates)]
        noisy = there + jitter * there.std() * rng.standard_normal(len(there))
        prices.append(dict(zip(edge.candidates, noisy.tolist(), strict=True)))
    chosen = [min(candidates, key=lambda c: candidates[c]) for candidates in prices]
    for node in range(nodes):
        arriving = [i for i, edge in enumerate(edges) if edge.node == node]
        if all(chosen[i] == ZERO for i in arriving):
            options = [(prices[i][c] - prices[i][ZERO], i, c) for i in arriving for c in prices[i] if c != ZERO]
            _, index, chosen[index] = min(options)
    return tuple(chosen)
