"""How good predicted masks and predicted Dice values are: decision 25's figures, per frame and as means.

The mean absolute error of the predicted Dice never stands alone: a constant predictor reaches the paper's 0.05 too, so
its error, Pearson's r and the area under the ROC curve are always beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from latencykit.errors import InputError

HD_PERCENTILE = 95
ACCEPTANCE_DICE = 0.7
"""A frame whose Dice lies below this should be taken again; the default threshold of the AUROC."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FrameScores:
    """Scores of N frames, in their order.

    Attributes:
        dice: float (N,), of the hard mask.
        hd95_mm: float (N,), the larger of the two directed 95th percentiles; NaN where either mask is empty.
        asd_mm: float (N,), average symmetric surface distance; NaN where either mask is empty.
        dice_predicted: float (N,), what the quality network said.
        dice_constant: the mean Dice of the training frames, what the constant predictor says.
        acceptance: Dice below which a frame should be rejected.
        trivial: scores by name that cost nothing and are higher the worse a frame looks, each float (N,): a quality
            network must beat them.
        patients: whom each frame shows; none where that is not known.
    """

    dice: Floats
    hd95_mm: Floats
    asd_mm: Floats
    dice_predicted: Floats
    dice_constant: float
    acceptance: float = ACCEPTANCE_DICE
    trivial: Mapping[str, Floats] = field(default_factory=dict)
    patients: tuple[str, ...] = ()

    def select(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> FrameScores:
        """The frames at `index`, a mask or positions, repeated ones too: a subset, or one draw of a bootstrap."""
        arrays = (self.dice, self.hd95_mm, self.asd_mm, self.dice_predicted)
        trivial = {name: array[index] for name, array in self.trivial.items()}
        chosen = tuple(np.asarray(self.patients)[index].tolist()) if self.patients else ()
        dice, hd95_mm, asd_mm, predicted = (array[index] for array in arrays)
        return FrameScores(dice, hd95_mm, asd_mm, predicted, self.dice_constant, self.acceptance, trivial, chosen)

    def summary(self) -> Scores:
        """Means over the frames; raises `InputError` where there is none."""
        if not len(self.dice):
            raise InputError("scores: no frame to score; choose a split or subset that has some.")
        surface = np.isfinite(self.hd95_mm)
        return Scores(
            dice=float(self.dice.mean()),
            hd95_mm=float(self.hd95_mm[surface].mean()) if surface.any() else None,
            asd_mm=float(self.asd_mm[surface].mean()) if surface.any() else None,
            mae=float(np.abs(self.dice_predicted - self.dice).mean()),
            mae_constant=float(np.abs(self.dice_constant - self.dice).mean()),
            pearson_r=pearson_r(self.dice_predicted, self.dice),
            auroc=auroc(-self.dice_predicted, self.dice < self.acceptance),
            frames=len(self.dice),
            frames_without_surface=int((~surface).sum()),
            trivial={
                name: TrivialScore(pearson_r(-score, self.dice), auroc(score, self.dice < self.acceptance))
                for name, score in self.trivial.items()
            },
        )


@dataclass(frozen=True)
class TrivialScore:
    """How well a score that costs nothing does a quality network's work; the figures are those of `Scores`."""

    pearson_r: float | None
    auroc: float | None


@dataclass(frozen=True)
class Scores:
    """Means over a set of frames.

    Attributes:
        dice: mean of the per-frame Dice; two empty masks agree, so they score 1.
        hd95_mm: mean 95th-percentile Hausdorff distance over the frames that have both surfaces; None without any.
        asd_mm: mean average symmetric surface distance over the same frames.
        mae: mean absolute error of the predicted Dice.
        mae_constant: mean absolute error of predicting the training mean for every frame.
        pearson_r: correlation of predicted and true Dice; None where either does not vary.
        auroc: how well a low predicted Dice finds frames below the acceptance; None where all frames are alike.
        frames: number of frames scored.
        frames_without_surface: frames with an empty mask, left out of the two distances. A network that finds nothing
            looks better in millimetres than it is, so read them together.
        trivial: what the trivial scores reach, by name.
    """

    dice: float
    hd95_mm: float | None
    asd_mm: float | None
    mae: float
    mae_constant: float
    pearson_r: float | None
    auroc: float | None
    frames: int
    frames_without_surface: int
    trivial: Mapping[str, TrivialScore]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON takes them."""
        return asdict(self)


def frame_scores(
    masks_predicted: npt.NDArray[np.bool_],
    masks_true: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
    dice_predicted: npt.NDArray[np.floating],
    spacing_mm: npt.NDArray[np.floating],
    dice_constant: float,
    acceptance: float = ACCEPTANCE_DICE,
    uncertainty: npt.NDArray[np.floating] | None = None,
    patients: Sequence[str] = (),
) -> FrameScores:
    """Score predicted masks and predicted Dice values, frame by frame.

    Args:
        masks_predicted: bool (N, H, W), the hard masks.
        masks_true: bool or uint8 of 0 and 1 (N, H, W).
        dice_predicted: float (N,), in [0, 1].
        spacing_mm: float (N, 2), height and width of a pixel of these masks, millimetres.
        dice_constant: mean Dice of the training frames.
        acceptance: Dice below which a frame should be rejected.
        uncertainty: float (N,), `Predictions.uncertainty`, a trivial score where it is known.
        patients: whom each frame shows, N names, where known.

    Raises:
        InputError: arrays that do not fit together, hold other values, or hold no frame.
    """
    predicted, true = _mask(masks_predicted, "masks_predicted"), _mask(masks_true, "masks_true")
    quality, spacing = np.asarray(dice_predicted, np.float64), np.asarray(spacing_mm, np.float64)
    frames = len(predicted)
    for name, array, shape in (
        ("masks_true", true, predicted.shape),
        ("dice_predicted", quality, (frames,)),
        ("spacing_mm", spacing, (frames, 2)),
    ):
        if array.shape != shape:
            raise InputError(f"scores: {name} has the shape {array.shape}; expected {shape}.")
    if patients and len(patients) != frames:
        raise InputError(f"scores: {len(patients)} patients for {frames} frames; expected one for each.")
    if not np.isfinite(quality).all():
        raise InputError("scores: dice_predicted holds values that are not finite; the network diverged.")
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError("scores: spacing_mm must be above 0 millimetres everywhere; look at the data set's header.")
    for name, value in (("dice_constant", dice_constant), ("acceptance", acceptance)):
        if not 0 <= value <= 1:
            raise InputError(f"scores: {name} is {value}; expected 0 to 1.")
    hd95_mm, asd_mm = _surface_distances_mm(predicted, true, spacing)
    trivial = {"mask area": -predicted.mean(axis=(1, 2))}
    if uncertainty is not None:
        trivial["uncertainty"] = np.asarray(uncertainty, np.float64)
    return FrameScores(
        _dice(predicted, true), hd95_mm, asd_mm, quality, float(dice_constant), float(acceptance), trivial,
        tuple(patients),
    )  # fmt: skip


def pearson_r(a: Floats, b: Floats) -> float | None:
    """Pearson's correlation of two vectors; None where it is undefined: under two values, or one that never varies."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = a - a.mean(), b - b.mean()
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float(np.clip((x * y).sum() / norm, -1, 1)) if norm > 0 else None


def auroc(score: Floats, positive: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a positive frame scores above a negative one, ties half; None without both classes."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    rank_sum = rankdata(score)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _mask(array: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.bool_]:
    masks = np.asarray(array)
    if masks.ndim != 3:
        raise InputError(f"scores: {name} has the shape {masks.shape}; expected frames x height x width.")
    if masks.dtype == np.bool_:
        return masks
    if masks.dtype != np.uint8 or (masks.size and masks.max() > 1):
        raise InputError(f"scores: {name} holds {masks.dtype} values beyond 0 and 1; threshold it or pick one label.")
    return masks.astype(np.bool_)


def _dice(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> Floats:
    overlap = np.count_nonzero(predicted & true, axis=(1, 2))
    total = np.count_nonzero(predicted, axis=(1, 2)) + np.count_nonzero(true, axis=(1, 2))
    return np.where(total == 0, 1.0, 2 * overlap / np.maximum(total, 1))


def _surface_distances_mm(
    predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], spacing_mm: Floats
) -> tuple[Floats, Floats]:
    """HD95 and average symmetric surface distance of each frame (N,), NaN where a mask is empty."""
    hd95, asd = np.full(len(true), np.nan), np.full(len(true), np.nan)
    index = np.flatnonzero(predicted.any(axis=(1, 2)) & true.any(axis=(1, 2)))
    if len(index):
        # MONAI takes seconds to import. Its parts: its whole metrics find the edges once each and, as of 1.6, warn
        # about their own use of an argument.
        from monai.metrics.utils import get_mask_edges, get_surface_distance

        for i in index:
            edges = get_mask_edges(predicted[i], true[i], crop=False)
            spacing = spacing_mm[i].tolist()
            there = np.asarray(get_surface_distance(edges[0], edges[1], spacing=spacing), np.float64)
            back = np.asarray(get_surface_distance(edges[1], edges[0], spacing=spacing), np.float64)
            hd95[i] = max(np.percentile(there, HD_PERCENTILE), np.percentile(back, HD_PERCENTILE))
            asd[i] = np.concatenate((there, back)).mean()
    return hd95, asd
