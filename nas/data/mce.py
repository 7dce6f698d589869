"""Contrast echocardiography as it was published: a folder a patient, frames with Labelme annotations beside them.

::

    root/
    ├── subject_000/
    │   ├── 0.png      an image: PNG, JPEG, BMP or TIFF
    │   ├── 0.json     its annotation, of the same stem
    │   └── ...
    └── subject_001/ ...

Frames are cropped to their central square and resized to 256, and 30 of them are drawn per patient, as in the paper.
Frames give no pixel size: `spacing_mm` is 1.0, so distances are in pixels of the 256 grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from latencykit.errors import InputError
from nas.data.dataset import Dataset
from nas.data.labelme import Labels, rasterise
from nas.data.raster import IMAGE_SUFFIXES, crop_to_square, read_image, resize_image, resize_mask, stack_images
from nas.data.roster import limited, patient_seed, seeded_split

FRAMES_PER_PATIENT: Final = 30
"""The paper's number."""


def load_mce(
    root: Path,
    *,
    frames_per_patient: int = FRAMES_PER_PATIENT,
    valid_fraction: float = 0.2,
    max_patients: int | None = None,
    skip_unannotated: bool = False,
    labels: Labels | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a tree of patient folders.

    Args:
        root: holds a folder a patient; folders without any image are no patients.
        frames_per_patient: how many frames to draw; a patient with fewer gives all.
        valid_fraction: share of patients in 'valid'.
        max_patients: how many patients to read, drawn from the seed; None reads all.
        skip_unannotated: leave out frames without annotation, and patients that have none, instead of refusing them.
        labels: what counts as myocardium and what is cut out of it; None takes the usual names.
        seed: of the split, the patients' draw and the frames' draw.

    Raises:
        InputError: the folder is missing or empty, an image or annotation is missing or broken, or a label unknown.
    """
    if frames_per_patient < 1:
        raise InputError(f"frames_per_patient (={frames_per_patient}) must be at least 1, as the paper's 30")
    frames_of = _frames(root, skip_unannotated)
    kept = limited(seeded_split(frames_of, valid_fraction, seed), max_patients, seed)
    images, masks, patients, numbers = [], [], [], []
    for patient in kept:
        for path in _drawn(frames_of[patient], frames_per_patient, patient_seed(seed, patient)):
            image = read_image(path)
            height, width = image.shape[:2]
            mask = rasterise(path.with_suffix(".json"), height, width, labels or Labels())
            images.append(resize_image(crop_to_square(image)))
            masks.append(resize_mask(crop_to_square(mask)))
            patients.append(patient)
            numbers.append(path.stem)
    return Dataset(
        name="mce",
        images=stack_images(images),
        masks=np.stack(masks),
        patients=np.array(patients, dtype=np.str_),
        splits=np.array([kept[patient] for patient in patients], dtype=np.str_),
        spacing_mm=np.ones((len(images), 2), dtype=np.float32),
        degraded=np.zeros(len(images), dtype=np.bool_),
        frame=np.array(numbers, dtype=np.str_),
    )


def _frames(root: Path, skip_unannotated: bool) -> dict[str, list[Path]]:
    """Return each patient's image files, sorted by name."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: give the folder that holds one folder a patient")
    frames_of: dict[str, list[Path]] = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        frames = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
        stems = [frame.stem for frame in frames]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise InputError(f"{folder}: several images are named {twice[0]!r}: keep one, its annotation is ambiguous")
        if skip_unannotated:
            frames = [frame for frame in frames if frame.with_suffix(".json").is_file()]
        if frames:
            frames_of[folder.name] = frames
    if not frames_of:
        raise InputError(f"{root}: no patient folder with annotated frames in it: give the folder above the patients'")
    return frames_of


def _drawn(frames: list[Path], count: int, seed: list[int]) -> list[Path]:
    if len(frames) <= count:
        return frames
    chosen = np.random.default_rng(seed).choice(len(frames), size=count, replace=False)
    return [frames[index] for index in sorted(chosen.tolist())]
