"""An ONNX model opened for rewriting, and convolutions in it as weights with a geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Convolution:
    """A convolution, plain or transposed, and the ReLU that alone reads it.

    Attributes:
        source, output: the tensor that it reads, and the one behind its ReLU.
        weight: as ONNX lays it out, (out, in / groups, k, k), or transposed (in, out / groups, k, k).
        pads: rows and columns of zeros above, left, below, right; of a transposed one those that are cut.
    """

    node: onnx.NodeProto
    relu: onnx.NodeProto | None
    source: str
    output: str
    weight: Array
    bias: Array | None
    stride: int
    dilation: int
    pads: tuple[int, int, int, int]
    groups: int

    @property
    def transposed(self) -> bool:
        """Whether it is a `ConvTranspose`."""
        return bool(self.node.op_type == "ConvTranspose")

    @property
    def kernel(self) -> int:
        """Side of the kernel, taps."""
        return int(self.weight.shape[-1])

    @property
    def out_channels(self) -> int:
        """Channels written."""
        return int(self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0])

    @property
    def dense(self) -> Array:
        """The weight as (out, in, k, k) of one group."""
        first, second = self.weight.shape[0] // self.groups, self.weight.shape[1]
        full = np.zeros((self.weight.shape[0], second * self.groups, *self.weight.shape[2:]), np.float32)
        for group in range(self.groups):
            rows = slice(group * first, (group + 1) * first)
            full[rows, group * second : (group + 1) * second] = self.weight[rows]
        return full.swapaxes(0, 1) if self.transposed else full


class Editable:
    """A model's nodes by their first output, its constants and shapes; `finish` makes a model of them again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.nodes: dict[str, onnx.NodeProto] = {node.output[0]: node for node in model.graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        self.outputs = {value.name for value in model.graph.output}

    def of_kind(self, *kinds: str) -> list[onnx.NodeProto]:
        """Nodes of these operations, in order."""
        return [node for node in self.nodes.values() if node.op_type in kinds]

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes.values() if tensor in node.input]

    def only_reader(self, tensor: str, *kinds: str) -> onnx.NodeProto | None:
        """The node of one of these kinds that alone reads a tensor which is no output; None where there is none."""
        readers = self.readers(tensor)
        alone = len(readers) == 1 and tensor not in self.outputs
        return readers[0] if alone and readers[0].op_type in kinds else None

    def convolutions(self, *kinds: str) -> list[Convolution]:
        """All convolutions, or those of one kind."""
        return [self.convolution(node) for node in self.of_kind(*(kinds or ("Conv", "ConvTranspose")))]

    def convolution(self, node: onnx.NodeProto) -> Convolution:
        """A node as a convolution; its strides, dilations and kernel are those of a square."""
        found = attributes(node)
        relu = self.only_reader(node.output[0], "Relu")
        return Convolution(
            node=node,
            relu=relu,
            source=node.input[0],
            output=(relu or node).output[0],
            weight=self.constants[node.input[1]],
            bias=self.constants[node.input[2]] if len(node.input) > 2 else None,
            stride=found["strides"][0],
            dilation=found["dilations"][0],
            pads=tuple(found["pads"]),
            groups=found["group"],
        )

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.constants[name] = value
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **facts: Any) -> str:
        """Add a node and return its output's name."""
        self.nodes[output] = helper.make_node(kind, list(inputs), [output], name=output, **facts)
        return output

    def split(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add a `Split` along the channels; `inputs` are the tensor and the sizes."""
        self.nodes[outputs[0]] = helper.make_node("Split", list(inputs), list(outputs), name=outputs[0], axis=1)

    def remove(self, *nodes: onnx.NodeProto | None) -> None:
        """Delete nodes."""
        for node in nodes:
            if node is not None:
                del self.nodes[node.output[0]]

    def conv(
        self,
        source: str,
        weight: Array,
        bias: Array | None,
        output: str,
        *,
        relu: bool,
        stride: int = 1,
        dilation: int = 1,
        pads: Sequence[int] = (0, 0, 0, 0),
        groups: int = 1,
    ) -> str:
        """Add a convolution and its ReLU; return its output's name."""
        linear = f"{output}/linear" if relu else output
        inputs = [source, self.constant(f"{output}.weight", np.ascontiguousarray(weight, np.float32))]
        if bias is not None:
            inputs.append(self.constant(f"{output}.bias", np.ascontiguousarray(bias, np.float32)))
        facts = {"kernel_shape": weight.shape[2:], "strides": [stride] * 2, "dilations": [dilation] * 2}
        self.op("Conv", inputs, linear, pads=list(pads), group=groups, **facts)
        return self.op("Relu", [linear], output) if relu else output

    def finish(self) -> onnx.ModelProto:
        """The model: nodes in topological order, without those that nothing reads and without metadata.

        Raises:
            ValueError: nodes read what no node writes.
        """
        needed, todo = set(), list(self.outputs)
        writers = {output: node for node in self.nodes.values() for output in node.output}
        while todo:
            node = writers.get(todo.pop())
            if node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                todo += node.input
        waiting = [node for node in self.nodes.values() if node.output[0] in needed]
        ready = {"", *self.constants, *(value.name for value in self._model.graph.input)}
        order: list[onnx.NodeProto] = []
        while waiting:
            before = len(order)
            for node in waiting:
                if ready.issuperset(node.input):
                    order.append(node)
                    ready.update(node.output)
            if len(order) == before:
                raise ValueError(f"rewritten model: {waiting[0].name} reads {set(waiting[0].input) - ready}.")
            waiting = [node for node in waiting if not ready.issuperset(node.output)]
        read = {name for node in order for name in node.input}
        constants = [numpy_helper.from_array(v, name) for name, v in self.constants.items() if name in read]
        graph = helper.make_graph(order, "rewritten", self._model.graph.input, self._model.graph.output, constants)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
