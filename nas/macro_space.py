"""The macro choices of a search: input strides, widths, numbers of cells and nodes, of both networks of the pair."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.sample import draw_architecture
from latencykit.space import Architecture

SAMPLE_SEED = 30_000
Widths = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class MacroSpace:
    """Every combination of these is a macro configuration to choose; the names are those of `latencykit.macro.Macro`.

    A width for each level: as many widths as levels decide about the number of cells. Strides and widths around those
    of hand-made pairs that lie on the front of latency and Dice on real echo images.
    """

    segmentation_stride: tuple[int, ...] = (1, 2, 4, 8)
    segmentation_widths: Widths = ((4, 8, 16, 32), (8, 16, 32), (8, 16, 32, 64), (16, 16, 32, 64), (16, 32, 64))
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
        """A network of one of them, from dense to sparse."""
        return draw_architecture(self.macros[rng.integers(len(self.macros))], rng, sparsity=rng.uniform())

    def sample(self, count: int) -> list[Architecture]:
        """Networks whose kernels a table must know to price the others by: the same ones always."""
        rng = np.random.default_rng(SAMPLE_SEED)
        return [self.draw(rng) for _ in range(count)]

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
