"""The one way from a graph to ONNX, and back: what is priced, validated, sampled and deployed is the same file.

Batch normalisation is folded before (weights are the deployed ones); the graph travels inside as metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latencykit.architecture import Network, network_graph
from latencykit.bounds import MAX_PARAMETERS, require_at_most
from latencykit.errors import InputError
from latencykit.graph import Graph, Node, graph_from_json, graph_to_json
from latencykit.schema import naming, parse_json
from latencykit.spec import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Entropy,
    GlobalAveragePool,
    Identity,
    LeastConfidence,
    Linear,
    MaxPool,
    Normalise,
    Operation,
    Relu,
    Resize,
    Sigmoid,
    Softmax,
)

GRAPH_KEY = "latencykit.graph"
MAX_GRAPH_BYTES = 10_000_000
OPSET = 17
IR_VERSION = 8
"""The oldest that opset 17 allows, so that older runtimes on devices read the files."""

Weights = Mapping[str, NDArray[np.float32]]
"""Deployed weights, named `<node>.<weight>`."""


def graph_to_onnx(graph: Graph, weights: Weights | None = None, seed: int = 0) -> onnx.ModelProto:
    """Lower a graph to ONNX.

    Args:
        graph: a plain graph, without choices and without `Zero`.
        weights: every weight of the graph, float32; None fills in random ones that keep the variance, since
            denormal or exploding values would change the latency (`random_weights`).
        seed: of the random weights.

    Raises:
        InputError: a weight is missing, unknown or of another shape, an operation has no ONNX form, or there are more
            than `MAX_PARAMETERS`.
    """
    require_at_most("the number of a network's parameters", graph.parameters, MAX_PARAMETERS)
    if weights is None:
        weights = random_weights(graph, seed)
    _check_weights(graph, weights)
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.write(node)
    for name in weight_shapes(graph):  # in the graph's order, whatever the mapping's: equal models, equal bytes
        writer.constant(name, weights[name])
    proto = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, *shape]) for n, shape in graph.inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, writer.dims(node)) for n, node in graph.outputs.items()],
        list(writer.initializers.values()),
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="latencykit",
    )
    helper.set_model_props(model, {GRAPH_KEY: json.dumps(graph_to_json(graph), separators=(",", ":"))})
    return model


def onnx_to_graph(model: onnx.ModelProto | bytes, where: str) -> tuple[Graph, dict[str, NDArray[np.float32]]]:
    """Graph and weights of a model that `graph_to_onnx` wrote; lowered again they give the same model.

    Bytes from outside go through `latencykit.outside.check_outside` first.

    Raises:
        InputError: the model carries no graph, or one that does not fit its weights; `where` names the file.
    """
    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    text = next((p.value for p in model.metadata_props if p.key == GRAPH_KEY), None)
    if text is None:
        raise InputError(f"{where} carries no {GRAPH_KEY} metadata; it was not written by latencykit.")
    require_at_most(f"{where}: the length of its {GRAPH_KEY} metadata", len(text), MAX_GRAPH_BYTES)
    graph = graph_from_json(parse_json(text.encode(), f"{where}: its {GRAPH_KEY} metadata"), where)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    with naming(where):
        try:
            weights = {n: numpy_helper.to_array(tensors[n]).copy() for n in weight_shapes(graph) if n in tensors}
        except (TypeError, ValueError) as error:  # a tensor whose bytes do not fit its shape
            raise InputError(f"its weights are damaged: {error}") from error
        _check_weights(graph, weights)
    return graph, weights


def network_onnx(network: Network) -> bytes:
    """The ONNX of a pair with random weights."""
    return bytes(graph_to_onnx(network_graph(network)).SerializeToString())


def weight_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Name and shape of every deployed weight."""
    return {
        f"{node.name}.{name}": shape
        for node in graph.nodes
        for name, shape in node.operation.weight_shapes(graph.input_shapes(node)).items()
    }


