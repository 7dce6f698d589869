"""Hostile ONNX made of valid files: any field of any message, known attacks, and bytes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import onnx
from google.protobuf.message import EncodeError, Message

from fuzzing.any_bytes import FLOATS, INTEGERS, MAX_BYTES, mutate_bytes

OPERATIONS = (
    *("Loop", "If", "Scan", "Sin", "Conv", "Relu", "Reshape", "Expand", "Tile", "Pad", "Slice", "MatMul", "Resize"),
    *("ConstantOfShape", "BatchNormalization", "Concat", "Gather", "LSTM", "MaxPool", "ConvTranspose", "Einsum"),
)


def _messages(message: Message) -> list[tuple[Message, Any]]:
    """Every set field of a message and of those within it, with the message that it is of."""
    found, todo = [], [message]
    while todo:
        current = todo.pop()
        for field, value in current.ListFields():
            found.append((current, field))
            if field.message_type is not None:
                todo.extend(value if _repeated(value) else [value])
    return found


def _repeated(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")


def _scalar(field: Any, old: Any, rng: Random) -> Any:
    """Another value for a field that is no message."""
    kinds = type(field)
    if field.cpp_type == kinds.CPPTYPE_STRING:
        if field.type == kinds.TYPE_BYTES:
            return mutate_bytes(old, [old], rng) if old and rng.random() < 0.7 else rng.randbytes(rng.randrange(40))
        return rng.choice(("", "x", "w", "y", "c", "ai.onnx", "com.microsoft", "evil", "é", "a" * 2000, *OPERATIONS))
    if field.cpp_type in (kinds.CPPTYPE_FLOAT, kinds.CPPTYPE_DOUBLE):
        return rng.choice((*FLOATS[:8], float("nan"), float("inf"), -float("inf")))
    return rng.choice((*INTEGERS[:28], old + 1, old - 1, -old)) if isinstance(old, int) else rng.choice(INTEGERS[:28])


def mutate_message(model: onnx.ModelProto, rng: Random) -> None:
    """Change one field somewhere in a model."""
    places = _messages(model)
    if not places:
        return
    message, field = rng.choice(places)
    value = getattr(message, field.name)
    if field.message_type is None and not _repeated(value):
        setattr(message, field.name, _scalar(field, value, rng))
    elif not _repeated(value):
        donors = [getattr(m, f.name) for m, f in places if f.message_type is field.message_type]
        donor = rng.choice(donors)
        if _repeated(donor) or rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            value.CopyFrom(copy.deepcopy(donor))
    elif field.message_type is None:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                del value[at]
            case 1:
                value.append(value[at])
            case 2:
                value.extend([value[at]] * rng.choice((2, 50)))
            case _:
                value[at] = _scalar(field, value[at], rng)
    else:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                del value[at]
            case 1:
                value.add().CopyFrom(copy.deepcopy(value[at]))
            case 2:
                value[at].CopyFrom(copy.deepcopy(value[rng.randrange(len(value))]))
            case _:
                value.add()


def attack_model(model: onnx.ModelProto, rng: Random) -> None:
    """Put one of the known attacks into a model, somewhere."""
    graph = model.graph
    tensor = rng.choice(graph.initializer) if graph.initializer else graph.initializer.add()
    node = rng.choice(graph.node) if graph.node else graph.node.add()
    match rng.randrange(8):
        case 0:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("../x", "/etc/passwd", "w.bin", "")))
        case 1:
            node.domain = rng.choice(("evil", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx"))
        case 2:
            tensor.dims[:] = [rng.choice(INTEGERS[:28]) for _ in range(rng.randrange(7))]
        case 3:
            node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.CopyFrom(copy.deepcopy(graph))
        case 4:
            node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(copy.deepcopy(tensor))
        case 5:
            graph.sparse_initializer.add().values.CopyFrom(copy.deepcopy(tensor))
        case 6:
            model.functions.add(name=node.op_type, domain=node.domain).node.add().CopyFrom(copy.deepcopy(node))
        case _:
            node.op_type = rng.choice(OPERATIONS)


def mutate_onnx(corpus: Sequence[bytes], rng: Random) -> bytes:
    """A hostile ONNX file."""
    data = rng.choice(corpus)
    kind = rng.random()
    if kind < 0.9:
        model = onnx.load_model_from_string(data)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            try:
                (attack_model if rng.random() < 0.15 else mutate_message)(model, rng)
            except (TypeError, ValueError, OverflowError):  # a value that the field cannot hold
                continue
        try:
            data = model.SerializeToString()
        except (EncodeError, ValueError):
            data = rng.choice(corpus)
    if kind > 0.82:
        for _ in range(rng.randrange(1, 4)):
            data = mutate_bytes(data, corpus, rng)
    return data[:MAX_BYTES]
