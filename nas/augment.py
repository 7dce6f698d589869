"""Augmentation of a batch on the fly (decision 23), a function of a generator that comes from (seed, epoch, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from latencykit.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed; every amount is drawn uniformly per image."""

    translate: float = 0.1  # of the image's side, each way
    rotate_degrees: float = 10.0  # each way
    scale: float = 0.1  # 0.9 to 1.1
    gain: float = 0.0  # brightness times exp(-gain) to exp(gain)
    gamma: float = 0.0  # brightness to the power exp(-gamma) to exp(gamma)

    def __post_init__(self) -> None:
        for name in ("translate", "rotate_degrees", "scale", "gain", "gamma"):
            if getattr(self, name) < 0:
                raise InputError(f"augmentation: {name} is {getattr(self, name)}; expected at least 0.")
        if self.scale >= 1:
            raise InputError(f"augmentation: scale is {self.scale}; expected less than 1.")


def augment(images: Tensor, masks: Tensor, settings: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move, turn and scale images and masks alike, then change the images' brightness. No flips.

    Args:
        images: (n, C, S, S) in [0, 1]; bilinear, zeros outside.
        masks: (n, 1, S, S) in {0, 1}; nearest.
        settings: how far.
        generator: on the CPU; the amounts depend on it and on n alone.
    """
    amounts = torch.rand((6, len(images)), generator=generator) * 2 - 1
    images, masks = moved(images, masks, _affine(amounts, settings))
    gain, gamma = (
        (amounts[4:] * torch.tensor([[settings.gain], [settings.gamma]])).exp().to(images)[..., None, None, None]
    )
    if settings.gain or settings.gamma:
        images = (images.clamp(min=0) ** gamma * gain).clamp(max=1)
    return images, masks


def moved(images: Tensor, masks: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """Images and masks read elsewhere.

    The grid is that of `torch.nn.functional.affine_grid`, which takes 20 times as long on a CPU.

    Args:
        images: (n, C, S, S); bilinear, zeros outside.
        masks: (n, 1, S, S); nearest.
        affine: (n, 2, 3), where an output pixel reads, in units of half the image's side.
    """
    side = images.shape[-1]
    at = (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1
    across, down, shift = affine.to(images)[..., None, None].unbind(2)
    grid = (across * at + down * at[:, None] + shift).permute(0, 2, 3, 1)
    images = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return images, functional.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _affine(amounts: Tensor, settings: Augmentation) -> Tensor:
    """(n, 2, 3): where an output pixel reads, in units of half the image's side."""
    angle = amounts[0] * math.radians(settings.rotate_degrees)
    zoom = 1 / (1 + amounts[1] * settings.scale)
    shift = 2 * settings.translate * amounts[2:4]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    return torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], 1)
