"""The heart in the apical four-chamber view, as curves: what differs between patients, and what beats.

The left ventricle is described around a centre on its long axis. An angle of 0 points to the apex, positive angles
to the lateral wall (right in the picture), negative ones to the septum. The cavity's outline is a superellipse that
is longer towards the apex and cut off at the mitral valve; the wall is an offset along the outline's normal, so it is
a horseshoe, open at the base. Lengths are in mm, positions are (x to the right, z down) from the sector's tip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

ANGLES: Final = np.linspace(-np.pi, np.pi, 361)
"""Where outlines are tabulated, in radians."""

_ABOVE: Final = 0.60
"""Share of the cavity's length that lies between its centre and the apex."""

_BASE_WIDTH: Final = 0.80
"""Width at the mitral valve, relative to the widest place."""


@dataclass(frozen=True)
class Heart:
    """One patient's heart at end-diastole.

    Attributes:
        length_mm: from the cavity's apex to the mitral valve.
        half_width_mm: of the cavity.
        septum_mm, lateral_mm, apex_mm: the wall's thickness.
        roundness: exponent of the superellipse; 2 is an ellipse, more is boxier.
        wobble: Fourier coefficients of the outline's deviation, relative, cosines then sines of orders 2 to 4.
        shortening: share by which the cavity's width shrinks until end-systole.
        descent: share by which its length does.
        apex_x_mm, apex_z_mm: the cavity's apex.
        tilt_rad: of the long axis; positive turns the base to the right of the picture.
        bend: how far the walls lean to one side, in mm at mid-cavity.
        right_half_width_mm: of the right ventricle.
        atrium_mm: radius of the left atrium.
        papillary: place of the papillary muscle along and across the axis and its size, relative to the cavity.
    """

    length_mm: float
    half_width_mm: float
    septum_mm: float
    lateral_mm: float
    apex_mm: float
    roundness: float
    wobble: tuple[float, ...]
    shortening: float
    descent: float
    apex_x_mm: float
    apex_z_mm: float
    tilt_rad: float
    bend: float
    right_half_width_mm: float
    atrium_mm: float
    papillary: tuple[float, float, float]


def draw_heart(rng: np.random.Generator) -> Heart:
    """Draw a patient: sizes around an adult's, from athletic to dilated and hypertrophic."""
    scale = float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.2))
    thickness = float(np.clip(rng.normal(9.5, 1.6), 6.5, 14.0))
    dilation = float(np.clip(rng.normal(1.0, 0.12), 0.75, 1.35))
    length = float(np.clip(rng.normal(84, 6), 68, 100)) * scale
    apex_x, base_x = np.clip(rng.normal((2, 6), (7, 9)), (-12, -14), (15, 20)).tolist()
    return Heart(
        length_mm=length,
        half_width_mm=float(np.clip(23.0 * dilation, 17, 31)) * scale,
        septum_mm=thickness * rng.uniform(0.9, 1.2),
        lateral_mm=thickness * rng.uniform(0.8, 1.15),
        apex_mm=thickness * rng.uniform(0.55, 0.9),
        roundness=rng.uniform(2.0, 2.7),
        wobble=tuple(rng.normal(0, [0.022, 0.016, 0.010, 0.022, 0.016, 0.010]).tolist()),
        shortening=float(np.clip(rng.normal(0.30, 0.09), 0.06, 0.45)),
        descent=float(np.clip(rng.normal(0.13, 0.04), 0.03, 0.20)),
        apex_x_mm=apex_x,
        apex_z_mm=float(np.clip(rng.normal(25, 5), 15, 38)),
        tilt_rad=float(np.arctan2(base_x - apex_x, length)),
        bend=rng.normal(0, 1.8),
        right_half_width_mm=rng.uniform(11, 18) * scale,
        atrium_mm=rng.uniform(17, 25) * scale,
        papillary=(rng.uniform(-0.2, 0.12), rng.uniform(0.6, 0.95), rng.uniform(0.08, 0.26)),
    )


def contraction(beats: float) -> float:
    """Return how far the heart has contracted, 0 at end-diastole to 1 at end-systole, after some (part) beats."""
    part = beats % 1.0
    systole = 0.38  # of a beat at rest
    turn = part / systole if part < systole else 1 + (part - systole) / (1 - systole)
    return 0.5 - 0.5 * float(np.cos(np.pi * turn))


def contracted(heart: Heart, share: float) -> Heart:
    """Return the heart contracted by a share of its stroke; the wall thickens as the cavity shrinks."""
    width, length = 1 - heart.shortening * share, 1 - heart.descent * share
    thicker = 1 + 1.1 * heart.shortening * share
    return replace(
        heart,
        length_mm=heart.length_mm * length,
        half_width_mm=heart.half_width_mm * width,
        septum_mm=heart.septum_mm * thicker,
        lateral_mm=heart.lateral_mm * thicker,
        apex_mm=heart.apex_mm * thicker,
        atrium_mm=heart.atrium_mm * (1 + 0.12 * share),
        right_half_width_mm=heart.right_half_width_mm * (1 - 0.25 * share),
    )


