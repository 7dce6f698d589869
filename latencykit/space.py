"""The paper's search space: wiring, choices, and the way from an architecture to a plain graph.

A macro configuration expands to a *template*, a graph in which every searched edge is a `Choice` node. An architecture
picks one candidate per edge and cell type; the choices are shared by all cells of a type (decision 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, get_args

from latencykit.builder import (
    IMAGE,
    GraphBuilder,
    finish_pair,
    pooled_image,
    quality_input,
    quality_output,
    segmentation_head,
)
from latencykit.errors import InputError
from latencykit.graph import Graph, Node
from latencykit.macro import Macro
from latencykit.primitives import PRIMITIVES, ZERO, EdgeKind, primitive_operations
from latencykit.spec import Activation, Add, Conv, Identity, Operation, Relu, Shape

CellType = Literal["down", "up", "contracting", "non_scaling"]
CELL_TYPES: tuple[CellType, ...] = get_args(CellType)

_INPUT_KINDS: Mapping[CellType, tuple[EdgeKind, ...]] = {
    "down": ("down", "down"),
    "up": ("normal", "up"),
    "contracting": ("down",),
    "non_scaling": ("normal",),
}
"""Edge kind of each cell input s0, s1 (decision 2); edges between nodes are normal."""


@dataclass(frozen=True)
class Edge:
    """One searched edge of a cell: from a source (the cell's inputs, then its nodes) to a node."""

    source: int
    node: int
    kind: EdgeKind

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the primitives to choose from (Table I)."""
        return PRIMITIVES[self.kind]


@cache
def cell_edges(cell_type: CellType, nodes: int) -> tuple[Edge, ...]:
    """The searched edges of a cell, node by node: 9 or, with a single input, 6 for 3 nodes (decision 1)."""
    kinds = _INPUT_KINDS[cell_type]
    return tuple(
        Edge(source, node, kinds[source] if source < len(kinds) else "normal")
        for node in range(nodes)
        for source in range(len(kinds) + node)
    )


def source_name(cell_type: CellType, source: int) -> str:
    """How figures and messages name an edge's source: s0, s1, then node 0, 1, ..."""
    inputs = len(_INPUT_KINDS[cell_type])
    if source >= inputs:
        return f"node{source - inputs}"
    return f"s{source}" if inputs > 1 else "s"


@dataclass(frozen=True)
class Choice(Operation):
    """A searched edge in a template; becomes one of its candidates, or a mixed operation while searching."""

    cell: int
    cell_type: CellType
    edge: int
    kind: EdgeKind
    channels: int
    activation: Activation

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the primitives to choose from."""
        return PRIMITIVES[self.kind]

    def operations(self, primitive: str) -> tuple[Operation, ...]:
        """The operations of one candidate on this edge."""
        return primitive_operations(primitive, self.channels, self.activation)

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        shape = inputs[0]
        for operation in self.operations(self.candidates[0]):
            shape = operation.output_shape((shape,))
        return shape


@dataclass(frozen=True)
class Architecture:
    """One network pair of the space: a macro configuration and a primitive for every edge of every cell type.

    Any edge may also be `zero`, which deletes it; every node keeps at least one edge.

    Raises:
        InputError: a cell type missing, a wrong number of edges, an unknown candidate, a node without an input.
    """

    macro: Macro
    choices: Mapping[CellType, tuple[str, ...]]

    def __post_init__(self) -> None:
        if set(self.choices) != set(CELL_TYPES):
            raise InputError(f"architecture: choices for {', '.join(CELL_TYPES)} expected, got {sorted(self.choices)}.")
        for cell_type in CELL_TYPES:
            edges, chosen = cell_edges(cell_type, self.macro.cell_nodes), self.choices[cell_type]
            if len(chosen) != len(edges):
                raise InputError(f"architecture: {cell_type} has {len(chosen)} choices; expected {len(edges)}.")
            for index, (edge, primitive) in enumerate(zip(edges, chosen, strict=True)):
                if primitive not in (*edge.candidates, ZERO):
                    known = ", ".join(edge.candidates)
                    raise InputError(
                        f"architecture: {cell_type} edge {index} is {primitive!r}; expected one of {known}."
                    )
            for node in range(self.macro.cell_nodes):
                if all(p == ZERO for e, p in zip(edges, chosen, strict=True) if e.node == node):
                    raise InputError(
                        f"architecture: {cell_type} node {node} has no input; keep one edge that is not zero."
                    )


@lru_cache(maxsize=16)
def template(macro: Macro) -> Graph:
    """The space under a macro configuration as a graph with `Choice` nodes (decisions 2-6, 8, 14)."""
    builder = GraphBuilder({IMAGE: (3, macro.image_size, macro.image_size)})
    widths = macro.segmentation_widths
    image = pooled_image(builder, "segmentation", macro.segmentation_stride)
    levels = [builder.add("segmentation/stem0", Conv(widths[0], 1), image, role="stem")]
    levels.append(builder.add("segmentation/stem1", Conv(widths[1], 3, stride=2), levels[0], role="stem"))
    cells = _Cells(builder, macro)
    for level in range(2, len(widths)):
        levels.append(
            cells.add("down", f"segmentation/down{level - 1}", (levels[-2], levels[-1]), widths[level], (2, 1))
        )
    below = levels[-1]
    for index, level in enumerate(range(len(widths) - 2, macro.output_level - 1, -1)):
        below = cells.add("up", f"segmentation/up{index + 1}", (levels[level], below), widths[level], (1, 1))

    maps = segmentation_head(builder, below, macro.logit_stride, macro.head, macro.uncertainty)
    if macro.quality_stride != macro.segmentation_stride:
        image = pooled_image(builder, "quality", macro.quality_stride)
    joined = quality_input(builder, image, maps, macro.quality_stride)
    features = builder.add("quality/stem", Conv(macro.quality_widths[0], 3, stride=2), joined, role="stem")
    for index, width in enumerate(macro.quality_widths[1:], start=1):
        features = cells.add("contracting", f"quality/contracting{index}", (features,), width, (1,))
        features = cells.add("non_scaling", f"quality/non_scaling{index}", (features,), width, (1,))
    return finish_pair(builder, maps, quality_output(builder, features), {"space": "paper"})


class _Cells:
    """Adds cells to a builder, numbering those of each type."""

    def __init__(self, builder: GraphBuilder, macro: Macro) -> None:
        self._builder, self._macro = builder, macro
        self._counts = dict.fromkeys(CELL_TYPES, 0)

    def add(
        self, cell_type: CellType, name: str, inputs: tuple[str, ...], width: int, input_strides: tuple[int, ...]
    ) -> str:
        """A cell: 1x1 preprocessing, searched edges, sums, and for the quality network a residual (decision 14)."""
        builder, after_node = self._builder, self._macro.activation_place == "node"
        activation: Activation = "none" if after_node else "relu"
        sources = [
            builder.add(f"{name}/s{i}", Conv(width, 1, stride=stride), source, role="preprocess")
            for i, (source, stride) in enumerate(zip(inputs, input_strides, strict=True))
        ]
        cell = self._counts[cell_type]
        self._counts[cell_type] += 1
        edges = cell_edges(cell_type, self._macro.cell_nodes)
        first_node = len(sources)
        for node in range(self._macro.cell_nodes):
            arriving = [
                builder.add(
                    f"{name}/edge{index}",
                    Choice(cell, cell_type, index, edge.kind, width, activation),
                    sources[edge.source],
                    role="edge",
                )
                for index, edge in enumerate(edges)
                if edge.node == node
            ]
            sources.append(builder.sum(f"{name}/node{node}", arriving, "sum", "relu" if after_node else "none"))
        terms = sources[first_node:]
        if cell_type == "contracting":
            residual = Conv(width, 1, stride=2, activation="none")
            terms.append(builder.add(f"{name}/residual", residual, sources[0], role="residual"))
        elif cell_type == "non_scaling":
            terms.append(sources[0])
        return builder.sum(f"{name}/output", terms, role="sum")


def instantiate(architecture: Architecture) -> Graph:
    """The plain graph of an architecture: choices replaced, deleted and identity edges gone."""
    plan = template(architecture.macro)
    builder = GraphBuilder(plan.inputs)
    alias: dict[str, str | None] = {name: name for name in plan.inputs}
    for node in plan.nodes:
        inputs = [source for name in node.inputs if (source := alias[name]) is not None]
        match node.operation:
            case Choice() as choice:
                alias[node.name] = _edge(builder, node, choice, inputs, architecture)
            case Add(activation):
                alias[node.name] = builder.sum(node.name, inputs, node.role, activation)
            case Relu():
                alias[node.name] = builder.sum(node.name, inputs, node.role, "relu")
            case operation:
                alias[node.name] = builder.add(node.name, operation, *inputs, role=node.role)
    outputs = {name: alias[node] or node for name, node in plan.outputs.items()}
    return builder.build(outputs, plan.metadata)


def _edge(builder: GraphBuilder, node: Node, choice: Choice, inputs: list[str], arch: Architecture) -> str | None:
    primitive = arch.choices[choice.cell_type][choice.edge]
    operations = choice.operations(primitive)
    if primitive == ZERO or not inputs:
        return None
    if operations == (Identity(),):
        return inputs[0]
    return builder.chain(node.name, operations, inputs[0], node.role)
