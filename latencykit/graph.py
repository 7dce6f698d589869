"""A network as an immutable graph of operations, in topological order, with every shape known.

`nas` interprets such a graph as torch modules, `latencykit.lowering` turns it into ONNX, the table prices it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from latencykit.bounds import MAX_ELEMENTS, MAX_NODES, require_at_most, require_dims
from latencykit.errors import InputError
from latencykit.schema import decode, naming
from latencykit.spec import Operation, Shape, operation_from_json, operation_to_json

GRAPH_SCHEMA = 1


@dataclass(frozen=True)
class Node:
    """One operation in a network.

    Attributes:
        name: unique, path-like (`segmentation/down1/edge0/conv`).
        operation: what it does.
        inputs: names of nodes or graph inputs.
        role: why it is there: `edge`, `stem`, `preprocess`, `sum`, `head`, ...
        fragment: nodes of one fragment are one primitive (a separable convolution is two nodes); "" means alone.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    role: str
    fragment: str = ""


@dataclass(frozen=True)
class Graph:
    """A whole network.

    Attributes:
        inputs: shape of each graph input by name.
        nodes: in topological order.
        outputs: output name to node name.
        metadata: facts about its origin, strings.

    Raises:
        InputError: a name twice or unknown, an input count or shape that does not fit, no output, or one that is not
            a node of its own; more than `latencykit.bounds` allows.
    """

    inputs: Mapping[str, Shape]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, shape in self.inputs.items():
            require_dims(f"the graph's input {name!r}", shape)
        require_at_most("the number of a graph's nodes", len(self.nodes), MAX_NODES)
        if not self.outputs:
            raise InputError("graph: it has no output.")
        for output, node in self.outputs.items():
            if node not in self.shapes or node in self.inputs:
                raise InputError(f"graph output {output} <- {node} names no node.")
            if output != node and output in self.shapes:
                raise InputError(f"graph output {output} <- {node} bears another node's name.")
        if len(set(self.outputs.values())) < len(self.outputs):
            raise InputError(f"graph: two outputs name one node: {dict(self.outputs)}.")

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every graph input and node by name."""
        shapes = dict(self.inputs)
        for node in self.nodes:
            if node.name in shapes:
                raise InputError(f"graph: the name {node.name!r} stands twice.")
            if unknown := [name for name in node.inputs if name not in shapes]:
                raise InputError(f"graph: {node.name!r} reads {unknown[0]!r}, which does not come before it.")
            arity = node.operation.arity
            if len(node.inputs) < 2 if arity is None else len(node.inputs) != arity:
                expected = "two or more" if arity is None else arity
                raise InputError(f"graph: {node.name!r} has {len(node.inputs)} inputs; expected {expected}.")
            shapes[node.name] = node.operation.output_shape(tuple(shapes[name] for name in node.inputs))
            if min(shapes[node.name]) < 1:
                raise InputError(
                    f"graph: {node.name!r} has the empty shape {shapes[node.name]}; the image is too small."
                )
            if math.prod(shapes[node.name]) > MAX_ELEMENTS:
                require_dims(f"the graph's node {node.name!r}", shapes[node.name])
        return shapes

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    def input_shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of a node's inputs."""
        return tuple(self.shapes[name] for name in node.inputs)

    @cached_property
    def macs(self) -> int:
        """True multiply-accumulates of one frame."""
        return sum(node.operation.macs(self.input_shapes(node)) for node in self.nodes)

    @cached_property
    def parameters(self) -> int:
        """Deployed parameters."""
        return sum(node.operation.parameters(self.input_shapes(node)) for node in self.nodes)

    @cached_property
    def moved_bytes(self) -> int:
        """Bytes that all operations read and write, each tensor counted at each use."""
        return sum(node.operation.moved_bytes(self.input_shapes(node)) for node in self.nodes)

    def fragments(self) -> Iterator[tuple[tuple[Operation, ...], tuple[Shape, ...], tuple[str, ...]]]:
        """The primitives: chained operations, the shapes that enter the first, and the node names."""
        for group in _grouped(self.nodes):
            yield (
                tuple(node.operation for node in group),
                self.input_shapes(group[0]),
                tuple(node.name for node in group),
            )


def _grouped(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    group: list[Node] = []
    for node in nodes:
        if group and (not node.fragment or node.fragment != group[0].fragment):
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def chain(operations: Sequence[Operation], inputs: Sequence[Shape]) -> Graph:
    """A graph of one fragment: the first operation takes all inputs, each further one its predecessor.

    Raises:
        InputError: no operation, or one that does not fit what enters it.
    """
    if not operations:
        raise InputError("graph: a chain of no operation.")
    names = [f"input{i}" for i in range(len(inputs))]
    nodes: list[Node] = []
    for index, operation in enumerate(operations):
        sources = (nodes[-1].name,) if nodes else tuple(names)
        nodes.append(Node(f"op{index}", operation, sources, "edge", "chain"))
    return Graph(dict(zip(names, inputs, strict=True)), tuple(nodes), {"output": nodes[-1].name})


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """A graph as JSON data; `graph_from_json` reads it back."""
    return {
        "schema": GRAPH_SCHEMA,
        "inputs": {name: list(shape) for name, shape in graph.inputs.items()},
        "nodes": [
            {"name": n.name, "operation": operation_to_json(n.operation), "inputs": list(n.inputs), "role": n.role}
            | ({"fragment": n.fragment} if n.fragment else {})
            for n in graph.nodes
        ],
        "outputs": dict(graph.outputs),
        "metadata": dict(graph.metadata),
    }


def graph_from_json(data: Any, where: str) -> Graph:
    """The graph that JSON data describes; raises `InputError` naming `where`."""
    if not isinstance(data, dict) or data.get("schema") != GRAPH_SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{where}: graph schema {GRAPH_SCHEMA} expected, found {found!r}.")
    parts = decode(_GraphFile, {key: value for key, value in data.items() if key != "schema"}, where)
    with naming(where):
        nodes = tuple(Node(n.name, operation_from_json(n.operation), n.inputs, n.role, n.fragment) for n in parts.nodes)
        return Graph(parts.inputs, nodes, parts.outputs, parts.metadata)


@dataclass(frozen=True)
class _NodeFile:
    name: str
    operation: dict[str, Any]
    inputs: tuple[str, ...]
    role: str
    fragment: str = ""


@dataclass(frozen=True)
class _GraphFile:
    inputs: dict[str, Shape]
    nodes: tuple[_NodeFile, ...]
    outputs: dict[str, str]
    metadata: dict[str, str]
