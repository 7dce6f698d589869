"""What the beam meets: the echogenicity of every place in a contrast echocardiogram, in decibels.

Cavities are full of microbubbles and bright, with swirls; the myocardium is perfused a little and unevenly, and is
darker; what lies outside of the heart is as dark as the myocardium, give or take, which is why its outer border is
hard to find. Haze from side lobes and reverberation lies over all of it. Levels are relative to a full cavity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nas.data.anatomy import ANGLES, Heart, Outline, jitter, outline
from nas.data.ultrasound import Field, Probe, beam_positions, smooth_field

_NEPER: Final = np.float32(np.log(10) / 10)
"""Powers add: sums are formed of exp(dB * _NEPER)."""


@dataclass(frozen=True)
class Tissue:
    """A patient's echogenicity.

    Attributes:
        wall_db, right_db, atrium_db, outside_db: of the myocardium, the right chambers, the left atrium and of what
            lies around the heart.
        perfusion_db: float64 (361,) over ANGLES, what each part of the wall has more or less than its mean.
        border_db: float64 (361,) over ANGLES, how well the pericardium shows.
        swirl_db: deviation of the contrast inside of a cavity.
        apex_loss_db: what the bubbles near the probe, destroyed by it, take from the apex.
    """

    wall_db: float
    right_db: float
    atrium_db: float
    outside_db: float
    perfusion_db: npt.NDArray[np.float64]
    border_db: npt.NDArray[np.float64]
    swirl_db: float
    apex_loss_db: float


def draw_tissue(rng: np.random.Generator) -> Tissue:
    """Draw a patient's contrast concentration, perfusion and surroundings."""
    wall_db = -rng.uniform(9, 18)
    return Tissue(
        wall_db=wall_db,
        right_db=rng.normal(-2, 2),
        atrium_db=rng.normal(-3, 1.5),
        outside_db=wall_db + rng.normal(-3.0, 3.5),
        perfusion_db=jitter(rng, 2.6, 4),
        border_db=jitter(rng, 4.0, 5),
        swirl_db=rng.uniform(0.8, 2.2),
        apex_loss_db=max(0.0, rng.normal(2, 3)),
    )


