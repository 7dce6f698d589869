"""Contrast echocardiography made up from anatomy and physics: the data that are always at hand.

Contrast means that microbubbles fill the cavities, which are therefore bright and shadow what lies behind, while the
myocardium is perfused a little, unevenly, and is darker. :mod:`nas.data.anatomy` gives the shapes,
:mod:`nas.data.tissue` what they echo, :mod:`nas.data.ultrasound` the physics of the probe; this module draws the
patients, scans them, now and then badly, and adds the annotator. A frame depends on (seed, patient, frame) alone, not
on how many others are made; another CPU or NumPy may round a grey level the other way.

A phantom: no figure obtained on it says anything about patients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from latencykit.errors import InputError
from latencykit.progress import progress
from nas.data.anatomy import Heart, contracted, contraction, draw_heart, jitter, outline
from nas.data.dataset import SIZE, Dataset
from nas.data.roster import limited, seeded_split
from nas.data.tissue import Tissue, draw_tissue, echogenicity
from nas.data.ultrasound import (
    SAMPLES,
    Field,
    Probe,
    compress,
    echo,
    pixel_positions,
    scan_convert,
    smooth_field,
)

DEGRADATIONS: Final = ("low_gain", "shadow", "off_axis", "dropout", "motion", "attenuation")
"""How an acquisition can go wrong: gain too low, ribs or lung in the way, an oblique plane that cuts the apex short,
a wall that gives no echo, a probe that moves, an echo that does not reach the depth."""


@dataclass(frozen=True)
class PhantomFrame:
    """One frame: image and mask, uint8 (256, 256), a pixel's side in mm, and how it was degraded, if it was."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    pixel_mm: float
    degradation: str | None


@dataclass(frozen=True)
class _Scan:
    """How a patient is scanned: settings of the machine, and luck.

    Attributes:
        contrast_loss, tissue_loss: dB lost a mm of contrast, and of anything, beyond what the time gain gives back.
        noise_db: of the electronics, at the probe.
        gain_db: brightens the picture.
        range_db: between black and white.
        edge_shadow_db: what lung takes at the left and the right edge of the sector.
        trouble: chance that a frame is acquired badly.
        beats_a_frame: time between frames.
    """

    contrast_loss: float
    tissue_loss: float
    noise_db: float
    gain_db: float
    range_db: float
    edge_shadow_db: tuple[float, float]
    trouble: float
    beats_a_frame: float


@dataclass(frozen=True)
class _Patient:
    heart: Heart
    tissue: Tissue
    probe: Probe
    scan: _Scan


