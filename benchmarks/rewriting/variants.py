"""The networks that are measured, and every variant of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Literal

import numpy as np
import onnx

from benchmarks.rewriting.changes import (
    concat_as_sum,
    fold_pointwise,
    merge_parallel,
    merge_summed,
    sums_as_one,
    transposed_as_stuffed,
)
from benchmarks.rewriting.edit import Array, Editable
from benchmarks.rewriting.ends import (
    count_padding_in,
    entropy_of_softplus,
    pooled_image_as_convolution,
    resize_as_products,
    softmax_for_sigmoid,
    without_layout_end,
)
from benchmarks.rewriting.phases import pack_finest, transposed_as_subpixel
from latencykit.architecture import Network, network_graph
from latencykit.baselines import Baseline
from latencykit.coverage import stride_macros
from latencykit.graph import Graph
from latencykit.lowering import graph_to_onnx, random_weights, weight_shapes
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.space import Architecture, instantiate

WEIGHT_SEED = 3
NETWORK_SEED = 31
STRIDES = (1, 4)

Family = Literal["sampled", "unet"]
Variant = Callable[[Network], onnx.ModelProto | None]
"""Makes the model of a network; None where the rewrite finds nothing in it."""
Change = Callable[[Editable], int]


@cache
def networks(family: Family, stride: int) -> dict[str, Network]:
    """The networks of a family at an input stride, by name: four of the paper's space, or two hand-made pairs."""
    if family == "unet":
        return {f"unet{width}": Baseline(width=width, stride=stride) for width in (8, 16)}
    (macro,) = stride_macros(Macro(), [stride])
    return {f"net{index}": found for index, found in enumerate(sample_architectures(macro, 4, NETWORK_SEED))}


def as_lowered(network: Network) -> onnx.ModelProto:
    """What `latencykit.lowering` gives."""
    return graph_to_onnx(network_graph(network), seed=WEIGHT_SEED)


def edited(*changes: Change, start: Variant = as_lowered) -> Variant:
    """A variant changed on its ONNX."""

    def variant(network: Network) -> onnx.ModelProto | None:
        before = start(network)
        assert before is not None
        model = Editable(before)
        return model.finish() if sum([change(model) for change in changes]) else None

    return variant


def with_macro(**fields: object) -> Variant:
    """The same choices under another macro configuration."""

    def variant(network: Network) -> onnx.ModelProto:
        assert isinstance(network, Architecture)
        return as_lowered(Architecture(replace(network.macro, **fields), network.choices))  # type: ignore[arg-type]

    return variant


def padded(least: int) -> Variant:
    """The same function in maps of at least so many channels, the further ones zero."""

    def variant(network: Network) -> onnx.ModelProto:
        assert isinstance(network, Architecture)
        macro, narrow = network.macro, instantiate(network)
        widths = {
            name: tuple(max(least, width) for width in getattr(macro, name))
            for name in ("segmentation_widths", "quality_widths")
        }
        wide = instantiate(Architecture(replace(macro, **widths), network.choices))
        return graph_to_onnx(wide, embedded_weights(narrow, wide, WEIGHT_SEED))

    return variant


def embedded_weights(narrow: Graph, wide: Graph, seed: int) -> dict[str, Array]:
    """Weights of a wider graph of the same nodes: those of the narrow one, and zeros for the further channels."""
    weights = random_weights(narrow, seed)
    found = {}
    for name, shape in weight_shapes(wide).items():
        found[name] = np.zeros(shape, np.float32)
        found[name][tuple(slice(size) for size in weights[name].shape)] = weights[name]
    return found


FINEST = Macro().segmentation_widths[0]
PACKED: tuple[Change, ...] = (
    partial(fold_pointwise, kind="Conv", below=FINEST + 1),
    partial(fold_pointwise, kind="ConvTranspose", below=FINEST + 1),
    partial(pack_finest, channels=FINEST),
)
SUBPIXEL: tuple[Change, ...] = (partial(fold_pointwise, kind="ConvTranspose", below=1 << 10), transposed_as_subpixel)

AFTER_SUM = with_macro(activation_place="node")
VARIANTS: Mapping[str, Variant] = {
    "as lowered": as_lowered,
    "ReLU after sums": AFTER_SUM,
    "softmax": edited(softmax_for_sigmoid),
    "softplus": edited(entropy_of_softplus),
    "subpixel": edited(*SUBPIXEL),
    "stuffed, resize": edited(partial(transposed_as_stuffed, how="resize")),
    "stuffed, pad": edited(partial(transposed_as_stuffed, how="pad")),
    "packed": edited(*PACKED),
    "depth_to_space head": with_macro(head="depth_to_space"),
    "transposed_conv head": with_macro(head="transposed_conv"),
    "matrix products": edited(resize_as_products),
    "image by convolution": edited(pooled_image_as_convolution),
    "parallel 1x1": edited(partial(merge_parallel, kernel=1)),
    "parallel, narrow": edited(partial(merge_parallel, below=16)),
    "folded, narrow": edited(partial(fold_pointwise, below=16)),
    "folded, all": edited(partial(fold_pointwise, below=1 << 10)),
    "summed 1x1": edited(merge_summed, start=AFTER_SUM),
    "at least 8": padded(8),
    "at least 16": padded(16),
    "layout not ended": edited(without_layout_end),
    "no concatenation": edited(concat_as_sum),
    "one sum": edited(sums_as_one),
    "padding counted": edited(count_padding_in),
    "together": edited(*PACKED, resize_as_products, pooled_image_as_convolution),
}
