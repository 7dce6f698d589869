"""Pixels of one parity (a *phase*) as channels: strided and transposed convolutions as plain ones, exactly.

A map of C channels at H x W is, with 2 phases, one of 4 C channels at H/2 x W/2, channel-major as `DepthToSpace` in
mode CRD unpacks it. Any convolution between two maps, each plain or packed, is again a plain convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.rewriting.edit import Array, Convolution, Editable


@dataclass(frozen=True)
class Rearranged:
    """The plain convolution that does the same: its dense weight, bias, stride and pads."""

    weight: Array
    bias: Array | None
    stride: int
    pads: tuple[int, int, int, int]


def rearrange(conv: Convolution, phases_in: int = 1, phases_out: int = 1) -> Rearranged:
    """A convolution from a plain or packed map to a plain or packed one.

    A plain one reads pixel i = stride o + dilation k - pad for output o and tap k; a transposed one writes output
    o = stride i + dilation k - pad. With o = phases_out O + a and i = phases_in I + b, each tap gives b and the offset
    of I to O for every a.

    Args:
        conv: the convolution, its pads equal on all sides or those of another `rearrange`.
        phases_in: 1 where it reads a plain map, else the phases along each axis that are channels.
        phases_out: the same of what it writes.

    Raises:
        ValueError: a transposed convolution whose output is not packed by its stride.
    """
    first_pad = conv.pads[0]
    taps: list[tuple[int, int, int, int]] = []  # tap, phase of the output, phase of the input, offset
    if conv.transposed:
        if (phases_in, phases_out) != (1, conv.stride):
            raise ValueError(f"a transposed convolution of stride {conv.stride} cannot give {phases_out} phases.")
        step = 1
        for tap in range(conv.kernel):
            shift = conv.dilation * tap - first_pad
            taps.append((tap, shift % phases_out, 0, -(shift // phases_out)))
    else:
        step, rest = divmod(conv.stride * phases_out, phases_in)
        if rest:
            raise ValueError(f"stride {conv.stride} does not lead from {phases_in} to {phases_out} phases.")
        for tap, phase in product(range(conv.kernel), range(phases_out)):
            shift = conv.stride * phase + conv.dilation * tap - first_pad
            taps.append((tap, phase, shift % phases_in, shift // phases_in))
    first = min(0, *(offset for *_, offset in taps))
    last = max(0, *(offset for *_, offset in taps))
    dense = conv.dense
    out_channels, in_channels = dense.shape[:2]
    side = last - first + 1
    shape = (out_channels, phases_out, phases_out, in_channels, phases_in, phases_in, side, side)
    weight = np.zeros(shape, np.float32)
    for (row, a, b, y), (column, c, d, x) in product(taps, taps):
        weight[:, a, c, :, b, d, y - first, x - first] += dense[:, :, row, column]
    end = max(0, last - step + 1)
    return Rearranged(
        weight.reshape(out_channels * phases_out**2, in_channels * phases_in**2, side, side),
        None if conv.bias is None else np.repeat(conv.bias, phases_out**2),
        step,
        (-first, -first, end, end),
    )


def transposed_as_subpixel(model: Editable) -> int:
    """Each transposed convolution as a plain one to stride² times the channels, its ReLU, then `DepthToSpace`."""
    found = model.convolutions("ConvTranspose")
    for conv in found:
        model.remove(conv.node, conv.relu)
        packed = write_rearranged(model, conv, f"{conv.output}/phases", phases_out=conv.stride)
        model.op("DepthToSpace", [packed], conv.output, blocksize=conv.stride, mode="CRD")
    return len(found)


def write_rearranged(model: Editable, conv: Convolution, output: str, phases_in: int = 1, phases_out: int = 1) -> str:
    """Add the rearranged convolution with the ReLU of the original; return its output's name."""
    found = rearrange(conv, phases_in, phases_out)
    return model.conv(
        conv.source,
        found.weight,
        found.bias,
        output,
        relu=conv.relu is not None,
        stride=found.stride,
        pads=found.pads,
    )


def pack_finest(model: Editable, channels: int) -> int:
    """The maps of `channels` channels at the highest resolution packed by 2: a quarter of the blocked layout's padding.

    Sums and ReLUs stay as they are; convolutions into, within and out of these maps are rearranged. What leaves them
    at their own resolution (the logits) is unpacked.

    Raises:
        ValueError: something else than a convolution, a sum or a ReLU reads or writes such a map.
    """
    side = max(
        (shape[2] for name, shape in model.shapes.items() if name in model.nodes and shape[1:2] == (channels,)),
        default=0,
    )
    packed = {n for n, s in model.shapes.items() if n in model.nodes and s == (1, channels, side, side)}
    touching = [c for c in model.convolutions() if c.source in packed or c.node.output[0] in packed]
    known = {conv.node.output[0] for conv in touching}
    for node in list(model.nodes.values()):
        if (node.output[0] in packed or not packed.isdisjoint(node.input)) and (
            node.op_type not in ("Add", "Relu") and node.output[0] not in known
        ):
            raise ValueError(f"{node.op_type} {node.name} reads or writes a map that is to be packed.")
    for conv in touching:
        model.remove(conv.node, conv.relu)
        phases_in = 2 if conv.source in packed else 1
        if conv.output in packed:
            write_rearranged(model, conv, conv.output, phases_in, 2)
        elif model.shapes[conv.output][2] == side:
            inner = write_rearranged(model, conv, f"{conv.output}/phases", phases_in, 2)
            model.op("DepthToSpace", [inner], conv.output, blocksize=2, mode="CRD")
        else:
            write_rearranged(model, conv, conv.output, phases_in, 1)
    return len(touching)
