"""`latencykit` graphs as torch modules: one interpreter for the supernet and for plain networks.

A node is computed only where something wanted depends on it, so a training step never makes the full-resolution maps
that only deployment needs, and either part of a pair runs without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from latencykit.builder import LOGITS
from latencykit.graph import Graph, Node
from latencykit.primitives import ZERO
from latencykit.space import CellType, Choice
from latencykit.spec import Add, AvgPool, Conv, ConvTranspose, MaxPool, Operation, Shape
from nas.operations import BatchNorm, ConvNorm, Linear, Normalise, operation_module

OUTPUTS = ("mask", "uncertainty", "dice")
SEGMENTATION_OUTPUTS = ("mask", "uncertainty", LOGITS)

Probabilities = Mapping[CellType, Tensor]
"""For each cell type, (edges, slots): the weight of each candidate on each edge."""


class MixedOp(nn.Module):
    """All candidates of an edge side by side, weighted by a row of probabilities (Eq. 1).

    Batch normalisation stands without affine parameters, so that a candidate's magnitude is its probability's alone,
    and after the pools too (decision 9). That after a pool is for searching only: it is no part of the derived,
    deployed network, where a pool is a pool.
    """

    def __init__(self, choice: Choice, shape: Shape) -> None:
        super().__init__()
        self.candidates = choice.candidates
        self.keeps_shape = choice.kind == "normal"
        self.paths = nn.ModuleDict(
            {name: _candidate(choice.operations(name), shape) for name in choice.candidates if name != ZERO}
        )

    def forward(self, x: Tensor, row: Tensor, weights: Sequence[float], auxiliary: float = 0.0) -> Tensor | None:
        """The weighted sum; None where no candidate but `zero` has a weight.

        Args:
            x: (n, c, h, w).
            row: (slots,) probabilities, which carry the gradient.
            weights: the same as numbers. A weight of exactly 0 costs nothing: a one-hot row runs one path.
            auxiliary: weight of an extra identity, which fades out while searching, on edges that keep the shape.
        """
        terms = [
            self.paths[name](x) if weights[slot] == 1 and not row.requires_grad else row[slot] * self.paths[name](x)
            for slot, name in enumerate(self.candidates)
            if name != ZERO and weights[slot] != 0
        ]
        if auxiliary and self.keeps_shape:
            terms.append(auxiliary * x)
        return sum(terms[1:], terms[0]) if terms else None


def _candidate(operations: tuple[Operation, ...], shape: Shape) -> nn.Module:
    modules: list[nn.Module] = []
    for operation in operations:
        if isinstance(operation, Conv | ConvTranspose):
            modules.append(ConvNorm(operation, shape[0], affine=False))
        else:
            modules.append(operation_module(operation, (shape,)))
        shape = operation.output_shape((shape,))
        if isinstance(operation, MaxPool | AvgPool):
            modules.append(BatchNorm(shape[0], affine=False))
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


class GraphModule(nn.Module):
    """A graph, plain or a template with `Choice` nodes, as a torch module.

    Attributes:
        graph: what is interpreted.
        operations: the module of every node by its name.
    """

    def __init__(self, graph: Graph, generator: torch.Generator) -> None:
        """Build all modules and initialise their weights from `generator` (He)."""
        super().__init__()
        self.graph = graph
        self.operations = nn.ModuleDict({node.name: _node_module(node, graph) for node in graph.nodes})
        self._plans: dict[tuple[frozenset[str], frozenset[str]], tuple[Node, ...]] = {}
        for module in self.modules():
            if isinstance(module, ConvNorm | Linear):
                module.initialise(generator)

    def forward(
        self,
        image: Tensor,
        wanted: Iterable[str] = OUTPUTS,
        probabilities: Probabilities | None = None,
        given: Mapping[str, Tensor] | None = None,
        auxiliary: float = 0.0,
    ) -> dict[str, Tensor]:
        """Compute what is wanted and nothing else.

        Args:
            image: the graph's first input, (n, 3, S, S) in [0, 1] for a pair.
            wanted: names of outputs or of nodes (`logits`).
            probabilities: for a template, the candidates' weights.
            given: values of nodes that are known already; nothing before them is computed.
            auxiliary: see `MixedOp`.
        """
        nodes = {name: self.graph.outputs.get(name, name) for name in wanted}
        values: dict[str, Tensor | None] = {next(iter(self.graph.inputs)): image, **(given or {})}
        weights = {cell_type: table.tolist() for cell_type, table in (probabilities or {}).items()}
        for node in self._plan(frozenset(nodes.values()), frozenset(given or ())):
            inputs = [values[name] for name in node.inputs]
            module = self.operations[node.name]
            match node.operation:
                case Choice(cell_type=cell_type, edge=edge):
                    source, table = inputs[0], (probabilities or {})[cell_type]
                    row = weights[cell_type][edge]
                    values[node.name] = None if source is None else module(source, table[edge], row, auxiliary)
                case Add():  # edges that contribute nothing make no tensor
                    terms = [term for term in inputs if term is not None]
                    values[node.name] = module(*terms) if terms else self._nothing(node, image)
                case _:
                    values[node.name] = None if inputs[0] is None else module(*inputs)
        return {name: values[node] for name, node in nodes.items()}  # type: ignore[misc]  # only edges can be None

    def _nothing(self, node: Node, image: Tensor) -> Tensor:
        return image.new_zeros((len(image), *self.graph.shapes[node.name]))

    def _plan(self, wanted: frozenset[str], given: frozenset[str]) -> tuple[Node, ...]:
        if (wanted, given) not in self._plans:
            needed = self._ancestors(wanted, given)
            self._plans[wanted, given] = tuple(node for node in self.graph.nodes if node.name in needed)
        return self._plans[wanted, given]

    def _ancestors(self, names: Iterable[str], given: frozenset[str] = frozenset()) -> set[str]:
        needed = set(names) - given
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(set(node.inputs) - given)
        return needed - set(self.graph.inputs)

    def _part(self, quality: bool) -> Iterator[Node]:
        segmentation = self._ancestors(self.graph.outputs.get(name, name) for name in SEGMENTATION_OUTPUTS)
        return (node for node in self.graph.nodes if (node.name not in segmentation) == quality)

    @property
    def boundary(self) -> tuple[str, ...]:
        """Nodes of the segmentation that the quality network reads."""
        quality = {node.name for node in self._part(quality=True)}
        read = {name for node in self._part(quality=True) for name in node.inputs}
        return tuple(sorted(read - quality - set(self.graph.inputs)))

    def segmentation_parameters(self) -> list[Parameter]:
        """Parameters of every node that mask, uncertainty or logits depend on."""
        return [p for node in self._part(quality=False) for p in self.operations[node.name].parameters()]

    def quality_parameters(self) -> list[Parameter]:
        """All other parameters."""
        return [p for node in self._part(quality=True) for p in self.operations[node.name].parameters()]

    def ignore(self, node: str, channels: Sequence[int]) -> None:
        """Hold the weights by which convolutions read these channels of a node at 0, now and in training."""
        if not channels:
            return

        def blind(weight: Tensor) -> Tensor:
            return weight.index_fill(1, torch.tensor(channels, device=weight.device), 0.0)

        for reader in self.graph.nodes:
            if node in reader.inputs:
                weight = self.operations[reader.name].get_parameter("conv.weight")
                with torch.no_grad():
                    weight.copy_(blind(weight))
                weight.register_hook(blind)

    def train_parts(self, segmentation: bool, quality: bool) -> None:
        """Put each part in training or evaluation mode, which decides about its batch statistics."""
        self.training = segmentation or quality
        for part, training in ((False, segmentation), (True, quality)):
            for node in self._part(part):
                self.operations[node.name].train(training)

    def set_statistics(self, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        """Set every `Normalise` to the data's mean and standard deviation per channel."""
        for module in self.operations.values():
            if isinstance(module, Normalise):
                module.set_statistics(*statistics)


def _node_module(node: Node, graph: Graph) -> nn.Module:
    if isinstance(node.operation, Choice):
        return MixedOp(node.operation, graph.input_shapes(node)[0])
    return operation_module(node.operation, graph.input_shapes(node))
