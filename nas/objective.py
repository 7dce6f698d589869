"""Eq. 3: what a search and a training minimise, L = L_CE + lambda1 L_MSE + lambda2 LAT(alpha)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latencykit.edges import SearchCosts
from latencykit.space import CELL_TYPES
from nas.modules import Probabilities
from nas.operations import add


def segmentation_loss(logits: Tensor, masks: Tensor, dice_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """The whole segmentation loss, and the cross-entropy in it.

    Args:
        logits: (n, 1, S, S) at the image's resolution.
        masks: (n, 1, S, S) in {0, 1}.
        dice_weight: weight of the soft Dice loss beside the cross-entropy; the paper has none.
    """
    logits = logits.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    if not dice_weight:
        return cross_entropy, cross_entropy
    return cross_entropy + dice_weight * soft_dice_loss(logits, masks), cross_entropy


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - Dice of the probabilities, mean over the images; the 1 keeps an empty mask finite."""
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def hard_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice of each image's hard mask, (n,), without a gradient; 1 where both masks are empty (decision 19)."""
    predicted = (logits.detach() > 0).to(masks.dtype)
    overlap = (predicted * masks).sum((1, 2, 3))
    total = predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), torch.ones_like(total))


def quality_loss(predicted: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
    """Mean squared error of the predicted Dice (n, 1) against the hard mask's."""
    return functional.mse_loss(predicted.float().flatten(), hard_dice(logits, masks))


class ExpectedLatency:
    """Eq. 4 over all cells: the fixed part and each candidate's ms by its probability."""

    def __init__(self, costs: SearchCosts, device: str = "cpu") -> None:
        self._fixed_ms = costs.fixed_ms
        self._edges_ms = {
            cell_type: torch.as_tensor(costs.edges_ms[cell_type], dtype=torch.float32, device=device)
            for cell_type in CELL_TYPES
        }

    def __call__(self, probabilities: Probabilities) -> Tensor:
        """Latency in ms, differentiable in the probabilities."""
        return self._fixed_ms + add(*((probabilities[t] * self._edges_ms[t]).sum() for t in CELL_TYPES))