@dataclass(frozen=True)
class Outline:
    """The ventricle's inner and outer border, as radii over ANGLES, and where they lie.

    Attributes:
        inner_mm, outer_mm: float64 (361,), from the centre.
        below_mm: from the centre to the mitral valve.
        centre_mm: x and z.
        tilt_rad: as the heart's.
        bend: as the heart's.
    """

    inner_mm: npt.NDArray[np.float64]
    outer_mm: npt.NDArray[np.float64]
    below_mm: float
    centre_mm: tuple[float, float]
    tilt_rad: float
    bend: float

    def local(self, x: Field, z: Field) -> tuple[Field, Field]:
        """Return positions along the long axis (positive to the apex) and across it (positive to the lateral wall)."""
        dx, dz = x - self.centre_mm[0], z - self.centre_mm[1]
        sine, cosine = np.float32(np.sin(self.tilt_rad)), np.float32(np.cos(self.tilt_rad))
        up, across = -(dz * cosine + dx * sine), dx * cosine - dz * sine
        return up, across - np.float32(self.bend) * (1 - np.square(up / np.float32(self.inner_mm.max())))

    def borders(self, up: Field, across: Field) -> tuple[Field, Field, Field]:
        """Return the angle in radians, and how far a point lies outside of the inner and of the outer border, in mm."""
        angle, radius = np.arctan2(across, up), np.hypot(up, across)
        table = (angle + np.float32(np.pi)) * np.float32((ANGLES.size - 1) / (2 * np.pi))
        # Nearly the distance: along the ray, times the cosine between the ray and the border's normal.
        inner = (radius - _looked_up(self.inner_mm, table)) * _looked_up(_slant(self.inner_mm), table)
        outer = (radius - _looked_up(self.outer_mm, table)) * _looked_up(_slant(self.outer_mm), table)
        return angle, inner, outer


def outline(heart: Heart, inner_shift_mm: npt.ArrayLike = 0.0, outer_shift_mm: npt.ArrayLike = 0.0) -> Outline:
    """Return the ventricle's borders; the shifts, a scalar or one value an angle of ANGLES, push them outwards."""
    above, below = _ABOVE * heart.length_mm, (1 - _ABOVE) * heart.length_mm
    exponent = heart.roundness
    closing = below / (1 - _BASE_WIDTH**exponent) ** (1 / exponent)
    vertical = np.where(np.cos(ANGLES) >= 0, above, closing)
    shape = np.abs(np.cos(ANGLES)) / vertical
    inner = (shape**exponent + (np.abs(np.sin(ANGLES)) / heart.half_width_mm) ** exponent) ** (-1 / exponent)
    orders = np.arange(2, 5)[:, None] * ANGLES
    inner = inner * (1 + heart.wobble[:3] @ np.cos(orders) + heart.wobble[3:] @ np.sin(orders))
    side = np.where(ANGLES < 0, heart.septum_mm, heart.lateral_mm)
    to_apex = np.exp(-((ANGLES / 0.55) ** 2))
    thickness = side * (1 - to_apex) + heart.apex_mm * to_apex
    return Outline(
        inner_mm=_offset(inner, np.broadcast_to(inner_shift_mm, ANGLES.shape)),
        outer_mm=_offset(inner, thickness + outer_shift_mm),
        below_mm=below,
        centre_mm=(
            heart.apex_x_mm + np.sin(heart.tilt_rad) * above,
            heart.apex_z_mm + np.cos(heart.tilt_rad) * above,
        ),
        tilt_rad=heart.tilt_rad,
        bend=heart.bend,
    )


def _offset(radius: npt.NDArray[np.float64], by_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the outline pushed along its normal by some mm, as radii over ANGLES again."""
    return radius + by_mm / np.maximum(_slant(radius), 0.35)


def _slant(radius: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cosine between the ray and the outline's normal, at each angle."""
    return 1 / np.sqrt(1 + np.square(np.gradient(radius, ANGLES) / radius))


def _looked_up(values: npt.NDArray[np.float64], table: Field) -> Field:
    low = np.minimum(table.astype(np.int32), ANGLES.size - 2)
    part = table - low
    values32 = values.astype(np.float32)
    return values32[low] * (1 - part) + values32[low + 1] * part


def jitter(rng: np.random.Generator, sigma_mm: float, orders: int) -> npt.NDArray[np.float64]:
    """Return a smooth random deviation over ANGLES, in mm: a Fourier series whose orders weigh less and less."""
    weights = 1 / np.sqrt(1 + np.arange(orders + 1))
    weights *= sigma_mm / np.sqrt((weights**2).sum())
    phase = np.arange(orders + 1)[:, None] * ANGLES
    cosines, sines = rng.normal(0, weights, (2, orders + 1))
    return cosines @ np.cos(phase) + sines @ np.sin(phase)
