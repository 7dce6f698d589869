"""Augmentation of a batch on the fly (decision 23), and badly acquired frames for the quality network to learn from.

Both are functions of a generator that the caller derives from (seed, epoch, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from latencykit.errors import InputError

SPECKLE_STRIDE = 4
"""Pixels per speckle grain."""


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed; every amount is drawn uniformly per image."""

    translate: float = 0.1  # of the image's side, each way
    rotate_degrees: float = 10.0  # each way
    scale: float = 0.1  # 0.9 to 1.1
    gain: float = 0.0  # brightness times exp(-gain) to exp(gain)
    gamma: float = 0.0  # brightness to the power exp(-gamma) to exp(gamma)
    degraded_share: float = 0.0  # of the images; these are also acquired badly, by a severity from 0 to 1

    def __post_init__(self) -> None:
        for name in ("translate", "rotate_degrees", "scale", "gain", "gamma", "degraded_share"):
            if getattr(self, name) < 0:
                raise InputError(f"augmentation: {name} is {getattr(self, name)}; expected at least 0.")
        if self.scale >= 1 or self.degraded_share > 1:
            raise InputError("augmentation: scale must stay under 1, and degraded_share at most 1.")


def augment(images: Tensor, masks: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move, turn and scale images and masks alike, then change the images' brightness. No flips.

    Args:
        images: (n, C, S, S) in [0, 1]; bilinear, zeros outside.
        masks: (n, 1, S, S) in {0, 1}; nearest.
        settings: how far.
        generator: on the CPU; the amounts depend on it and on n alone.
    """
    amounts = torch.rand((6, len(images)), generator=generator) * 2 - 1
    grid = functional.affine_grid(_affine(amounts, settings), list(masks.shape), align_corners=False).to(images)
    images = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    masks = functional.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    gain, gamma = (
        (amounts[4:] * torch.tensor([[settings.gain], [settings.gamma]])).exp().to(images)[..., None, None, None]
    )
    if settings.gain or settings.gamma:
        images = (images.clamp(min=0) ** gamma * gain).clamp(max=1)
    if settings.degraded_share:
        drawn = torch.rand((2, len(images)), generator=generator)
        images = degrade(images, drawn[0] * (drawn[1] < settings.degraded_share), generator)
    return images, masks


def _affine(amounts: Tensor, settings: Augmentation) -> Tensor:
    """(n, 2, 3): where an output pixel reads, in units of half the image's side."""
    angle = amounts[0] * math.radians(settings.rotate_degrees)
    zoom = 1 / (1 + amounts[1] * settings.scale)
    shift = 2 * settings.translate * amounts[2:4]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    return torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], 1)


def degrade(images: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Make frames look badly acquired: low gain, speckle, and the shadow of a rib or poor contact.

    Args:
        images: (n, C, S, S) in [0, 1].
        severity: (n,) from 0, unchanged, to 1.
        generator: on the CPU.
    """
    count, _, height, width = images.shape
    share = severity.view(-1, 1, 1, 1).to(images)
    strength, centre, breadth = torch.rand((3, count, 1, 1, 1), generator=generator).to(images)
    columns = torch.linspace(0, 1, width, device=images.device)
    shadow = torch.exp(-(((columns - centre) / (0.05 + 0.15 * breadth)) ** 2))  # (n, 1, 1, width)
    grains = torch.randn((count, 1, height // SPECKLE_STRIDE, width // SPECKLE_STRIDE), generator=generator)
    speckle = functional.interpolate(grains.to(images), size=(height, width), mode="bilinear", align_corners=False)
    factor = (1 - 0.7 * share * strength) * (1 - share * shadow) * (1 + 0.6 * share * speckle)
    return (images * factor).clamp(0, 1)
