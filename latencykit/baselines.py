"""The hand-made pairs that a user would try first: a vanilla U-Net and a ResNet18, from the same parts and head."""

from __future__ import annotations

from dataclasses import dataclass

from latencykit.bounds import require_at_most
from latencykit.builder import (
    IMAGE,
    GraphBuilder,
    finish_pair,
    pooled_image,
    quality_input,
    quality_output,
    segmentation_head,
)
from latencykit.errors import InputError
from latencykit.graph import Graph
from latencykit.macro import MAX_IMAGE_SIZE, MAX_LEVELS, MAX_WIDTH, Head
from latencykit.spec import Add, Concat, Conv, ConvTranspose, MaxPool

RESNET18_BLOCKS = (2, 2, 2, 2)
_MOST = {
    "width": MAX_WIDTH,
    "depth": MAX_LEVELS,
    "stride": MAX_IMAGE_SIZE,
    "quality_width": MAX_WIDTH,
    "image_size": MAX_IMAGE_SIZE,
}


@dataclass(frozen=True)
class Baseline:
    """U-Net(width) + ResNet18(quality_width), Table II's comparison.

    Attributes:
        width: channels of the U-Net's first level; each downsampling doubles them.
        depth: downsamplings of the U-Net (4 in the paper).
        stride: the image is average-pooled by this before both networks.
        quality_width: channels of ResNet18's first stage (16 in the paper, from Table II's FLOPs).
        head: how logits come back to the image's resolution.
    """

    width: int = 16
    depth: int = 4
    stride: int = 1
    quality_width: int = 16
    image_size: int = 256
    head: Head = "resize"

    def __post_init__(self) -> None:
        for name in ("width", "depth", "stride", "quality_width", "image_size"):
            if getattr(self, name) < 1:
                raise InputError(f"baseline.{name} is {getattr(self, name)}; expected at least 1.")
        for name, most in _MOST.items():
            require_at_most(f"baseline.{name}", getattr(self, name), most)
        if self.stride & (self.stride - 1):
            raise InputError(f"baseline.stride is {self.stride}; expected a power of two.")
        factor = self.stride * 2**self.depth
        if self.image_size % factor:
            raise InputError(
                f"baseline: depth {self.depth} at stride {self.stride} divides the image by {factor}, which does not "
                f"divide image_size {self.image_size}; use a smaller depth or stride."
            )


def baseline_graph(baseline: Baseline) -> Graph:
    """The pair as a graph with the contract's outputs."""
    builder = GraphBuilder({IMAGE: (3, baseline.image_size, baseline.image_size)})
    image = pooled_image(builder, "segmentation", baseline.stride)
    features = _unet(builder, image, baseline)
    maps = segmentation_head(builder, features, baseline.stride, baseline.head, "entropy")
    joined = quality_input(builder, image, maps, baseline.stride)
    quality = _resnet18(builder, joined, baseline.quality_width)
    return finish_pair(builder, maps, quality_output(builder, quality), {"space": "unet-resnet18"})


def _unet(builder: GraphBuilder, features: str, baseline: Baseline) -> str:
    def double_conv(name: str, source: str, width: int) -> str:
        for index in range(2):
            source = builder.add(f"{name}/conv{index}", Conv(width, bias=True), source, role="unet")
        return source

    skips = []
    for level in range(baseline.depth):
        features = double_conv(f"unet/down{level}", features, baseline.width * 2**level)
        skips.append(features)
        features = builder.add(f"unet/pool{level}", MaxPool(2, 2, 0), features, role="unet")
    features = double_conv("unet/bottom", features, baseline.width * 2**baseline.depth)
    for level in reversed(range(baseline.depth)):
        up = ConvTranspose(baseline.width * 2**level, 2, norm=False, bias=True, activation="none")
        features = builder.add(f"unet/up{level}/transposed", up, features, role="unet")
        features = builder.add(f"unet/up{level}/concat", Concat(), skips[level], features, role="concat")
        features = double_conv(f"unet/up{level}", features, baseline.width * 2**level)
    return features


def _resnet18(builder: GraphBuilder, features: str, width: int) -> str:
    features = builder.add("resnet/stem", Conv(width, 3, stride=2), features, role="stem")
    features = builder.add("resnet/pool", MaxPool(3, 2, 1), features, role="stem")
    channels = width
    for stage, blocks in enumerate(RESNET18_BLOCKS):
        for block in range(blocks):
            name, out = f"resnet/stage{stage}/block{block}", width * 2**stage
            stride = 2 if stage and not block else 1
            inner = builder.add(f"{name}/conv0", Conv(out, stride=stride), features, role="resnet")
            inner = builder.add(f"{name}/conv1", Conv(out, activation="none"), inner, role="resnet")
            if stride > 1 or channels != out:
                shortcut = Conv(out, 1, stride=stride, activation="none")
                features = builder.add(f"{name}/shortcut", shortcut, features, role="resnet")
            features = builder.add(f"{name}/sum", Add("relu"), inner, features, role="resnet")
            channels = out
    return features
