"""How a sector probe turns tissue into a picture: scatterers, beams, envelope, compression, scan conversion.

All fields live on the beam grid, float32 (SAMPLES, BEAMS): rows are depth samples, columns are beams. An image is
made in four steps: :func:`beam_positions` says where the samples lie, the caller gives the tissue's level there in
decibels, :func:`echo` returns the received amplitude and :func:`scan_convert` the picture.

The speckle is the standard one: a random complex scatterer in every sample, weighted by the tissue's amplitude,
convolved with a point spread function that is separable, Gaussian, constant along the beam and, in angle, narrowest
at the focus. Working at baseband, the pulse's carrier drops out: it only turns the phase, which is random anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nas.data.dataset import SIZE

Field = npt.NDArray[np.float32]

SAMPLES: Final = 320
BEAMS: Final = 144
LOOKS: Final = 3
"""Independent looks averaged into one frame; more make smoother speckle."""

_LATERAL_STEPS: Final = (1.0, 2.1, 4.0)
"""Beam widths, relative to the focus', between which every depth is interpolated."""


@dataclass(frozen=True)
class Probe:
    """A sector probe and where its sector lies in the picture.

    Attributes:
        depth_mm: from the probe's face to the lower arc.
        half_angle_rad: between the middle beam and the sector's edge.
        tip_row, tip_col: the sector's tip, in pixels of the 256 grid.
        pixel_mm: a pixel's side.
        pulse_mm: standard deviation of the pulse's envelope.
        beam_rad: standard deviation of the beam at the focus.
        focus_mm: depth of the focus.
    """

    depth_mm: float
    half_angle_rad: float
    tip_row: float
    tip_col: float
    pixel_mm: float
    pulse_mm: float
    beam_rad: float
    focus_mm: float

    @property
    def depths_mm(self) -> Field:
        """Depth of each sample, (SAMPLES, 1)."""
        return np.linspace(0, self.depth_mm, SAMPLES, dtype=np.float32)[:, None]

    @property
    def angles_rad(self) -> Field:
        """Angle of each beam, (1, BEAMS)."""
        return np.linspace(-self.half_angle_rad, self.half_angle_rad, BEAMS, dtype=np.float32)[None, :]


def beam_positions(probe: Probe) -> tuple[Field, Field]:
    """Return x (to the right) and z (down) in mm from the sector's tip, of every sample of the beam grid."""
    return probe.depths_mm * np.sin(probe.angles_rad), probe.depths_mm * np.cos(probe.angles_rad)


def pixel_positions(probe: Probe) -> tuple[Field, Field]:
    """Return x and z in mm from the sector's tip, of every pixel of the picture: float32 (256, 256) each."""
    steps = np.arange(SIZE, dtype=np.float32)
    x, z = np.meshgrid((steps - probe.tip_col) * probe.pixel_mm, (steps - probe.tip_row) * probe.pixel_mm)
    return x.astype(np.float32), z.astype(np.float32)


def smooth_field(rng: np.random.Generator, cells: tuple[int, int]) -> Field:
    """Return a random field (SAMPLES, BEAMS) of mean 0 and deviation about 1 that varies over 1/cells of each axis."""
    rows, cols = _bumps(SAMPLES, cells[0]), _bumps(BEAMS, cells[1])
    knots = rng.standard_normal((rows.shape[1], cols.shape[1]), dtype=np.float32)
    stretched: Field = rows @ knots
    return stretched @ cols.T


@lru_cache(maxsize=32)
def _bumps(length: int, cells: int) -> Field:
    """Return Gaussian bumps (length, cells + 2) of unit norm a row, one cell apart."""
    where = np.linspace(0, cells, length)[:, None] - (np.arange(cells + 2)[None, :] - 0.5)
    bumps = np.exp(-(where**2) / (2 * 0.6**2))
    return (bumps / np.sqrt((bumps**2).sum(axis=1, keepdims=True))).astype(np.float32)


