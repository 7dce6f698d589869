"""ONNX models that must not get in, by what is wrong with them, and the small valid model that they are made from."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 4, 8, 8)
FLOAT = TensorProto.FLOAT


def valid() -> onnx.ModelProto:
    """A convolution with a ReLU."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    values = [helper.make_tensor_value_info(name, FLOAT, SHAPE) for name in "xy"]
    weight = numpy_helper.from_array(np.full((4, 4, 3, 3), 0.1, np.float32), "w")
    graph = helper.make_graph(nodes, "test", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def one_node(node: onnx.NodeProto, inputs: dict[str, tuple[int, ...]], constants: tuple = (), output=SHAPE) -> bytes:
    """A model of one node that writes `y`."""
    values = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    written = helper.make_tensor_value_info("y", FLOAT, output)
    graph = helper.make_graph([node], "test", values, [written], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    """The valid model after a change."""
    model = valid()
    change(model)
    return model.SerializeToString()


def outsource(tensor: onnx.TensorProto, location: str = "../secret") -> None:
    """Make a tensor's data those of another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def external(location: str) -> bytes:
    """The valid model with its weights in another file."""
    return changed(lambda model: outsource(model.graph.initializer[0], location))


def _external_tensor() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    outsource(tensor)
    return tensor


def _sparse(dims: tuple[int, ...]) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), dims)


def _external_sparse(model: onnx.ModelProto) -> None:
    sparse = _sparse((4,))
    outsource(sparse.values)
    model.graph.sparse_initializer.append(sparse)


def _external_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=_external_tensor()))


def _branch(tensor: onnx.TensorProto) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["k"], value=tensor)
    return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("k", FLOAT, (4,))])


def _external_in_a_branch(model: onnx.ModelProto) -> None:
    branch = _branch(_external_tensor())
    model.graph.node.append(helper.make_node("If", ["b"], ["z"], then_branch=branch, else_branch=branch))


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def _nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return valid().SerializeToString() + field(7, graph)


def _function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))


def _dims(*dims: int) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), dims)


def _node_field(name: str, value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda model: setattr(model.graph.node[1], name, value)


def _input_dim(value: int) -> Callable[[onnx.ModelProto], object]:
    return lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", value)


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a valid ONNX model"),
    "garbage": (b"\x00not a model", "not a valid ONNX model"),
    "text": (b"my thesis", "not a valid ONNX model"),
    "truncated": (valid().SerializeToString()[:-40], "not a valid ONNX model"),
    "a length beyond the end": (b"\x3a\xff\xff\xff\xff\x0f", "it ends in the middle"),
    "a number without end": (b"\x08" + b"\xff" * 20, "it ends in the middle"),
    "the runtime's own format": (b"\x08\x08\x12\x04ORTM" + valid().SerializeToString(), "onnxruntime's own format"),
    "fields that nobody knows": (valid().SerializeToString() + b"\xc2\x0c\x01\x07", "fields other than onnx"),
    "external weights": (external("weights.bin"), r"tensor 'w' lies in another file, \['weights.bin'\]"),
    "external, above": (external("../../secret"), "lies in another file"),
    "external, absolute": (external("/etc/passwd"), "lies in another file"),
    "external, sparse": (changed(_external_sparse), "tensor 's' lies in another file"),
    "external, in an attribute": (changed(_external_attribute), "tensor 'hidden' lies in another file"),
    "external, in a branch": (changed(_external_in_a_branch), "tensor 'hidden' lies in another file"),
    "external data beside its own": (
        changed(lambda m: m.graph.initializer[0].external_data.add(key="location", value="x")),
        "lies in another file",
    ),
    "a segment": (changed(lambda m: setattr(m.graph.initializer[0].segment, "begin", 1)), "is a segment of a tensor"),
    "an unknown domain": (changed(_node_field("domain", "evil.example")), "'relu' is of the domain 'evil.example'"),
    "an unknown operation": (changed(_node_field("op_type", "Explode")), "not a valid ONNX model.*Explode"),
    "a function": (changed(_function), "functions or a training of its own"),
    "training": (changed(lambda m: m.training_info.add()), "functions or a training of its own"),
    "a huge tensor of few bytes": (changed(_dims(1 << 20, 1 << 20)), "number of elements of its tensor 'w'"),
    "dimensions that overflow": (changed(_dims(1 << 62, 1 << 62)), "a dimension of its tensor 'w' is 46116860"),
    "a negative dimension": (changed(_dims(-4, 4, 3, 3)), "tensor 'w' has a dimension of -4"),
    "very many dimensions": (changed(_dims(*[1] * 100)), "number of dimensions of its tensor 'w' is 100"),
    "a huge sparse tensor": (
        changed(lambda m: m.graph.sparse_initializer.append(_sparse((1 << 40,)))),
        "a dimension of one of its sparse tensors",
    ),
    "a huge input": (changed(_input_dim(1 << 50)), "a dimension of its tensor 'x'"),
    "a negative input": (changed(_input_dim(-3)), "tensor 'x' has a dimension of -3"),
    "a circle": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "y")), "not a valid ONNX model"),
    "an input that nobody writes": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "n")), "not a valid ONNX"),
    "two tensors of one name": (changed(lambda m: m.graph.node[1].output.__setitem__(0, "c")), "not a valid ONNX"),
    "very many nodes": (
        changed(lambda m: m.graph.node.extend([helper.make_node("Relu", ["x"], [f"r{n}"]) for n in range(21_000)])),
        "the number of its nodes is 21002; expected at most 20000",
    ),
    "very many small parts": (
        valid().SerializeToString() + field(7, b"\x0a\x00" * 400_000),
        "the number of its parts",
    ),
    "very deep branches": (_nested(10_000), "not a valid ONNX model"),
}
"""Bytes, and what the refusal says."""
