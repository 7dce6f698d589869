"""What an ONNX model from outside may hold: all that could read a file, run foreign code or exhaust a host is refused.

Called in the limited process of `latencykit.guard`, since parsers and checkers have had holes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from latencykit.bounds import MAX_ELEMENTS, MAX_MODEL_BYTES, MAX_NODES, require_at_most, require_dims
from latencykit.errors import InputError

DOMAINS = frozenset({"", "com.microsoft", "com.microsoft.nchwc"})
"""ONNX's own operations and what onnxruntime's optimisations put in their place."""
MAX_ENTRIES = 200_000
"""Nodes, tensors, names and the like of a model's outermost graph, counted before it is parsed."""
_GRAPH_FIELD = 7
_RUNTIME_FORMAT = b"ORTM"
"""Where onnxruntime finds this at byte 4 it reads another format, whatever the bytes are as ONNX."""


def admit(data: bytes) -> onnx.ModelProto:
    """Parse a model from outside and refuse what it must not hold.

    Raises:
        InputError: not ONNX, too large, or holding data in other files, unknown operations' domains, functions of its
            own, or shapes that no network has.
    """
    require_at_most("the model's size in bytes", len(data), MAX_MODEL_BYTES)
    if data[4:8] == _RUNTIME_FORMAT:
        raise InputError("it is in onnxruntime's own format; expected ONNX.")
    _count_entries(memoryview(data))
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own types, of either implementation
        raise InputError(f"it is not a valid ONNX model: {error}") from error
    _require_known_fields(model)
    if model.functions or model.training_info:
        raise InputError("it holds functions or a training of its own; run onnx.inliner.inline_local_functions first.")
    nodes = elements = 0
    for graph in _graphs(model.graph):
        nodes += len(graph.node)
        require_at_most("the number of its nodes", nodes, MAX_NODES)
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise InputError(
                    f"its node {_name(node)} is of the domain {node.domain[:80]!r}; expected one of {sorted(DOMAINS)}."
                )
        for tensor in _tensors(graph):
            elements += _check_tensor(tensor)
            require_at_most("the number of elements of its tensors", elements, MAX_ELEMENTS)
        _check_values(graph)
    try:
        onnx.checker.check_model(data)
    except Exception as error:  # the checker raises types of its own C extension
        raise InputError(f"it is not a valid ONNX model: {error}") from error
    return model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all that its nodes' attributes hold, however deep; the parser limits the depth."""
    todo = [graph]
    while todo:
        yield (current := todo.pop())
        for attribute in _attributes(current):
            if attribute.HasField("g"):
                todo.append(attribute.g)
            todo.extend(attribute.graphs)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        yield from node.attribute


def _tensors(graph: GraphProto) -> Iterator[TensorProto | SparseTensorProto]:
    """Tensors of one graph, wherever they stand; of sparse ones also the parts."""
    sparse = list(graph.sparse_initializer)
    yield from graph.initializer
    for attribute in _attributes(graph):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        sparse.extend(attribute.sparse_tensors)
    for tensor in sparse:
        yield from (tensor, tensor.values, tensor.indices)


def _check_tensor(tensor: TensorProto | SparseTensorProto) -> int:
    """The elements that a tensor says it has; raises `InputError` where its data lie elsewhere."""
    if isinstance(tensor, SparseTensorProto):
        return require_dims("one of its sparse tensors", tuple(tensor.dims), least=0)
    name = f"its tensor {tensor.name[:80]!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        places = [entry.value[:80] for entry in tensor.external_data if entry.key == "location"]
        raise InputError(f"{name} lies in another file, {places}; save the model with all data in one file.")
    if tensor.HasField("segment"):
        raise InputError(f"{name} is a segment of a tensor; expected all of it.")
    return require_dims(name, tuple(tensor.dims), least=0)


def _check_values(graph: GraphProto) -> None:
    """Raise `InputError` for a declared shape that no tensor can have."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            fixed = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
            require_dims(f"its tensor {value.name[:80]!r}", tuple(fixed), least=0)


def _require_known_fields(model: onnx.ModelProto) -> None:
    """Raise `InputError` for fields that this parser skips, since another one may understand them."""
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        raise InputError(f"it holds fields other than onnx {onnx.__version__} knows; export it for an older version.")


def _name(node: NodeProto) -> str:
    return f"{node.op_type[:80]} {node.name[:80]!r}"


def _count_entries(data: memoryview) -> None:
    """Raise `InputError` where the parser would make very many objects of few bytes."""
    entries = 0
    for number, content in _fields(data):
        entries += 1
        if number == _GRAPH_FIELD:
            for _ in _fields(content):
                entries += 1
                require_at_most("the number of its parts", entries, MAX_ENTRIES)
        require_at_most("the number of its parts", entries, MAX_ENTRIES)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; numbers are left out of the content."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 == 0:
            _, at = _varint(data, at)
        elif tag & 7 == 2:
            size, at = _varint(data, at)
        elif not size:
            raise InputError("it is not a valid ONNX model: a field of an unknown type.")
        if at + size > len(data):
            raise InputError("it is not a valid ONNX model: it ends in the middle.")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A protobuf number and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise InputError("it is not a valid ONNX model: it ends in the middle.")
