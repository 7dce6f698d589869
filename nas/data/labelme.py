"""From a Labelme annotation to a mask: polygons that add to the myocardium and polygons that cut out of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from latencykit.errors import InputError

_MAX_BYTES: Final = 64 * 1024 * 1024
"""Labelme embeds the image as text; a file above this is no annotation of one frame."""


@dataclass(frozen=True)
class Labels:
    """What the annotators called things; compared without regard to case and outer spaces.

    Attributes:
        filled: shapes with these labels are united. A myocardium drawn as one outline, or as the epicardium's.
        cut_out: shapes with these labels are subtracted from the union, in whatever order they are listed.
    """

    filled: tuple[str, ...] = ("myocardium", "myo", "epicardium", "epi")
    cut_out: tuple[str, ...] = ("cavity", "endocardium", "endo", "hole")


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _Annotation(msgspec.Struct, rename="camel"):
    shapes: list[_Shape]
    image_height: int | None = None
    image_width: int | None = None


def rasterise(path: Path, height: int, width: int, labels: Labels) -> npt.NDArray[np.uint8]:
    """Return the mask uint8 (height, width) of an annotation of an image of that size.

    Supported are polygons. A ring can be drawn as two polygons (epicardium and endocardium, or myocardium and hole)
    or as one polygon that runs around the outside, in through a cut, and back along the inside.

    Raises:
        InputError: the file is missing or broken, was drawn on an image of another size, has a shape that is not a
            polygon, a label not in `labels`, or leaves no myocardium.
    """
    annotation = _read(path)
    drawn_on = (annotation.image_height or height, annotation.image_width or width)
    if drawn_on != (height, width):
        raise InputError(f"{path}: drawn on an image of {drawn_on}, its image is {(height, width)}: annotate that one")
    union = Image.new("1", (width, height))
    holes = Image.new("1", (width, height))
    for shape in annotation.shapes:
        canvas = union if _is_filled(path, shape, labels) else holes
        ImageDraw.Draw(canvas).polygon(_outline(path, shape), fill=1)
    mask = np.asarray(union) & ~np.asarray(holes)
    if not mask.any():
        raise InputError(f"{path}: no pixel is myocardium: draw a polygon with one of the labels {labels.filled}")
    return mask.astype(np.uint8)


def _read(path: Path) -> _Annotation:
    if not path.is_file():
        raise InputError(f"{path}: no annotation beside its image: annotate the frame, or remove it")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: over {_MAX_BYTES} bytes: not the annotation of one frame")
        return msgspec.json.decode(path.read_bytes(), type=_Annotation)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a Labelme annotation ({error}): save it again from Labelme") from error


def _is_filled(path: Path, shape: _Shape, labels: Labels) -> bool:
    name = shape.label.strip().casefold()
    if name in _folded(labels.filled):
        return True
    if name in _folded(labels.cut_out):
        return False
    raise InputError(
        f"{path}: unknown label {shape.label!r}, accepted are {[*labels.filled, *labels.cut_out]}: "
        "rename it in Labelme, or add it to the accepted labels"
    )


def _folded(names: Collection[str]) -> set[str]:
    return {name.casefold() for name in names}


def _outline(path: Path, shape: _Shape) -> list[tuple[float, float]]:
    if shape.shape_type != "polygon" or len(shape.points) < 3:
        raise InputError(
            f"{path}: {shape.label!r} is a {shape.shape_type!r} of {len(shape.points)} points, expected a polygon of "
            "at least 3: draw it again as a polygon"
        )
    if not all(math.isfinite(value) and abs(value) < 1e6 for point in shape.points for value in point):
        raise InputError(f"{path}: {shape.label!r} has a corner far outside of any image: draw it again")
    return shape.points
