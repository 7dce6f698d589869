"""The difference of two rows' Dice on the same patients, with an interval by bootstrap over the patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError
from nas.metrics import FrameScores

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def dice_difference(ours: Sequence[FrameScores], theirs: Sequence[FrameScores]) -> Difference:
    """The mean Dice of one row less that of another.

    Frames of a patient are alike, so patients are drawn, not frames; the seeds of a row are averaged frame by frame, so
    the interval is that of other patients, not of other trainings.

    Args:
        ours: scores of the same frames, one for each seed of the row.
        theirs: the same of the other row.

    Raises:
        InputError: scores of different frames, without patients, or of a single patient.
    """
    patients = ours[0].patients
    if not patients or any(scores.patients != patients for scores in (*ours, *theirs)):
        raise InputError("scores to be compared are of different frames or name no patients; score both rows again.")
    _, of_frame = np.unique(patients, return_inverse=True)
    counts = np.bincount(of_frame)
    if len(counts) < 2:
        raise InputError("scores to be compared are of one patient; expected several.")
    frames = np.mean([scores.dice for scores in ours], axis=0) - np.mean([scores.dice for scores in theirs], axis=0)
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.bincount(of_frame, frames), counts), _mean, paired=True, vectorized=True, n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Difference(float(frames.mean()), float(interval.low), float(interval.high))


def _mean(sums: npt.NDArray[Any], counts: npt.NDArray[Any], axis: int = -1) -> npt.NDArray[Any]:
    """Of frames, given each patient's sum and number of frames."""
    return np.asarray(sums.sum(axis) / counts.sum(axis))
