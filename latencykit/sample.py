"""The seeded sampler of uniform architectures; validation, the edge costs and `nas sample` all draw from it."""

from __future__ import annotations

import numpy as np

from latencykit.errors import UsageError
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges


def sample_architectures(macro: Macro, count: int, seed: int) -> list[Architecture]:
    """Draw architectures uniformly from the space: each edge's candidates alike, nodes without an input drawn again.

    The n-th architecture depends on (macro, seed, n) alone, so a longer sample begins with the shorter one.

    Raises:
        UsageError: a count below 1 or a negative seed.
    """
    check_sample(count, seed)
    return [_draw_architecture(macro, np.random.default_rng((seed, index))) for index in range(count)]


def check_sample(count: int, seed: int) -> None:
    """Raise `UsageError` unless a number of networks and a seed can be drawn."""
    if count < 1 or seed < 0:
        raise UsageError(f"{count} networks of seed {seed}; expected at least 1 network and a seed of at least 0.")


def sparse_architectures(macro: Macro, count: int, seed: int) -> list[Architecture]:
    """Draw architectures with ever more `zero` edges: the light end of the space, where uniform draws hardly come.

    Of `count` networks the n-th has each edge deleted with probability (n + 1) / (count + 1), else drawn uniformly.
    """
    rngs = [np.random.default_rng((seed, index)) for index in range(count)]
    return [_draw_architecture(macro, rng, (index + 1) / (count + 1)) for index, rng in enumerate(rngs)]


def _draw_architecture(macro: Macro, rng: np.random.Generator, sparsity: float = 0.0) -> Architecture:
    """One architecture: each edge deleted with a probability where it may be, else drawn uniformly."""
    cells = {c: _sample_cell(c, macro.cell_nodes, rng, sparsity) for c in CELL_TYPES}
    return Architecture(macro, cells)


def _sample_cell(cell_type: CellType, nodes: int, rng: np.random.Generator, sparsity: float) -> tuple[str, ...]:
    edges = cell_edges(cell_type, nodes)
    chosen: list[str] = []
    for node in range(nodes):
        arriving = [edge for edge in edges if edge.node == node]
        while True:
            drawn = [edge.candidates[rng.integers(len(edge.candidates))] for edge in arriving]
            if sparsity:
                drawn = [
                    ZERO if rng.random() < sparsity and ZERO in edge.candidates else primitive
                    for edge, primitive in zip(arriving, drawn, strict=True)
                ]
            if any(primitive != ZERO for primitive in drawn):
                break
        chosen += drawn
    return tuple(chosen)
