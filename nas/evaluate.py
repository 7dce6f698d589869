"""What a deployed model says about each frame of a data set, and how good that is.

The model is seen through a `Predictor`, so that the scores are those of the very file that is timed and shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError
from nas.data import Dataset

MASK_THRESHOLD = 0.5

Predictor = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]
"""From an image (1, 3, 256, 256) in [0, 1] to the outputs by name: `mask` and `uncertainty` (1, 1, 256, 256), `dice`
(1, 1)."""


@dataclass(frozen=True)
class Predictions:
    """A model's word on N frames.

    Attributes:
        masks: bool (N, 256, 256), hard masks.
        dice: float32 (N,), the predicted Dice.
        uncertainty: float32 (N,), sum of the uncertainty map over the hard mask's area, which is at least one pixel.
    """

    masks: npt.NDArray[np.bool_]
    dice: npt.NDArray[np.float32]
    uncertainty: npt.NDArray[np.float32]


def predict(dataset: Dataset, predictor: Predictor) -> Predictions:
    """Run a model over all frames, one at a time, as a scanner does.

    Raises:
        InputError: an output is missing, of another shape, or not finite.
    """
    masks = np.empty(dataset.masks.shape, bool)
    dice, uncertainty = np.empty((2, len(dataset)), np.float32)
    for index in range(len(dataset)):
        outputs = predictor(dataset.rgb(index))
        for name, shape in _shapes(masks.shape[1:]).items():
            found = outputs[name].shape if name in outputs else "absent"
            if found != shape:
                raise InputError(f"the model's output {name!r} is {found}; expected {shape}: is it a `nas export`?")
            if not np.isfinite(outputs[name]).all():
                raise InputError(f"the model's output {name!r} is not finite on frame {index}; train it again.")
        masks[index] = outputs["mask"][0, 0] > MASK_THRESHOLD
        dice[index] = outputs["dice"][0, 0]
        uncertainty[index] = outputs["uncertainty"].sum() / max(1, masks[index].sum())
    return Predictions(masks, dice, uncertainty)


def _shapes(image: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The outputs that are scored."""
    return {"mask": (1, 1, *image), "uncertainty": (1, 1, *image), "dice": (1, 1)}
