"""Figures by which made-up frames can be held against real ones: grey levels, mask area, size of the speckle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nas.data.dataset import Dataset

_STRUCTURE_PX: Final = 5.0
"""Blur that leaves anatomy and takes away speckle, whose width is to be measured."""

_MAX_LAG_PX: Final = 12


@dataclass(frozen=True)
class FrameStatistics:
    """Of n frames of one data set. Grey levels are 0..255; a frame lacking a region has NaN there.

    Attributes:
        histogram: float64 (256,), share of the sector's pixels at each grey level.
        wall_grey, cavity_grey, other_grey: float64 (n,), mean over the mask, over what it encloses, and over the rest
            of the sector.
        mask_share: float64 (n,), share of the picture that the mask covers.
        speckle_down_px, speckle_across_px: float64 (n,), full width at half maximum of the wall's autocorrelation.
    """

    histogram: npt.NDArray[np.float64]
    wall_grey: npt.NDArray[np.float64]
    cavity_grey: npt.NDArray[np.float64]
    other_grey: npt.NDArray[np.float64]
    mask_share: npt.NDArray[np.float64]
    speckle_down_px: npt.NDArray[np.float64]
    speckle_across_px: npt.NDArray[np.float64]


def frame_statistics(dataset: Dataset) -> FrameStatistics:
    """Measure every frame of a data set."""
    histogram = np.zeros(256)
    rows = []
    for image, mask in zip(dataset.images, dataset.masks, strict=True):
        grey = image.mean(axis=0) if image.shape[0] == 3 else image[0].astype(np.float64)
        wall, sector = mask.astype(bool), _sector(grey)
        cavity = enclosed(wall)
        histogram += np.bincount(np.rint(grey[sector]).astype(np.int64), minlength=256)
        other = sector & ~wall & ~cavity
        texture = grey - ndimage.gaussian_filter(grey, _STRUCTURE_PX)
        inner = wall & sector
        rows.append(
            (
                _mean(grey, wall),
                _mean(grey, cavity),
                _mean(grey, other),
                wall.mean(),
                _width(texture, inner, axis=0),
                _width(texture, inner, axis=1),
            )
        )
    columns = np.array(rows, dtype=np.float64).T
    return FrameStatistics(histogram / max(histogram.sum(), 1), *columns)


def enclosed(wall: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what lies between the arms of a horseshoe that opens downwards: about the cavity, bool (256, 256)."""
    from_left = np.logical_or.accumulate(wall, axis=1)
    from_right = np.logical_or.accumulate(wall[:, ::-1], axis=1)[:, ::-1]
    from_above = np.logical_or.accumulate(wall, axis=0)
    return from_left & from_right & from_above & ~wall


def _sector(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return where the picture is, without its black surroundings."""
    return ndimage.binary_closing(np.pad(grey > 0, 4), iterations=3)[4:-4, 4:-4]


def _mean(grey: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]) -> float:
    return float(grey[where].mean()) if where.any() else float("nan")


def _width(texture: npt.NDArray[np.float64], where: npt.NDArray[np.bool_], axis: int) -> float:
    """Return the autocorrelation's full width at half maximum along an axis, in pixels, interpolated."""
    power = float(np.square(texture[where]).mean()) if where.any() else 0.0
    if power == 0:
        return float("nan")
    before = 1.0
    for lag in range(1, _MAX_LAG_PX + 1):
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(lag, None), slice(None, -lag)
        both = where[tuple(ahead)] & where[tuple(behind)]
        if not both.any():
            return float("nan")
        value = float((texture[tuple(ahead)] * texture[tuple(behind)])[both].mean()) / power
        if value <= 0.5:
            return 2 * (lag - 1 + (before - 0.5) / (before - value))
        before = value
    return 2.0 * _MAX_LAG_PX