def echo(level_db: Field, noise_db: Field, probe: Probe, rng: np.random.Generator) -> Field:
    """Return the received envelope, float32 (SAMPLES, BEAMS), compounded over LOOKS independent looks.

    A scanner averages over frequencies, steering angles or successive frames, which tames the speckle.

    Args:
        level_db: the tissue's echogenicity, (SAMPLES, BEAMS); 0 dB gives an echo of mean power 1.
        noise_db: the electronics' noise, of a shape that broadcasts to that; it knows the pulse but no beam.
        probe: what sends and receives.
        rng: of the scatterers and the noise.
    """
    amplitude = np.power(np.float32(10), level_db / np.float32(20))
    scatterers = rng.standard_normal((2 * LOOKS, SAMPLES, BEAMS), dtype=np.float32) * amplitude
    pulse = probe.pulse_mm / (probe.depth_mm / (SAMPLES - 1))
    along = _normalised(scatterers, pulse, axis=1)
    beam = probe.beam_rad / (2 * probe.half_angle_rad / (BEAMS - 1))
    widths = [_normalised(along, beam * step, axis=2) for step in _LATERAL_STEPS]
    # Diffraction: in angle, a focused aperture is as wide as itself at the face and narrows towards the focus.
    spread = 1 + 3.0 * np.square(np.clip(1 - probe.depths_mm / probe.focus_mm, 0, 1))
    spread += 0.6 * np.clip(probe.depths_mm / probe.focus_mm - 1, 0, None)
    received = _between(widths, spread)
    noise = np.power(np.float32(10), noise_db / np.float32(20)).astype(np.float32)
    received += noise * _normalised(rng.standard_normal(received.shape, dtype=np.float32), pulse, axis=1)
    return np.sqrt(np.square(received).mean(axis=0))


def _normalised(field: Field, sigma: float, axis: int) -> Field:
    """Blur along an axis, keeping white noise's power."""
    gain = np.float32(np.sqrt(2 * np.sqrt(np.pi) * max(sigma, 0.3)))
    return ndimage.gaussian_filter1d(field, sigma, axis=axis, mode="nearest", truncate=3.0) * gain


def _between(fields: list[Field], spread: Field) -> Field:
    """Interpolate, at each depth, between fields of the widths in _LATERAL_STEPS."""
    weights = [
        np.interp(spread[:, 0], _LATERAL_STEPS, np.eye(len(fields))[index]).astype(np.float32)[:, None]
        for index in range(len(fields))
    ]
    steps = np.array(_LATERAL_STEPS)
    shared = np.sqrt(2 * np.outer(steps, steps) / np.add.outer(steps**2, steps**2))  # correlation of two blurs
    stacked = np.stack(weights)[:, :, 0]
    power = np.einsum("id,ij,jd->d", stacked, shared, stacked).astype(np.float32)[:, None]
    mixed = sum(weight * field for weight, field in zip(weights, fields, strict=True))
    return mixed / np.sqrt(power)


def compress(amplitude: Field, top_db: float, range_db: float) -> Field:
    """Return grey levels 0..1: logarithm of an envelope, `top_db` white and `top_db - range_db` black."""
    level_db = 20 * np.log10(amplitude + np.float32(1e-6))
    return np.clip((level_db - np.float32(top_db - range_db)) / np.float32(range_db), 0, 1)


def scan_convert(grey: Field, probe: Probe) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the picture uint8 (256, 256) of grey levels 0..1 on the beam grid, and where the sector is, bool."""
    x, z = pixel_positions(probe)
    depth, angle = np.hypot(x, z), np.arctan2(x, z)
    sector = (depth <= probe.depth_mm) & (np.abs(angle) <= probe.half_angle_rad)
    row = depth[sector] * ((SAMPLES - 1) / probe.depth_mm)
    col = (angle[sector] + probe.half_angle_rad) * ((BEAMS - 1) / (2 * probe.half_angle_rad))
    picture = np.zeros((SIZE, SIZE), dtype=np.uint8)
    values = ndimage.map_coordinates(grey, np.stack([row, col]), order=1, mode="nearest")
    picture[sector] = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return picture, sector
