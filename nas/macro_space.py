"""The macro choices of a search: input strides, widths, numbers of cells and nodes, of both networks of the pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.sample import check_sample
from latencykit.space import CELL_TYPES, Architecture, CellType, Edge, cell_edges

SAMPLE_SEED = 30_000
FAMILIES = ("conv", "dilated_conv", "separable_conv", "none")
"""Of primitives, by what they compute; pools and the identity have nothing to learn."""
CHAINED = 0.7
"""How often the edge that a node keeps comes from the node before it, which makes deep cells of few operations."""
CONCENTRATION = 0.3
"""Of the Dirichlet distribution of a network's taste for each family: under 1, one or two make most of it."""
Widths = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class MacroSpace:
    """Every combination of these is a macro configuration to choose; the names are those of `latencykit.macro.Macro`.

    A width for each level: as many widths as levels decide about the number of cells. Strides and widths around those
    of hand-made pairs that lie on the front of latency and Dice on real echo images.
    """

    segmentation_stride: tuple[int, ...] = (1, 2, 4, 8)
    segmentation_widths: Widths = (
        (4, 8, 16, 32),
        (8, 16, 32),
        (8, 16, 32, 64),
        (16, 16, 32, 64),
        (16, 32, 64),
        (16, 32, 64, 128),
    )
    output_stride: tuple[int, ...] = (1, 2)
    cell_nodes: tuple[int, ...] = (1, 2, 3)
    quality_stride: tuple[int, ...] = (4, 8)
    quality_widths: Widths = ((8, 16, 32), (16, 32), (16, 32, 64))

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name):
                raise InputError(f"macros: {field.name} is empty; expected at least one.")
        if not self.macros:
            raise InputError("macros: none of the combinations is a macro configuration of the image size.")

    def draw(self, rng: np.random.Generator) -> Architecture:
        """A network of one of them, with a taste for some families of primitives and cells from dense to sparse.

        A uniform draw is a mixture of everything, which costs as much as cells of convolutions and learns less.
        """
        macro = self.macros[rng.integers(len(self.macros))]
        taste = dict(zip(FAMILIES, rng.dirichlet([CONCENTRATION] * len(FAMILIES)), strict=True))
        return Architecture(macro, {cell_type: _drawn_cell(cell_type, macro, taste, rng) for cell_type in CELL_TYPES})

    def mutated(self, network: Architecture, rng: np.random.Generator) -> Architecture:
        """A neighbour of a network: one choice changed, of the macro configuration or of an edge, half the times each.

        Macro configurations with the same number of nodes are neighbours where they differ in one field.
        """
        if rng.random() < 1 / 2 and (near := [macro for macro in self.macros if _one_apart(macro, network.macro)]):
            return replace(network, macro=near[rng.integers(len(near))])
        while True:
            cell_type = CELL_TYPES[rng.integers(len(CELL_TYPES))]
            edges, chosen = cell_edges(cell_type, network.macro.cell_nodes), list(network.choices[cell_type])
            index = int(rng.integers(len(edges)))
            others = [name for name in dict.fromkeys((*edges[index].candidates, ZERO)) if name != chosen[index]]
            chosen[index] = others[rng.integers(len(others))]
            with suppress(InputError):  # a node without an input
                return replace(network, choices={**network.choices, cell_type: tuple(chosen)})

    def sample(self, count: int, seed: int = SAMPLE_SEED) -> list[Architecture]:
        """Networks whose kernels a table must know to price the others by.

        Raises:
            UsageError: a count below 1 or a negative seed.
        """
        check_sample(count, seed)
        rng = np.random.default_rng(seed)
        return [self.draw(rng) for _ in range(count)]

    @cached_property
    def chains(self) -> tuple[Architecture, ...]:
        """What a hand would try: in each macro configuration cells that are a chain of convolutions, plain skips."""
        return tuple(Architecture(macro, {cell: _chain(cell, macro) for cell in CELL_TYPES}) for macro in self.macros)

    @cached_property
    def macros(self) -> tuple[Macro, ...]:
        """The combinations that are macro configurations, in order."""
        names = [field.name for field in fields(self)]
        combinations = itertools.product(*(getattr(self, name) for name in names))
        return tuple(macro for values in combinations if (macro := _macro(dict(zip(names, values, strict=True)))))


def _macro(values: dict[str, object]) -> Macro | None:
    """None where the image's size or the levels do not allow it."""
    try:
        return Macro(**values)  # type: ignore[arg-type]  # as MacroSpace declares them
    except InputError:
        return None


def _chain(cell_type: CellType, macro: Macro) -> tuple[str, ...]:
    """The first node from the last source by a convolution, and where there is a skip, from that; others from nodes."""
    edges = cell_edges(cell_type, macro.cell_nodes)
    first = [edge for edge in edges if edge.node == 0]
    convolutions = {"down": "down_conv", "up": "up_conv", "normal": "conv"}

    def primitive(edge: Edge) -> str:
        if edge.source == len(first) - 1 + edge.node:
            return convolutions[edge.kind]
        return "identity" if cell_type == "up" and edge in first else ZERO

    return tuple(primitive(edge) for edge in edges)


def _drawn_cell(
    cell_type: CellType, macro: Macro, taste: Mapping[str, float], rng: np.random.Generator
) -> tuple[str, ...]:
    """Primitives by taste; any edge may be deleted, as in derived cells, but one of each node's."""
    edges, sparsity = cell_edges(cell_type, macro.cell_nodes), rng.uniform()
    chosen = [_drawn_primitive(edge, taste, rng) for edge in edges]
    for node in range(macro.cell_nodes):
        arriving = [index for index, edge in enumerate(edges) if edge.node == node]
        kept = arriving[-1] if rng.random() < CHAINED else arriving[rng.integers(len(arriving))]
        for index in arriving:
            if index != kept and rng.random() < sparsity:
                chosen[index] = ZERO
    return tuple(chosen)


def _drawn_primitive(edge: Edge, taste: Mapping[str, float], rng: np.random.Generator) -> str:
    members: dict[str, list[str]] = {}
    for primitive in edge.candidates:
        if primitive != ZERO:
            plain = primitive.removeprefix("down_").removeprefix("up_")
            members.setdefault(plain if plain in FAMILIES else "none", []).append(primitive)
    weights = np.array([taste[family] for family in members])
    chosen = [*members.values()][rng.choice(len(members), p=weights / weights.sum())]
    return chosen[rng.integers(len(chosen))]


def _one_apart(macro: Macro, other: Macro) -> bool:
    differing = [one.name for one in fields(Macro) if getattr(macro, one.name) != getattr(other, one.name)]
    return len(differing) == 1 and differing != ["cell_nodes"]