def echogenicity(
    tissue: Tissue,
    heart: Heart,
    probe: Probe,
    rng: np.random.Generator,
    *,
    dropout: bool = False,
    oblique: bool = False,
) -> tuple[Field, Field]:
    """Return the level in dB and the share of contrast 0..1, each (SAMPLES, BEAMS).

    `dropout` takes the echo from most of one wall; `oblique` blurs the borders, as a plane that cuts them aslant does.
    """
    x, z = beam_positions(probe)
    ragged = jitter(rng, 0.9, 14)  # trabeculae: the border that echoes is rougher than the one that is drawn
    curve = outline(heart, inner_shift_mm=ragged)
    up, across = curve.local(x, z)
    angle, inner, outer = curve.borders(up, across)
    base = -(up + np.float32(curve.below_mm)) + np.float32(0.08) * across  # positive below the mitral valve
    blurred = 2.2 if oblique else 1.0

    level = np.float32(tissue.outside_db) + 3.0 * smooth_field(rng, (9, 7)) + 2.0 * smooth_field(rng, (28, 18))
    contrast = np.zeros_like(level)
    lungs = np.float32(4) * smooth_field(rng, (5, 4)) - 4
    level += np.where(outer > 14, lungs, 0)

    right_up, right_across = up + 0.02 * heart.length_mm, across + _right_centre(curve, heart)
    right = np.hypot(right_up / (0.62 * heart.length_mm), right_across / heart.right_half_width_mm)
    right = (right - 1) * np.float32(heart.right_half_width_mm)
    right_atrium = _disc(up, across, -curve.below_mm - 20, -heart.half_width_mm - 13, heart.atrium_mm * 0.95)
    atrium = _disc(up, across, -curve.below_mm - heart.atrium_mm - 1, 1.0, heart.atrium_mm)
    chambers = ((right, tissue.right_db), (right_atrium, tissue.right_db - 2), (atrium, tissue.atrium_db))
    wall = np.float32(tissue.wall_db)
    for edge, _ in chambers:
        level = _mix(level, wall + 1, _inside(edge - 4.5, 1.5))
    pericardium = np.interp(angle, ANGLES, tissue.border_db + 4.0).astype(np.float32) - 3
    level += np.maximum(pericardium, 0) * np.exp(-np.square((outer - 1.5) / 1.6)) * (base < 0)
    swirl = np.float32(tissue.swirl_db) * (smooth_field(rng, (14, 11)) + 0.6 * smooth_field(rng, (40, 26)))
    for edge, bright in chambers:
        share = _inside(edge, 0.8) * (1 - _inside(outer, 0.8) * _inside(base, 0.8))
        level, contrast = _mix(level, np.float32(bright) + swirl, share), np.maximum(contrast, share)

    perfusion = np.interp(angle, ANGLES, tissue.perfusion_db).astype(np.float32)
    muscle = wall + perfusion + 1.6 * smooth_field(rng, (26, 20))
    hidden = _dropout(angle, dropout, rng)
    muscle = muscle * (1 - hidden) + hidden * np.float32(min(tissue.outside_db, tissue.wall_db) - 4)
    level = _mix(level, muscle, _inside(outer, 0.9 * blurred) * _inside(base - 1, 1.0))

    cavity = _inside(inner, 1.1 * blurred) * _inside(base - 1, 1.5)
    apical = np.float32(tissue.apex_loss_db) * np.clip(up / np.float32(0.6 * heart.length_mm), 0, 1) ** 2
    full = swirl - apical - 10 * hidden * np.exp(-np.square(inner / 5))
    level, contrast = _mix(level, full, cavity), np.maximum(contrast, cavity)
    along, aside, size = heart.papillary
    half = heart.half_width_mm
    papillary = _disc(up, across, along * heart.length_mm, aside * half, size * half)
    level = _mix(level, wall + 2, 0.8 * _inside(papillary, 2.0) * (inner < 0))
    leaflet: Field = np.exp(-np.square((base + np.float32(0.35) * (half - np.abs(across))) / 1.5))
    level = _mix(level, wall + 3, 0.75 * leaflet * _inside(np.abs(across) - np.float32(0.85 * half), 1))

    clutter = np.exp(-z / np.float32(9)) * 12 + np.exp(-z / np.float32(28)) * 3 * smooth_field(rng, (12, 5))
    haze = tissue.wall_db - 8 + 3.5 * smooth_field(rng, (6, 5)) + clutter  # side lobes and reverberation lie over all
    return np.logaddexp(level * _NEPER, haze * _NEPER) / _NEPER, contrast


def _right_centre(curve: Outline, heart: Heart) -> np.float32:
    """How far the right ventricle's middle lies to the left of the left one's: it is pushed in by the septum."""
    return np.float32(curve.outer_mm[ANGLES.size // 4] + 0.72 * heart.right_half_width_mm)


def _disc(up: Field, across: Field, at_up: float, at_across: float, radius: float) -> Field:
    """Return how far points lie outside of a disc, in mm."""
    return np.hypot(up - np.float32(at_up), across - np.float32(at_across)) - np.float32(radius)


def _inside(outside_mm: Field, softness_mm: float) -> Field:
    """Return a weight 1 inside and 0 outside of a border, with a soft edge."""
    return 1 / (1 + np.exp(np.clip(outside_mm / np.float32(softness_mm / 2), -30, 30)))


def _mix(level: Field, other: Field | np.float32, share: Field) -> Field:
    return level + (other - level) * share


def _dropout(angle: Field, heavy: bool, rng: np.random.Generator) -> Field:
    """Return where the wall gives no echo, 0..1: a little on most frames' lateral wall, much on those with dropout."""
    centre, width, depth = rng.normal(1.5, 0.4), rng.uniform(0.2, 0.5), max(0.0, rng.normal(0.15, 0.3))
    if heavy:
        centre, width, depth = rng.choice([1.3, 1.3, -1.3]) + rng.normal(0, 0.2), rng.uniform(0.5, 0.9), 1.0
    return (min(depth, 1.0) * np.exp(-np.square((angle - centre) / width))).astype(np.float32)
