"""The macro configuration: everything of a network pair that is not an edge's choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latencykit.bounds import require_at_most
from latencykit.errors import InputError
from latencykit.schema import decode, read_json

MAX_FILE_BYTES = 1_000_000
MAX_IMAGE_SIZE = 4096
MAX_WIDTH = 4096
MAX_LEVELS = 12
MAX_CELL_NODES = 8

Head = Literal["resize", "depth_to_space", "transposed_conv"]
ActivationPlace = Literal["operation", "node"]
UncertaintyKind = Literal["entropy", "least_confidence"]


@dataclass(frozen=True)
class Macro:
    """The skeleton of the searched pair; the default is the paper's (decisions 6, 10, 14, 16).

    Attributes:
        image_size: side of the square image, pixels.
        segmentation_stride: the image is average-pooled by this before the segmentation network.
        quality_stride: the same for the quality network.
        segmentation_widths: channels by level; level l lies at image_size / segmentation_stride / 2^l. Level 0 is
            stem0, level 1 stem1, every further one a Down cell.
        quality_widths: channels of the stem (at half the network's input) and of each Contracting + Non-scaling pair.
        cell_nodes: intermediate nodes m of every cell.
        output_stride: the last Up cell's level as a power of two; 1 gives logits at the network's input resolution.
        head: how logits come back to the image's resolution.
        activation_place: ReLU after each operation, or after each node's sum.
        uncertainty: how the map is computed.
    """

    image_size: int = 256
    segmentation_stride: int = 1
    quality_stride: int = 1
    segmentation_widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    quality_widths: tuple[int, ...] = (8, 8, 16, 32, 64)
    cell_nodes: int = 3
    output_stride: int = 1
    head: Head = "resize"
    activation_place: ActivationPlace = "operation"
    uncertainty: UncertaintyKind = "entropy"

    def __post_init__(self) -> None:
        for name in ("image_size", "segmentation_stride", "quality_stride", "output_stride", "cell_nodes"):
            if getattr(self, name) < 1:
                raise InputError(f"macro.{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("image_size", "segmentation_stride", "quality_stride", "output_stride"):
            require_at_most(f"macro.{name}", getattr(self, name), MAX_IMAGE_SIZE)
        require_at_most("macro.cell_nodes", self.cell_nodes, MAX_CELL_NODES)
        for name in ("segmentation_widths", "quality_widths"):
            require_at_most(f"the number of levels of macro.{name}", len(getattr(self, name)), MAX_LEVELS)
        for name in ("segmentation_stride", "quality_stride", "output_stride"):
            if getattr(self, name) & (getattr(self, name) - 1):
                raise InputError(f"macro.{name} is {getattr(self, name)}; expected a power of two.")
        if len(self.segmentation_widths) < 3:
            raise InputError(
                f"macro.segmentation_widths has {len(self.segmentation_widths)} levels; expected 3 or more."
            )
        if len(self.quality_widths) < 2:
            raise InputError(f"macro.quality_widths has {len(self.quality_widths)} levels; expected 2 or more.")
        if min(*self.segmentation_widths, *self.quality_widths) < 1:
            raise InputError("macro: every width must be at least 1.")
        require_at_most("macro: the largest width", max(*self.segmentation_widths, *self.quality_widths), MAX_WIDTH)
        if self.output_level > len(self.segmentation_widths) - 2:
            raise InputError(f"macro.output_stride {self.output_stride} leaves no Up cell; expected less.")
        deepest = self.segmentation_stride * 2 ** (len(self.segmentation_widths) - 1)
        deepest_quality = self.quality_stride * 2 ** len(self.quality_widths)
        for name, factor in (("segmentation", deepest), ("quality", deepest_quality)):
            if self.image_size % factor:
                raise InputError(
                    f"macro: the {name} network divides the image by {factor}, which does not divide image_size "
                    f"{self.image_size}; use fewer levels or a smaller {name}_stride."
                )

    @property
    def output_level(self) -> int:
        """Level of the last Up cell."""
        return self.output_stride.bit_length() - 1

    @property
    def logit_stride(self) -> int:
        """Image pixels per logit."""
        return self.segmentation_stride * self.output_stride


def read_macro(space: str) -> Macro:
    """The macro configuration that a word or file names: `paper`, or a JSON object of the fields that differ from it.

    Raises:
        InputError: no such file, or one that does not describe a macro configuration.
    """
    if space == "paper":
        return Macro()
    path = Path(space)
    if not path.is_file():
        raise InputError(f"space {space!r} is neither 'paper' nor a JSON file of a macro configuration.")
    return decode(Macro, read_json(path, MAX_FILE_BYTES), str(path))
