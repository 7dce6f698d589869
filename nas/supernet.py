"""The architecture parameters: one table of logits per cell type (decision 12), apart from every weight.

A supernet is a `GraphModule` of a template; this is the other half of what a search trains.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges
from nas.randomness import Stream, numpy_generator

INITIAL_DEVIATION = 1e-3
"""Standard deviation of the initial logits: all candidates alike, ties broken (DARTS)."""


class ArchitectureParameters(nn.Module):
    """Logits of every candidate on every edge, (edges, slots) a cell type; unused slots have probability 0.

    Attributes:
        tables: the parameters by cell type.
    """

    def __init__(self, cell_nodes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.tables = nn.ParameterDict()
        for cell_type in CELL_TYPES:
            counts = torch.tensor([len(edge.candidates) for edge in cell_edges(cell_type, cell_nodes)])
            slots = torch.arange(SLOTS)
            self.register_buffer(_unused(cell_type), slots[None, :] >= counts[:, None], persistent=False)
            self.tables[cell_type] = INITIAL_DEVIATION * torch.randn(len(counts), SLOTS, generator=generator)

    def logits(self, cell_type: CellType) -> Tensor:
        """(edges, slots), minus infinity in unused slots."""
        return self.tables[cell_type].masked_fill(self.get_buffer(_unused(cell_type)), -math.inf)

    def softmax(self) -> dict[CellType, Tensor]:
        """Eq. 2, which is also the chance that Gumbel noise picks a candidate, at any temperature."""
        return {cell_type: self.logits(cell_type).softmax(1) for cell_type in CELL_TYPES}

    def gumbel_softmax(
        self, temperature: float, generator: torch.Generator, hard: bool = False
    ) -> dict[CellType, Tensor]:
        """GS(alpha): a sample that becomes a choice as the temperature falls.

        Args:
            temperature: above 0.
            generator: of the noise.
            hard: one-hot in value and soft in gradient, so that one path runs per edge.
        """
        sample: dict[CellType, Tensor] = {}
        for cell_type in CELL_TYPES:
            logits = self.logits(cell_type)
            noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
            soft = ((logits + noise.to(logits)) / temperature).softmax(1)
            if hard:
                chosen = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
                sample[cell_type] = chosen + (soft - soft.detach())
            else:
                sample[cell_type] = soft
        return sample

    def entropy(self) -> dict[CellType, float]:
        """Mean entropy of a cell type's edges: 1 where all candidates are alike, 0 where each edge has decided."""
        result: dict[CellType, float] = {}
        for cell_type, table in self.softmax().items():
            used = (~self.get_buffer(_unused(cell_type))).sum(1)
            per_edge = torch.special.entr(table.detach()).sum(1) / used.log()
            result[cell_type] = float(per_edge.mean())
        return result

    def strongest(self) -> dict[CellType, list[int]]:
        """The slot of the most probable candidate on every edge."""
        return {cell_type: self.logits(cell_type).argmax(1).tolist() for cell_type in CELL_TYPES}


def one_hot(architecture: Architecture) -> dict[CellType, Tensor]:
    """An architecture as probabilities, (edges, slots) a cell type; a row of zeros where an edge is deleted."""
    chosen: dict[CellType, Tensor] = {}
    for cell_type, primitives in architecture.choices.items():
        chosen[cell_type] = torch.zeros(len(primitives), SLOTS)
        for index, edge in enumerate(cell_edges(cell_type, architecture.macro.cell_nodes)):
            if primitives[index] in edge.candidates:
                chosen[cell_type][index, edge.candidates.index(primitives[index])] = 1
    return chosen


def fair_paths(cell_nodes: int, seed: int, position: tuple[int, int], step: int) -> dict[CellType, Tensor]:
    """One candidate an edge, (edges, slots) one-hot: in K steps on end each of an edge's K candidates runs once.

    So no candidate's weights starve, whatever the architecture parameters prefer (FairNAS, Chu et al., ICCV 2021).

    Args:
        cell_nodes: nodes of a cell.
        seed: of the run.
        position: epoch, and kind of step.
        step: in the epoch.
    """
    chosen: dict[CellType, Tensor] = {}
    for place, cell_type in enumerate(CELL_TYPES):
        edges = cell_edges(cell_type, cell_nodes)
        chosen[cell_type] = torch.zeros(len(edges), SLOTS)
        for index, edge in enumerate(edges):
            turn, within = divmod(step, len(edge.candidates))
            rng = numpy_generator(seed, Stream.FAIR_PATHS, *position, place, index, turn)
            chosen[cell_type][index, rng.permutation(len(edge.candidates))[within]] = 1
    return chosen


SLOTS = max(len(edge.candidates) for cell_type in CELL_TYPES for edge in cell_edges(cell_type, 1))
"""Columns of a table: the largest number of candidates on any edge."""


def _unused(cell_type: CellType) -> str:
    return f"unused_{cell_type}"