def random_weights(graph: Graph, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights that keep activations near unit scale through the whole network: neither denormal nor infinite.

    Terms of a sum are taken as independent, so the scale drifts: up to some hundreds in networks of the paper's size.
    """
    scales = dict.fromkeys(graph.inputs, 1.0)
    weights: dict[str, NDArray[np.float32]] = {}
    for index, node in enumerate(graph.nodes):
        rng = np.random.default_rng((seed, index))
        inputs = [scales[name] for name in node.inputs]
        scales[node.name] = math.hypot(*inputs) if isinstance(node.operation, Add) else max(inputs)
        shapes = node.operation.weight_shapes(graph.input_shapes(node))
        if "weight" in shapes:
            shape = graph.input_shapes(node)[0]
            fan_in = node.operation.macs((shape,)) / math.prod(graph.shapes[node.name])
            deviation = math.sqrt(2 / max(fan_in, 1)) / inputs[0]
            weights[f"{node.name}.weight"] = rng.standard_normal(shapes["weight"], np.float32) * np.float32(deviation)
            scales[node.name] = 1.0
        if "bias" in shapes:
            weights[f"{node.name}.bias"] = rng.standard_normal(shapes["bias"], np.float32) * np.float32(0.01)
        if isinstance(node.operation, Normalise):  # uniform pixels in [0, 1] to zero mean, unit variance
            weights[f"{node.name}.scale"] = np.full(shapes["scale"], math.sqrt(12), np.float32)
            weights[f"{node.name}.shift"] = np.full(shapes["shift"], -math.sqrt(3), np.float32)
    return weights


def _check_weights(graph: Graph, weights: Weights) -> None:
    expected = weight_shapes(graph)
    if missing := sorted(expected.keys() - weights.keys()):
        raise InputError(f"weights: {missing[0]!r} is missing ({len(missing)} in all).")
    if extra := sorted(weights.keys() - expected.keys()):
        raise InputError(f"weights: {extra[0]!r} belongs to no node ({len(extra)} in all).")
    for name, shape in expected.items():
        if weights[name].shape != shape or weights[name].dtype != np.float32:
            found = f"{weights[name].dtype} {weights[name].shape}"
            raise InputError(f"weights: {name!r} is {found}; expected float32 {shape}.")


class _Writer:
    """Appends ONNX nodes; a graph node may become several."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._tensor = {name: name for name in graph.inputs} | {node.name: node.name for node in graph.nodes}
        self._tensor |= {node: output for output, node in graph.outputs.items()}
        self._flat: set[str] = set()

    def dims(self, node: str) -> list[int]:
        """ONNX shape of a node's output: rank 2 behind a fully connected layer, else 4."""
        shape = self.graph.shapes[node]
        return [1, shape[0]] if node in self._flat else [1, *shape]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add an initializer once and return its name."""
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def write(self, node: Node) -> None:
        """Append the nodes of one operation."""
        handler = _HANDLERS.get(type(node.operation))
        if handler is None:
            raise InputError(f"{node.name}: {node.operation} has no ONNX form; choices and zeros are resolved before.")
        if isinstance(node.operation, Linear):
            self._flat.add(node.name)
        elif not self._flat.isdisjoint(node.inputs):
            if not (isinstance(node.operation, _ANY_RANK) and self._flat.issuperset(node.inputs)):
                raise InputError(f"{node.name}: {node.operation} cannot read what a fully connected layer gives.")
            self._flat.add(node.name)
        handler(self, node, [self._tensor[name] for name in node.inputs], self._tensor[node.name])

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append one ONNX node and return its output's name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def activated(self, output: str, activation: Activation, emit: Callable[[str], str]) -> None:
        """Emit an operation, followed by its activation where it has one."""
        if activation == "none":
            emit(output)
        else:
            self.op("Relu", [emit(f"{output}/linear")], output)


_ANY_RANK = (Add, Concat, Entropy, Identity, LeastConfidence, Relu, Sigmoid, Softmax)

_Handler = Callable[[_Writer, Node, list[str], str], object]


def _conv(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    operation = node.operation
    assert isinstance(operation, Conv | ConvTranspose)
    names = operation.weight_shapes(writer.graph.input_shapes(node))
    attributes: dict[str, Any] = {
        "kernel_shape": [operation.kernel] * 2,
        "strides": [operation.stride] * 2,
        "dilations": [operation.dilation] * 2,
        "pads": [operation.padding] * 4,
        "group": operation.groups,
    }
    if isinstance(operation, ConvTranspose):
        attributes["output_padding"] = [operation.output_padding] * 2
    sources = inputs + [f"{node.name}.{name}" for name in names]
    kind = type(operation).__name__
    if operation.out_channels == 1:
        # In its blocked layout onnxruntime pads 1 channel to 8 or 16 and keeps that for all that follows element by
        # element: resizing and sigmoid cost 16 times. A reshape to the same shape copies nothing and ends the layout.
        blocked = f"{output}/blocked"
        writer.activated(blocked, operation.activation, lambda out: writer.op(kind, sources, out, **attributes))
        shape = writer.constant(f"{output}/shape", np.array(writer.dims(node.name), np.int64))
        writer.op("Reshape", [blocked, shape], output)
        return
    writer.activated(output, operation.activation, lambda out: writer.op(kind, sources, out, **attributes))


def _pool(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    operation = node.operation
    assert isinstance(operation, MaxPool | AvgPool)
    writer.op(
        "MaxPool" if isinstance(operation, MaxPool) else "AveragePool",
        inputs,
        output,
        kernel_shape=[operation.kernel] * 2,
        strides=[operation.stride] * 2,
        pads=[operation.padding] * 4,
    )


def _add(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    assert isinstance(node.operation, Add)
    partial = inputs[0]
    for index, term in enumerate(inputs[1:-1]):
        partial = writer.op("Add", [partial, term], f"{output}/partial{index}")
    writer.activated(output, node.operation.activation, lambda out: writer.op("Add", [partial, inputs[-1]], out))


def _resize(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    assert isinstance(node.operation, Resize)
    scales = writer.constant(f"{output}/scales", np.array([1, 1] + [node.operation.scale] * 2, np.float32))
    writer.op("Resize", [*inputs, "", scales], output, mode="linear", coordinate_transformation_mode="half_pixel")


def _linear(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    flat = writer.op("Flatten", inputs, f"{output}/flat")
    writer.op("Gemm", [flat, f"{node.name}.weight", f"{node.name}.bias"], output, transB=1)


def _normalise(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    scaled = writer.op("Mul", [*inputs, f"{node.name}.scale"], f"{output}/scaled")
    writer.op("Add", [scaled, f"{node.name}.shift"], output)


def _scalar(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _entropy(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    """H is even: with m = -|z|, H(sigmoid(z)) = -m sigmoid(m) - log sigmoid(-m), over ln 2; no logarithm of zero.

    The shorter softplus(z) - z sigmoid(z) takes five times as long: onnxruntime's Softplus is scalar.
    """
    size = writer.op("Abs", inputs, f"{output}/size")
    negative = writer.op("Neg", [size], f"{output}/negative")
    rare = writer.op("Sigmoid", [negative], f"{output}/rare")
    expected = writer.op("Mul", [negative, rare], f"{output}/expected")
    surprise = writer.op("Log", [writer.op("Sigmoid", [size], f"{output}/likely")], f"{output}/surprise")
    nats = writer.op("Add", [expected, surprise], f"{output}/minus_nats")
    writer.op("Mul", [nats, writer.constant(f"{output}/minus_bits", _scalar(-1 / math.log(2)))], output)


def _least_confidence(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    """2 (1 - max(p, 1 - p)) = 1 - |2 p - 1|."""
    one = writer.constant(f"{output}/one", _scalar(1))
    two = writer.constant(f"{output}/two", _scalar(2))
    doubled = writer.op("Mul", [*inputs, two], f"{output}/doubled")
    margin = writer.op("Abs", [writer.op("Sub", [doubled, one], f"{output}/signed")], f"{output}/margin")
    writer.op("Sub", [one, margin], output)


def _depth_to_space(writer: _Writer, node: Node, inputs: list[str], output: str) -> None:
    assert isinstance(node.operation, DepthToSpace)
    writer.op("DepthToSpace", inputs, output, blocksize=node.operation.block, mode="CRD")


def _plain(kind: str, **attributes: Any) -> _Handler:
    return lambda writer, node, inputs, output: writer.op(kind, inputs, output, **attributes)


_HANDLERS: Mapping[type[Operation], _Handler] = {
    Conv: _conv,
    ConvTranspose: _conv,
    MaxPool: _pool,
    AvgPool: _pool,
    Add: _add,
    Concat: _plain("Concat", axis=1),
    Resize: _resize,
    DepthToSpace: _depth_to_space,
    GlobalAveragePool: _plain("GlobalAveragePool"),
    Linear: _linear,
    Relu: _plain("Relu"),
    Sigmoid: _plain("Sigmoid"),
    Softmax: _plain("Softmax", axis=1),
    Entropy: _entropy,
    LeastConfidence: _least_confidence,
    Normalise: _normalise,
    Identity: _plain("Identity"),
}
