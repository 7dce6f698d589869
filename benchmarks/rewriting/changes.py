"""Rewrites of convolutions and sums, each a function that changes a model and returns in how many places.

All keep the function, to rounding. They match what `latencykit.lowering` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import onnx

from benchmarks.rewriting.edit import Array, Convolution, Editable, attributes

BLOCK = 16
"""Channels of a block with AVX-512."""


def fold_pointwise(model: Editable, kind: str = "Conv", below: int = BLOCK) -> int:
    """A linear depthwise convolution and the 1x1 that alone reads it as one dense convolution, under `below` channels.

    Args:
        model: changed.
        kind: `Conv` or `ConvTranspose`.
        below: only narrower ones.
    """
    folded = 0
    for conv in model.convolutions(kind):
        reader = model.only_reader(conv.output, "Conv")
        if conv.groups == 1 or conv.relu is not None or reader is None or conv.out_channels >= below:
            continue
        point = model.convolution(reader)
        if (point.kernel, point.stride, point.groups) != (1, 1, 1):
            continue
        mix = point.weight[:, :, 0, 0]
        weight = np.einsum("oc,cikl->oikl", mix, conv.dense).astype(np.float32)
        bias = point.bias
        if conv.bias is not None:
            bias = mix @ conv.bias + (0 if bias is None else bias)
        model.remove(conv.node, point.node)
        facts = {n: v for n, v in attributes(conv.node).items() if n != "group"}
        name = point.node.output[0]
        inputs = [conv.source, model.constant(f"{name}/dense.weight", _as_onnx(weight, kind))]
        if bias is not None:
            inputs.append(model.constant(f"{name}/dense.bias", bias))
        model.op(kind, inputs, name, group=1, **facts)
        folded += 1
    return folded


def _as_onnx(weight: Array, kind: str) -> Array:
    return np.ascontiguousarray(weight.swapaxes(0, 1) if kind == "ConvTranspose" else weight)


def transposed_as_stuffed(model: Editable, how: str) -> int:
    """Each transposed convolution as zeros between the pixels, then a plain convolution.

    Args:
        model: changed.
        how: `resize`: pixels repeated, then all but one of each multiplied by zero; `pad`: zeros padded behind each.
    """
    found = model.convolutions("ConvTranspose")
    for conv in found:
        model.remove(conv.node, conv.relu)
        channels, height, width = model.shapes[conv.source][1:]
        s, name = conv.stride, conv.output
        if how == "resize":
            scales = model.constant(f"{name}/scales", np.array([1, 1, s, s], np.float32))
            facts = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            repeated = model.op("Resize", [conv.source, "", scales], f"{name}/repeated", **facts)
            mask = np.zeros((1, 1, height * s, width * s), np.float32)
            mask[..., ::s, ::s] = 1
            stuffed = model.op("Mul", [repeated, model.constant(f"{name}/mask", mask)], f"{name}/stuffed")
        else:
            apart = model.constant(f"{name}/apart", np.array([1, channels, height, 1, width, 1], np.int64))
            pads = model.constant(f"{name}/zeros", np.array([0] * 9 + [s - 1, 0, s - 1], np.int64))
            whole = model.constant(f"{name}/whole", np.array([1, channels, height * s, width * s], np.int64))
            single = model.op("Reshape", [conv.source, apart], f"{name}/single")
            padded = model.op("Pad", [single, pads], f"{name}/padded")
            stuffed = model.op("Reshape", [padded, whole], f"{name}/stuffed")
        depthwise = conv.groups > 1
        weight = (conv.weight if depthwise else conv.dense)[:, :, ::-1, ::-1]
        near = conv.dilation * (conv.kernel - 1) - conv.pads[0]
        model.conv(
            stuffed,
            weight,
            conv.bias,
            name,
            relu=conv.relu is not None,
            dilation=conv.dilation,
            pads=(near, near, conv.pads[0], conv.pads[0]),
            groups=conv.groups,
        )
    return len(found)


def merge_parallel(model: Editable, kernel: int | None = None, below: int = BLOCK * 64) -> int:
    """Alike convolutions of one input as one convolution and a `Split`.

    Args:
        model: changed.
        kernel: only those of this kernel's side.
        below: only those of fewer channels each.
    """

    def alike(conv: Convolution) -> tuple[object, ...]:
        facts = (conv.kernel, conv.stride, conv.dilation, conv.pads, conv.bias is None, conv.relu is None)
        return conv.source, *facts

    fit = [
        conv
        for conv in model.convolutions("Conv")
        if conv.groups == 1 and kernel in (None, conv.kernel) and 1 < conv.out_channels < below
    ]
    merged = 0
    for _, group in groupby(sorted(fit, key=lambda conv: str(alike(conv))), key=alike):
        convs = list(group)
        if len(convs) == 1:
            continue
        first, name = convs[0], f"{convs[0].output}/merged"
        model.remove(*(node for conv in convs for node in (conv.node, conv.relu)))
        model.conv(
            first.source,
            np.concatenate([conv.weight for conv in convs]),
            None if first.bias is None else np.concatenate([c.bias for c in convs if c.bias is not None]),
            name,
            relu=first.relu is not None,
            stride=first.stride,
            dilation=first.dilation,
            pads=first.pads,
        )
        sizes = model.constant(f"{name}/sizes", np.array([conv.out_channels for conv in convs], np.int64))
        model.split([name, sizes], [conv.output for conv in convs])
        merged += len(convs) - 1
    return merged


def _terms(model: Editable, root: onnx.NodeProto, inner: list[onnx.NodeProto]) -> list[str]:
    """What a tree of sums adds up, left to right; its inner nodes are collected in `inner`."""
    found: list[str] = []
    for name in root.input:
        writer = model.nodes.get(name)
        if writer is not None and writer.op_type == "Add" and model.only_reader(name, "Add") is not None:
            inner.append(writer)
            found += _terms(model, writer, inner)
        else:
            found.append(name)
    return found


def _sums(model: Editable) -> list[tuple[onnx.NodeProto, list[onnx.NodeProto], list[str]]]:
    """Roots of sums of computed tensors with their inner nodes and terms."""
    roots = []
    for node in model.of_kind("Add"):
        inner: list[onnx.NodeProto] = []
        terms = _terms(model, node, inner)
        if model.only_reader(node.output[0], "Add") is None and model.constants.keys().isdisjoint(terms):
            roots.append((node, inner, terms))
    return roots


def sums_as_one(model: Editable) -> int:
    """Sums of three or more terms as one `Sum` instead of a chain of `Add`."""
    long = [found for found in _sums(model) if len(found[2]) > 2]
    for root, inner, terms in long:
        model.remove(root, *inner)
        model.op("Sum", terms, root.output[0])
    return len(long)


def merge_summed(model: Editable) -> int:
    """Linear 1x1 convolutions that are summed as one 1x1 of their inputs' concatenation."""
    merged = 0
    for root, inner, terms in _sums(model):
        convs = []
        for name in terms:
            writer = model.nodes.get(name)
            if writer is not None and writer.op_type == "Conv" and len(model.readers(name)) == 1:
                conv = model.convolution(writer)
                if (conv.kernel, conv.stride, conv.groups) == (1, 1, 1) and conv.relu is None:
                    convs.append(conv)
        if len(convs) < 2:
            continue
        name = root.output[0]
        model.remove(root, *inner, *(conv.node for conv in convs))
        joined = model.op("Concat", [conv.source for conv in convs], f"{name}/joined", axis=1)
        weight = np.concatenate([conv.weight for conv in convs], axis=1)
        biases = [conv.bias for conv in convs if conv.bias is not None]
        bias = np.sum(biases, axis=0) if biases else None
        rest = [term for term in terms if term not in {conv.output for conv in convs}]
        total = model.conv(joined, weight, bias, f"{name}/total" if rest else name, relu=False)
        add_up(model, [total, *rest], name)
        merged += len(convs) - 1
    return merged


