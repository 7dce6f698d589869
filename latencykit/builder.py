"""Writes a graph node by node; the frame that every network pair shares (input, head, maps, quality input) is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latencykit.graph import Graph, Node
from latencykit.macro import Head, UncertaintyKind
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
    LeastConfidence,
    Linear,
    Normalise,
    Operation,
    Relu,
    Resize,
    Shape,
    Sigmoid,
)

IMAGE = "image"
LOGITS = "logits"


class GraphBuilder:
    """Collects nodes; `build` makes the immutable graph."""

    def __init__(self, inputs: Mapping[str, Shape]) -> None:
        self._inputs = dict(inputs)
        self._nodes: list[Node] = []

    def add(self, name: str, operation: Operation, *inputs: str, role: str, fragment: str = "") -> str:
        """Append a node and return its name."""
        self._nodes.append(Node(name, operation, inputs, role, fragment))
        return name

    def chain(self, name: str, operations: Sequence[Operation], source: str, role: str) -> str:
        """Append a primitive of several operations as one fragment; return the last node's name."""
        for index, operation in enumerate(operations):
            source = self.add(f"{name}/op{index}", operation, source, role=role, fragment=name)
        return source

    def sum(self, name: str, inputs: Sequence[str], role: str, activation: Activation = "none") -> str:
        """Append a sum, or nothing where there is a single input and no activation."""
        if len(inputs) == 1:
            return inputs[0] if activation == "none" else self.add(name, Relu(), inputs[0], role=role)
        return self.add(name, Add(activation), *inputs, role=role)

    def build(self, outputs: Mapping[str, str], metadata: Mapping[str, str]) -> Graph:
        """The finished graph, without nodes that no output reads: those before a wholly deleted input."""
        read = set(outputs.values())
        kept: list[Node] = []
        for node in reversed(self._nodes):
            if node.name in read:
                kept.append(node)
                read.update(node.inputs)
        return Graph(self._inputs, tuple(reversed(kept)), outputs, metadata)


def pooled_image(builder: GraphBuilder, network: str, stride: int) -> str:
    """The normalised image at 1 / stride of its resolution: what a network's stem reads."""
    source = IMAGE
    if stride > 1:
        source = builder.add(f"{network}/pool", AvgPool(stride, stride, 0), source, role="input")
    return builder.add(f"{network}/normalise", Normalise(), source, role="input")


QUALITY_INPUT = "quality/input"
QUALITY_CHANNELS = {"image": (0, 1, 2), "probability": (3,), "uncertainty": (4,)}
"""The node that the quality network reads, and what is in its channels."""


@dataclass(frozen=True)
class Maps:
    """Names of the nodes that hold the segmentation's results.

    `mask` and `uncertainty` lie at the image's resolution; the quality network reads `probability` and `entropy`,
    `stride` image pixels apart, which may be the same nodes.
    """

    mask: str
    uncertainty: str
    probability: str
    entropy: str
    stride: int


def segmentation_head(
    builder: GraphBuilder, features: str, logit_stride: int, head: Head, uncertainty: UncertaintyKind
) -> Maps:
    """Logits, mask and uncertainty from the last feature map.

    One logit and a sigmoid stand for two classes (decision 16). With `resize`, the maps for the quality network are
    made at the logits' resolution, where they are cheap.
    """
    conv = Conv(1, 1, norm=False, bias=True, activation="none")
    if logit_stride == 1:
        small = full = builder.add(LOGITS, conv, features, role="head")
    elif head == "resize":
        small = builder.add("head/small_logits", conv, features, role="head")
        full = builder.add(LOGITS, Resize(logit_stride), small, role="head")
    elif head == "depth_to_space":
        pixels = builder.add("head/conv", replace(conv, out_channels=logit_stride**2), features, role="head")
        small = full = builder.add(LOGITS, DepthToSpace(logit_stride), pixels, role="head")
    else:
        up = ConvTranspose(1, logit_stride, logit_stride, norm=False, bias=True, activation="none")
        small = full = builder.add(LOGITS, up, features, role="head")

    probability = builder.add("mask" if small == full else "head/probability", Sigmoid(), small, role="head")
    kind, source = (Entropy(), small) if uncertainty == "entropy" else (LeastConfidence(), probability)
    entropy = builder.add("uncertainty" if small == full else "head/uncertainty", kind, source, role="uncertainty")
    if small == full:
        return Maps(probability, entropy, probability, entropy, 1)
    return Maps(
        mask=builder.add("mask", Sigmoid(), full, role="head"),
        uncertainty=builder.add("uncertainty", Resize(logit_stride), entropy, role="uncertainty"),
        probability=probability,
        entropy=entropy,
        stride=logit_stride,
    )


def quality_input(builder: GraphBuilder, image: str, maps: Maps, stride: int) -> str:
    """Image, probability and uncertainty side by side at the quality network's stride: 5 channels (decision 15)."""
    joined = builder.add("quality/maps", Concat(), maps.probability, maps.entropy, role="concat")
    if maps.stride < stride:
        factor = stride // maps.stride
        joined = builder.add("quality/maps_pool", AvgPool(factor, factor, 0), joined, role="input")
    elif maps.stride > stride:
        joined = builder.add("quality/maps_resize", Resize(maps.stride // stride), joined, role="input")
    return builder.add(QUALITY_INPUT, Concat(), image, joined, role="concat")


def quality_output(builder: GraphBuilder, features: str) -> str:
    """Pooling, a fully connected layer and a sigmoid: the predicted Dice."""
    pooled = builder.add("quality/average", GlobalAveragePool(), features, role="head")
    return builder.add("dice", Sigmoid(), builder.add("quality/linear", Linear(1), pooled, role="head"), role="head")


def floor_graph(
    image_size: int,
    segmentation_stride: int,
    logit_stride: int,
    quality_stride: int,
    head: Head,
    uncertainty: UncertaintyKind,
) -> Graph:
    """What every pair of these strides pays whatever its networks are: the image's way in and the maps' way out.

    Where logits are further apart than the segmentation's input pixels, a pooling stands for the network between them.
    """
    builder = GraphBuilder({IMAGE: (3, image_size, image_size)})
    image = features = pooled_image(builder, "segmentation", segmentation_stride)
    if (factor := logit_stride // segmentation_stride) > 1:
        features = builder.add("segmentation/floor", AvgPool(factor, factor, 0), image, role="input")
    maps = segmentation_head(builder, features, logit_stride, head, uncertainty)
    if quality_stride != segmentation_stride:
        image = pooled_image(builder, "quality", quality_stride)
    dice = quality_output(builder, quality_input(builder, image, maps, quality_stride))
    return finish_pair(builder, maps, dice, {"space": "floor"})


def finish_pair(builder: GraphBuilder, maps: Maps, dice: str, metadata: Mapping[str, str]) -> Graph:
    """The graph of a network pair with its three outputs (the contract's names)."""
    return builder.build({"mask": maps.mask, "uncertainty": maps.uncertainty, "dice": dice}, metadata)
