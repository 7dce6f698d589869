"""Bad frames made from real ones: what an operator sees go wrong while scanning, for the quality network.

Seven kinds, each with a severity from 0 (nothing changes) to 1: `gain`, `blur` and `dropout` anywhere, `shadow` and
`lift` along beams that leave a probe at the middle of the upper edge (roughly: a sector's apex lies some rows lower),
`off_axis` and `depth` by moving the anatomy and the mask with it. Which kinds a training sees, which are held out, how
many frames, and the seed lie in a file that is committed before anything is trained with it (`degradations.toml`).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from latencykit.errors import InputError
from latencykit.schema import decode, to_json
from nas.augment import moved
from nas.data import Dataset
from nas.randomness import Stream, torch_generator

Kind = Literal["gain", "blur", "dropout", "shadow", "lift", "off_axis", "depth"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FROZEN = Path(__file__).with_name("degradations.toml")
"""The file that the project's results are made with."""

HALF_SECTOR = math.radians(38)
"""Half of the angle that a phased array sees, radians."""

Draw = Callable[[int], Tensor]
"""The next random numbers in [0, 1), (k, n, 1, 1, 1): k for each image."""


@dataclass(frozen=True)
class Degradations:
    """What is done to frames so that some of them fail.

    Attributes:
        seed: of the frames that are evaluated; a training draws its own.
        share: of a training's frames that are degraded, each by one kind and a uniform severity.
        least, most: severities.
        held_out: kinds that no training sees.
    """

    seed: int
    share: float
    least: float
    most: float
    held_out: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"degradations: seed is {self.seed}; expected at least 0.")
        if not 0 <= self.share <= 1:
            raise InputError(f"degradations: share is {self.share}; expected 0 to 1.")
        if not 0 <= self.least <= self.most <= 1:
            raise InputError(f"degradations: severities {self.least} to {self.most}; expected 0 <= least <= most <= 1.")
        if len(set(self.held_out)) < len(self.held_out) or not self.seen:
            raise InputError(f"degradations: held_out is {self.held_out}; expected each kind once, not all.")

    @property
    def seen(self) -> tuple[Kind, ...]:
        """The kinds that a training sees."""
        return tuple(kind for kind in KINDS if kind not in self.held_out)

    @property
    def sets(self) -> Mapping[Literal["seen", "held_out"], tuple[Kind, ...]]:
        """The kinds of frames to evaluate with, apart; none are held out where that is so."""
        sets: dict[Literal["seen", "held_out"], tuple[Kind, ...]] = {"seen": self.seen, "held_out": self.held_out}
        return {name: kinds for name, kinds in sets.items() if kinds}

    def severity(self, drawn: Tensor) -> Tensor:
        """Severities from uniform numbers in [0, 1)."""
        return self.least + (self.most - self.least) * drawn

    def spoil(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Degrade a share of a training's frames, (n, C, S, S) and (n, 1, S, S), by the kinds that it may see."""
        chosen, severity, kinds = torch.rand((3, len(images)), generator=generator)
        kind_of = torch.where(chosen < self.share, (kinds * len(self.seen)).long(), -1).tolist()
        severity = self.severity(severity)
        images, masks = images.clone(), masks.clone()
        for index, kind in enumerate(self.seen):
            if of_kind := [place for place, found in enumerate(kind_of) if found == index]:
                images[of_kind], masks[of_kind] = degrade(
                    images[of_kind], masks[of_kind], kind, severity[of_kind], generator
                )
        return images, masks


def load_degradations(path: Path = FROZEN) -> Degradations:
    """Read a file of degradations; raises `InputError` naming the file and the field."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    return decode(Degradations, data, str(path))


def bad_frames(dataset: Dataset, degradations: Degradations, kinds: Sequence[Kind]) -> Dataset:
    """Every frame of a data set degraded once, by these kinds in equal shares and random order.

    What becomes of a frame depends on the seed, the kinds, the number of frames and the frame's place alone. Moved
    anatomy has no known scale: the distances of the result are in pixels (`spacing_mm` of 1).
    """
    images, masks = dataset.images.copy(), dataset.masks.copy()
    order = np.random.default_rng((degradations.seed, len(dataset))).permutation(len(dataset))
    for place, rank in enumerate(order.tolist()):
        kind = kinds[rank % len(kinds)]
        generator = torch_generator(degradations.seed, Stream.EVALUATED_FRAMES, KINDS.index(kind), place)
        severity = degradations.severity(torch.rand(1, generator=generator))
        image = torch.from_numpy(images[place : place + 1]).float() / 255
        mask = torch.from_numpy(masks[place : place + 1])[None].float()
        image, mask = degrade(image, mask, kind, severity, generator)
        images[place] = (255 * image[0]).round().to(torch.uint8).numpy()
        masks[place] = mask[0, 0].to(torch.uint8).numpy()
    made_from = json.dumps({"data": dataset.sha256, "kinds": kinds, "degradations": to_json(degradations)})
    return replace(
        dataset, images=images, masks=masks, spacing_mm=np.ones_like(dataset.spacing_mm), made_from=made_from
    )


def degrade(
    images: Tensor, masks: Tensor, kind: Kind, severity: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Degrade every frame of a batch by one kind.

    Args:
        images: (n, C, S, S) in [0, 1].
        masks: (n, 1, S, S) in {0, 1}.
        kind: which.
        severity: (n,), from 0, which changes nothing, to 1.
        generator: on the CPU; places and directions are drawn from it.

    Returns:
        Images and masks; these differ from what was given for `off_axis` and `depth` alone.
    """

    def draw(count: int) -> Tensor:
        return torch.rand((count, len(images), 1, 1, 1), generator=generator).to(images)

    amount = severity.to(images).view(-1, 1, 1, 1)
    if kind in _MOVED:
        return moved(images, masks, _MOVED[kind](amount, draw))
    return _SHADED[kind](images, amount, draw).clamp(0, 1), masks


def _gain(images: Tensor, amount: Tensor, draw: Draw) -> Tensor:
    """Too low, so that weak echoes fall under the threshold, or too high, so that they saturate."""
    (side,) = draw(1)
    low = (images * (1 - 0.6 * amount) - 0.25 * amount).clamp(min=0)
    high = images * (1 + 3 * amount) + 0.25 * amount * (images > 0)
    return torch.where(side < 0.5, low, high)


def _blur(images: Tensor, amount: Tensor, draw: Draw) -> Tensor:
    """Out of focus: a Gaussian of up to 4 % of the image's side along its rows, a third of that along its columns."""
    (strength,) = draw(1)
    side = images.shape[-1]
    sigma = 0.04 * side * amount * (0.5 + 0.5 * strength)
    return _smoothed(_smoothed(images, sigma, -1), sigma / 3, -2)


def _smoothed(images: Tensor, sigma: Tensor, axis: Literal[-1, -2]) -> Tensor:
    """Gaussian smoothing along one axis, each image by its own sigma (n, 1, 1, 1), in pixels."""
    count, channels, height, width = images.shape
    reach = max(1, math.ceil(3 * float(sigma.max())))
    places = torch.arange(-reach, reach + 1, device=images.device)
    kernels = torch.exp(-0.5 * (places / sigma.clamp(min=1e-3)) ** 2)
    kernels = (kernels / kernels.sum(-1, keepdim=True)).repeat_interleave(channels, 0)
    flat = images.reshape(1, count * channels, height, width)
    padding = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    flat = functional.pad(flat, padding, mode="replicate")
    weight = kernels if axis == -1 else kernels.transpose(-1, -2)
    return functional.conv2d(flat, weight, groups=count * channels).view_as(images)


def _dropout(images: Tensor, amount: Tensor, draw: Draw) -> Tensor:
    """Patches without an echo: smooth random areas, up to half of the image, fade out."""
    grains = draw(64).reshape(8, 8, -1).permute(2, 0, 1)[:, None]
    field = functional.interpolate(grains, size=images.shape[-2:], mode="bicubic", align_corners=False)
    lost = torch.sigmoid((field - (1 - 0.5 * amount)) / 0.04) * (4 * amount).clamp(max=1)
    return images * (1 - lost)


def _shadow(images: Tensor, amount: Tensor, draw: Draw) -> Tensor:
    """A rib, or a part of the lung: one or two dark beams that begin at some depth."""
    angle, depth = _polar(images)
    for always in (True, False):
        centre, breadth, start, there = draw(4)
        width = (0.05 + 0.2 * breadth) * (0.5 + 0.5 * amount)
        dark = torch.exp(-(((angle - (centre - 0.5)) / width) ** 2)) * torch.sigmoid((depth - 0.3 * start) / 0.02)
        images = images * (1 - amount.sqrt() * dark * ((there < 0.75) | always))
    return images


def _lift(images: Tensor, amount: Tensor, draw: Draw) -> Tensor:
    """The probe loses contact from one side: no echo there, but the bright rings of reverberation near it."""
    angle, depth = _polar(images)
    side, phase = draw(2)
    direction = torch.where(side < 0.5, -1.0, 1.0)
    lost = torch.sigmoid((direction * angle - (0.7 - 1.2 * amount)) / 0.06) * amount.sqrt()
    rings = torch.exp(-depth / 0.15) * (0.5 + 0.5 * torch.cos(2 * math.pi * (depth / 0.04 + phase)))
    return images * (1 - lost) + 0.5 * lost * rings * (angle.abs() < HALF_SECTOR)


def _polar(images: Tensor) -> tuple[Tensor, Tensor]:
    """Angle of each pixel's beam (radians from straight down) and its depth in image sides, (S, S) each."""
    side = images.shape[-1]
    at = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
    rows, columns = at[:, None], at[None, :] - 0.5
    return torch.atan2(columns, rows), torch.hypot(rows, columns)


def _off_axis(amount: Tensor, draw: Draw) -> Tensor:
    """A tilted and turned cut: the heart rotated about the probe by up to 35 degrees, foreshortened by up to 45 %."""
    side, strength, along = draw(3)
    turn = math.radians(35) * amount * torch.where(side < 0.5, -1.0, 1.0) * (0.5 + 0.5 * strength)
    return _about_probe(turn, 1 + 0.8 * amount * along, 1 + 0.8 * amount * (1 - along))


def _depth(amount: Tensor, draw: Draw) -> Tensor:
    """A depth setting that is wrong: the heart small in the image's upper part, or cut off at its lower edge."""
    (side,) = draw(1)
    zoom = 2 ** (1.2 * amount * torch.where(side < 0.5, -1.0, 1.0))
    return _about_probe(torch.zeros_like(zoom), zoom, zoom)


def _about_probe(turn: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """(n, 2, 3) for `moved`: where an output pixel reads, turned and stretched about the upper edge's middle."""
    turn, across, along = (value.flatten() for value in (turn, across, along))
    cos, sin = turn.cos(), turn.sin()
    rows = torch.stack([across * cos, -across * sin, along * sin, along * cos], -1).view(-1, 2, 2)
    probe = torch.tensor([0.0, -1.0]).to(rows)
    return torch.cat([rows, (probe - rows @ probe)[..., None]], -1)


_SHADED: Mapping[str, Callable[[Tensor, Tensor, Draw], Tensor]] = {
    "gain": _gain,
    "blur": _blur,
    "dropout": _dropout,
    "shadow": _shadow,
    "lift": _lift,
}
_MOVED: Mapping[str, Callable[[Tensor, Draw], Tensor]] = {"off_axis": _off_axis, "depth": _depth}