def add_up(model: Editable, terms: Sequence[str], output: str) -> None:
    """Add the chain of sums that gives `output`; a single term must bear that name already."""
    total = terms[0]
    for index, term in enumerate(terms[1:], start=2):
        total = model.op("Add", [total, term], output if index == len(terms) else f"{output}/sum{index}")


def concat_as_sum(model: Editable) -> int:
    """Convolutions of a concatenation as the sum of convolutions of its parts."""

    def parts(tensor: str) -> list[str]:
        writer = model.nodes.get(tensor)
        if writer is None or writer.op_type != "Concat":
            return [tensor]
        return [part for name in writer.input for part in parts(name)]

    fit = [c for c in model.convolutions("Conv") if c.groups == 1 and len(parts(c.source)) > 1]
    for conv in fit:
        model.remove(conv.node)
        name, terms, begin = conv.node.output[0], [], 0
        for index, part in enumerate(parts(conv.source)):
            end = begin + model.shapes[part][1]
            weight, bias = conv.weight[:, begin:end], conv.bias if index == 0 else None
            facts = {"stride": conv.stride, "dilation": conv.dilation, "pads": conv.pads}
            terms.append(model.conv(part, weight, bias, f"{name}/part{index}", relu=False, **facts))
            begin = end
        add_up(model, terms, name)
    return len(fit)
