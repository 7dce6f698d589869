"""Rewrites of a network's ends, input and head, and of its pooling; as in `changes`.

All keep the function but `count_padding_in`, to rounding.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.rewriting.edit import Array, Editable, attributes


def without_layout_end(model: Editable) -> int:
    """Single-channel convolutions without the `Reshape` that ends the blocked layout behind them."""
    found = [node for node in model.of_kind("Reshape") if node.input[0].endswith("/blocked")]
    for node in found:
        writer = model.nodes[node.input[0]]
        model.remove(node, writer)
        writer.output[0] = node.output[0]
        model.nodes[node.output[0]] = writer
    return len(found)


def entropy_of_softplus(model: Editable) -> int:
    """H(z) = softplus(z) - z sigmoid(z), over ln 2: the shorter form of a two-class logit's entropy."""
    found = model.of_kind("Log")
    for logarithm in found:
        total = model.only_reader(logarithm.output[0], "Add")
        assert total is not None
        scale = model.only_reader(total.output[0], "Mul")
        assert scale is not None
        size = model.nodes[model.nodes[logarithm.input[0]].input[0]]
        logit, name = size.input[0], scale.output[0]
        model.remove(scale)
        expected = model.op("Mul", [logit, model.op("Sigmoid", [logit], f"{name}/probability")], f"{name}/mean")
        nats = model.op("Sub", [model.op("Softplus", [logit], f"{name}/softplus"), expected], f"{name}/nats")
        bits = model.constant(f"{name}/bits", np.array(1 / math.log(2), np.float32))
        model.op("Mul", [nats, bits], name)
    return len(found)


def softmax_for_sigmoid(model: Editable) -> int:
    """Two logits and a softmax over them in place of one logit and a sigmoid; the background's logit is 0.

    Every convolution to one logit gets two outputs; what is resized is resized twice. The entropy reads one of them.
    """
    ends = [node for node in model.of_kind("Reshape") if node.input[0].endswith("/blocked")]
    two: dict[str, str] = {}
    for end in ends:
        conv = model.convolution(model.nodes[end.input[0]])
        weight = np.concatenate([np.zeros_like(conv.weight), conv.weight])
        bias = None if conv.bias is None else np.concatenate([np.zeros_like(conv.bias), conv.bias])
        model.remove(end, conv.node)
        logit = end.output[0]
        two[logit] = model.conv(conv.source, weight, bias, f"{logit}/two", relu=False)
        _channel(model, two[logit], logit)
    for resize in model.of_kind("Resize"):
        if resize.input[0] in two:
            logit = resize.output[0]
            model.remove(resize)
            inputs = [two[resize.input[0]], *resize.input[1:]]
            two[logit] = model.op("Resize", inputs, f"{logit}/two", **attributes(resize))
            _channel(model, two[logit], logit)
    changed = 0
    for sigmoid in model.of_kind("Sigmoid"):
        if sigmoid.input[0] in two:
            model.remove(sigmoid)
            name = sigmoid.output[0]
            _channel(model, model.op("Softmax", [two[sigmoid.input[0]]], f"{name}/softmax", axis=1), name)
            changed += 1
    return changed


def _channel(model: Editable, tensor: str, output: str) -> None:
    named = {"from": 1, "to": 2, "axis": 1}
    bounds = [model.constant(f"{output}/{name}", np.array([value], np.int64)) for name, value in named.items()]
    model.op("Slice", [tensor, *bounds], output)


def resize_as_products(model: Editable) -> int:
    """Bilinear upsampling as two matrix products: rows, then columns."""
    found = [node for node in model.of_kind("Resize") if attributes(node)["mode"] == b"linear"]
    for node in found:
        model.remove(node)
        name, (height, width) = node.output[0], model.shapes[node.input[0]][2:]
        scale = int(model.constants[node.input[2]][2])
        rows = model.constant(f"{name}/rows", bilinear(height, scale))
        columns = model.constant(f"{name}/columns", np.ascontiguousarray(bilinear(width, scale).T))
        wide = model.op("MatMul", [node.input[0], columns], f"{name}/wide")
        model.op("MatMul", [rows, wide], name)
    return len(found)


def bilinear(size: int, scale: int) -> Array:
    """The matrix (scale size, size) of linear upsampling with half-pixel centres, the border pixels repeated."""
    position = (np.arange(size * scale) + 0.5) / scale - 0.5
    low = np.floor(position).astype(int)
    matrix = np.zeros((size * scale, size), np.float32)
    for offset, share in ((0, 1 - (position - low)), (1, position - low)):
        np.add.at(matrix, (np.arange(size * scale), np.clip(low + offset, 0, size - 1)), share.astype(np.float32))
    return matrix


def pooled_image_as_convolution(model: Editable) -> int:
    """The image's average pooling and normalisation as one strided convolution."""
    changed = 0
    for pool in model.of_kind("AveragePool"):
        scaled = model.only_reader(pool.output[0], "Mul")
        shifted = model.only_reader(scaled.output[0], "Add") if scaled is not None else None
        if scaled is None or shifted is None:
            continue
        stride = attributes(pool)["kernel_shape"][0]
        scale, shift = model.constants[scaled.input[1]].ravel(), model.constants[shifted.input[1]].ravel()
        weight = np.zeros((len(scale), len(scale), stride, stride), np.float32)
        weight[np.arange(len(scale)), np.arange(len(scale))] = (scale / stride**2)[:, None, None]
        model.remove(pool, scaled, shifted)
        model.conv(pool.input[0], weight, shift, shifted.output[0], relu=False, stride=stride)
        changed += 1
    return changed


def count_padding_in(model: Editable) -> int:
    """Average pooling whose border divides by the whole window, zeros included: another function at the border."""
    found = [node for node in model.of_kind("AveragePool") if any(attributes(node)["pads"])]
    for node in found:
        model.remove(node)
        model.op("AveragePool", node.input, node.output[0], **attributes(node), count_include_pad=1)
    return len(found)