def load_phantom(
    *,
    patients: int,
    frames_per_patient: int,
    valid_fraction: float = 0.2,
    max_patients: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Make a data set of phantom patients, named p0000, p0001 and so on.

    Args:
        patients: how many there are, at least 2.
        frames_per_patient: consecutive frames of each, over about one beat in 8 frames.
        valid_fraction: share of patients in 'valid'.
        max_patients: how many of them to make, drawn from the seed; None makes all.
        seed: of everything.

    Raises:
        InputError: a number is out of range.
    """
    if patients < 2 or frames_per_patient < 1 or seed < 0:
        raise InputError(
            f"a phantom of {patients} patients with {frames_per_patient} frames each, seed {seed}: needs at least 2 "
            "patients, 1 frame and a seed from 0"
        )
    names = [f"p{number:04d}" for number in range(patients)]
    kept = limited(seeded_split(names, valid_fraction, seed), max_patients, seed)
    frames = []
    with progress("make phantoms", len(kept) * frames_per_patient) as advance:
        for name in kept:
            for number in range(frames_per_patient):
                frames.append(phantom_frame(seed, names.index(name), number))
                advance()
    return Dataset(
        name="phantom",
        images=np.stack([frame.image for frame in frames])[:, None],
        masks=np.stack([frame.mask for frame in frames]),
        patients=np.repeat(np.array(list(kept), dtype=np.str_), frames_per_patient),
        splits=np.repeat(np.array(list(kept.values()), dtype=np.str_), frames_per_patient),
        spacing_mm=np.array([[frame.pixel_mm] * 2 for frame in frames], dtype=np.float32),
        degraded=np.array([frame.degradation is not None for frame in frames], dtype=np.bool_),
        frame=np.tile(np.array([f"{number:02d}" for number in range(frames_per_patient)], dtype=np.str_), len(kept)),
    )


def phantom_frame(seed: int, patient: int, frame: int, degradation: str | None = None) -> PhantomFrame:
    """Make one frame of one patient; `degradation` (of DEGRADATIONS) forces an acquisition to go wrong that way.

    Raises:
        InputError: the degradation is unknown.
    """
    if degradation is not None and degradation not in DEGRADATIONS:
        raise InputError(f"unknown degradation {degradation!r}: use one of {DEGRADATIONS}")
    person = _draw_patient(np.random.default_rng([seed, patient, 0]))
    rng = np.random.default_rng([seed, patient, 1 + frame])
    unlucky = rng.random() < person.scan.trouble
    drawn = str(rng.choice(DEGRADATIONS)) if unlucky else None
    how = degradation or drawn
    heart = contracted(person.heart, contraction(frame * person.scan.beats_a_frame))
    heart = replace(  # breathing and a hand that is never quite still
        heart,
        apex_x_mm=heart.apex_x_mm + rng.normal(0, 1.0),
        apex_z_mm=heart.apex_z_mm + rng.normal(0, 0.8),
        tilt_rad=heart.tilt_rad + rng.normal(0, 0.02),
    )
    if how == "off_axis":
        heart = replace(
            heart,
            length_mm=heart.length_mm * rng.uniform(0.68, 0.8),
            half_width_mm=heart.half_width_mm * rng.uniform(0.8, 1.05),
            tilt_rad=heart.tilt_rad + rng.choice([-1, 1]) * rng.uniform(0.12, 0.25),
            apex_mm=heart.apex_mm * 1.5,
        )
    grey = _acquire(person, heart, how, rng)
    image, sector = scan_convert(grey, person.probe)
    return PhantomFrame(
        image=image,
        mask=_annotate(heart, person.probe, sector, 1.0 if how is None else 1.5, rng),
        pixel_mm=person.probe.pixel_mm,
        degradation=how,
    )


def _draw_patient(rng: np.random.Generator) -> _Patient:
    heart = draw_heart(rng)
    bottom = heart.apex_z_mm + heart.length_mm + 1.6 * heart.atrium_mm
    depth = float(np.clip(bottom * rng.uniform(0.95, 1.22), 115, 180))
    extent = rng.uniform(0.88, 0.96) * SIZE  # pixels from the tip to the lower arc
    probe = Probe(
        depth_mm=depth,
        half_angle_rad=rng.uniform(0.60, 0.75),
        tip_row=rng.uniform(2, SIZE - extent - 2),
        tip_col=SIZE / 2 + rng.normal(0, 5),
        pixel_mm=depth / extent,
        pulse_mm=rng.uniform(0.45, 0.8),
        beam_rad=rng.uniform(0.011, 0.018),
        focus_mm=rng.uniform(60, 100),
    )
    scan = _Scan(
        contrast_loss=rng.uniform(0.02, 0.11),
        tissue_loss=rng.uniform(-0.02, 0.05),
        noise_db=-rng.uniform(30, 42),
        gain_db=rng.normal(-1.0, 2.5),
        range_db=rng.uniform(32, 46),
        edge_shadow_db=(rng.uniform(0, 22), rng.uniform(0, 26)),
        trouble=rng.uniform(0.05, 0.25),
        beats_a_frame=rng.uniform(0.10, 0.15),
    )
    return _Patient(heart, draw_tissue(rng), probe, scan)


def _acquire(person: _Patient, heart: Heart, how: str | None, rng: np.random.Generator) -> Field:
    """Return the grey levels 0..1 on the beam grid."""
    probe, scan = person.probe, person.scan
    level_db, contrast = echogenicity(
        person.tissue, heart, probe, rng, dropout=how == "dropout", oblique=how == "off_axis"
    )
    step_mm = probe.depth_mm / (SAMPLES - 1)
    loss = scan.contrast_loss * contrast + scan.tissue_loss
    if how == "attenuation":
        loss = loss + rng.uniform(0.14, 0.26) * (probe.depths_mm > 25)
    passed_db = np.cumsum(loss, axis=0, dtype=np.float32) * np.float32(step_mm)
    passed_db = ndimage.gaussian_filter1d(passed_db, 2.5, axis=1)  # an aperture averages what lies in the way
    shadow_db = _shadows(person, how, rng)
    gain = scan.gain_db + rng.normal(0, 0.6) - (rng.uniform(9, 15) if how == "low_gain" else 0.0)
    # The time gain lifts the noise with depth, as it lifts the echo whose loss is already taken out above.
    noise_db = scan.noise_db + 10 * (probe.depths_mm / probe.depth_mm) ** 2 + (4 if how == "low_gain" else 0)
    envelope = echo(level_db - passed_db - shadow_db, noise_db, probe, rng)
    if how == "motion":
        envelope = _moved(envelope, rng)
    grey = compress(envelope, 6.0 - gain, scan.range_db)
    return ndimage.gaussian_filter(grey, (0.8, 0.5))  # the scanner's own smoothing


def _shadows(person: _Patient, how: str | None, rng: np.random.Generator) -> Field:
    """Return the loss behind ribs and lung, in dB: at the sector's edges, and anywhere where there is heavy shadow."""
    place = person.probe.angles_rad / np.float32(person.probe.half_angle_rad)
    left, right = person.scan.edge_shadow_db
    loss = left * np.clip(-place - 0.55, 0, 1) / 0.45 + right * np.clip(place - 0.55, 0, 1) / 0.45
    loss = loss * (1 + 0.25 * smooth_field(rng, (3, 9))) * _below(18, person.probe)
    if how == "shadow":
        for _ in range(rng.integers(1, 3)):
            band = np.exp(-np.power(np.abs(place - rng.uniform(-0.5, 0.6)) / rng.uniform(0.12, 0.28), 3))
            loss = loss + rng.uniform(16, 28) * band * _below(rng.uniform(15, 45), person.probe)
    return loss.astype(np.float32)


def _below(depth_mm: float, probe: Probe) -> Field:
    """Return a weight that rises from 0 to 1 around a depth, (SAMPLES, 1)."""
    return 1 / (1 + np.exp((np.float32(depth_mm) - probe.depths_mm) / np.float32(4)))


def _moved(envelope: Field, rng: np.random.Generator) -> Field:
    """Average the envelope over a sweep of the probe during the frame."""
    sweep, push = rng.uniform(5, 10), rng.uniform(-9, 9)
    copies = [ndimage.shift(envelope, (push * part, sweep * part), order=1, mode="nearest") for part in (-0.5, 0, 0.5)]
    return ndimage.uniform_filter1d(np.mean(copies, axis=0), int(sweep / 2) + 1, axis=1)


def _annotate(
    heart: Heart,
    probe: Probe,
    sector: npt.NDArray[np.bool_],
    unsure: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Return the mask that an expert would draw: smooth, off by about a millimetre, from valve to valve."""
    drawn = outline(heart, jitter(rng, 0.7 * unsure, 5), jitter(rng, 0.9 * unsure, 5))
    up, across = drawn.local(*pixel_positions(probe))
    _, inner, outer = drawn.borders(up, across)
    above_base = up + np.float32(drawn.below_mm) - np.float32(0.08) * across > rng.normal(0, 1.2)
    wall = (outer <= 0) & (inner > 0) & above_base & sector
    pieces, _ = ndimage.label(wall)
    areas = np.bincount(pieces[wall])
    # The sector's edge can cut slivers off the wall, which nobody would draw.
    return np.isin(pieces, np.flatnonzero(areas > 0.05 * areas.sum())).astype(np.uint8)
