"""What searching and training share: one pass forward, frames for a step, scores, and a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latencykit.builder import LOGITS
from latencykit.files import write_text
from nas.augment import Augmentation, augment
from nas.degradations import Degradations
from nas.distributed import is_first, mean, share
from nas.frames import Frames, as_rgb
from nas.modules import GraphModule, Probabilities
from nas.objective import hard_dice, quality_loss
from nas.optimisation import Precision, autocast
from nas.randomness import Stream, torch_generator

CHECKPOINT_FOLDER = "checkpoint"
HISTORY_FILE = "history.jsonl"
ARCHITECTURE_FILE = "architecture.json"

DICE = "dice"


@dataclass(frozen=True)
class Learner:
    """A network pair with the way it is run while learning.

    Attributes:
        module: the pair, or the supernet.
        precision: of the convolutions.
        device: where it lies.
        stop_gradient: whether the quality loss stops at the maps that the quality network reads.
    """

    module: GraphModule
    precision: Precision
    device: str
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        # bfloat16 convolutions are faster with channels last
        layout = torch.channels_last if self.precision == "bfloat16" else torch.contiguous_format
        self.module.to(device=self.device, memory_format=layout)  # type: ignore[call-overload]  # torch's hints lack it

    def as_begun(self, state: Mapping[str, Any]) -> Learner:
        """In the precision that a checkpoint was computed in, whatever this machine's is; older ones do not say it."""
        return replace(self, precision=state.get("precision", self.precision))

    def forward(
        self, images: Tensor, probabilities: Probabilities | None = None, quality: bool = True, auxiliary: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (n, 1, S, S) and, where wanted, the predicted Dice (n, 1)."""
        mixing: dict[str, Any] = {"probabilities": probabilities, "auxiliary": auxiliary}
        with autocast(self.precision, self.device):
            if not quality:
                return self.module(images, (LOGITS,), **mixing)[LOGITS], None
            if not self.stop_gradient:
                values = self.module(images, (LOGITS, DICE), **mixing)
                return values[LOGITS], values[DICE]
            values = self.module(images, (LOGITS, *self.module.boundary), **mixing)
            return values[LOGITS], self._quality(images, values, mixing)

    def frozen_quality_loss(
        self,
        images: Tensor,
        masks: Tensor,
        probabilities: Probabilities | None = None,
        auxiliary: float = 0.0,
    ) -> Tensor:
        """The quality loss with the segmentation only evaluated; its part must be in evaluation mode."""
        mixing: dict[str, Any] = {"probabilities": probabilities, "auxiliary": auxiliary}
        with autocast(self.precision, self.device):
            with torch.no_grad():
                values = self.module(images, (LOGITS, *self.module.boundary), **mixing)
            return quality_loss(self._quality(images, values, mixing), values[LOGITS], masks)

    def _quality(self, images: Tensor, values: Mapping[str, Tensor], mixing: dict[str, Any]) -> Tensor:
        given = {name: values[name].detach() for name in self.module.boundary}
        return self.module(images, (DICE,), given=given, **mixing)[DICE]

    def load(
        self,
        frames: Frames,
        indices: npt.NDArray[np.int64],
        augmentation: Augmentation,
        seed: int,
        position: Sequence[int],
        degradations: Degradations | None = None,
    ) -> tuple[Tensor, Tensor]:
        """RGB images and masks of this process's share of one step, degraded where asked for and augmented.

        What is drawn depends on (seed, position) alone.
        """
        generator = torch_generator(seed, Stream.AUGMENTATION, *position)
        images, masks = (tensor.to(self.device) for tensor in frames.batch(indices))
        if degradations is not None:
            images, masks = degradations.spoil(images, masks, torch_generator(seed, Stream.BAD_FRAMES, *position))
        images, masks = augment(images, masks, augmentation, generator)
        return share(as_rgb(images)), share(masks)

    @torch.no_grad()
    def score(
        self, frames: Frames, batch_size: int, probabilities: Probabilities | None = None, quality: bool = True
    ) -> FrameDice:
        """Dice of every frame, measured and predicted, in evaluation mode."""
        self.module.train_parts(segmentation=False, quality=False)
        actual, predicted = [], []
        for images, masks in frames.in_order(batch_size):
            logits, dice = self.forward(images.to(self.device), probabilities, quality)
            actual.append(hard_dice(logits, masks.to(self.device)).cpu())
            predicted.append(torch.full((len(images),), torch.nan) if dice is None else dice.float().flatten().cpu())
        return FrameDice(torch.cat(actual).numpy(), torch.cat(predicted).numpy())


@dataclass(frozen=True)
class FrameDice:
    """Dice by frame, (N,): of the hard mask, and what the quality network says (NaN where it was not asked)."""

    actual: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.float32]

    @property
    def dice(self) -> float:
        """Mean Dice."""
        return float(self.actual.mean())

    @property
    def mae(self) -> float:
        """Mean absolute error of the predicted Dice."""
        return float(np.abs(self.predicted - self.actual).mean())


class Means:
    """Running means by name, over all processes' shares."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor | float) -> None:
        """Count one value for each name."""
        for name, value in values.items():
            found = float(mean(value) if isinstance(value, Tensor) else value)
            self._sums[name] = self._sums.get(name, 0.0) + found
            self._counts[name] = self._counts.get(name, 0) + 1

    def __getitem__(self, name: str) -> float:
        return self._sums[name] / self._counts[name]

    def as_dict(self) -> dict[str, float]:
        """All means."""
        return {name: self[name] for name in self._sums}


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, one object an epoch; whole or not at all, so resuming leaves no line twice."""
    if not is_first():
        return
    write_text(folder / HISTORY_FILE, "".join(json.dumps(record, allow_nan=False) + "\n" for record in history))
