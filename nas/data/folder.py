"""Data of one's own: a folder of images, a folder of masks, matching names.

::

    root/
    ├── images/     p01_003.png, or a subfolder a patient: p01/003.png
    ├── masks/      the same names; PNG, BMP or TIFF
    └── splits.csv  optional, with the header patient,split

Images are padded to a centred square and resized to 256. No pixel size is known: `spacing_mm` is 1.0, so distances
are in pixels of the 256 grid.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from latencykit.errors import InputError
from nas.data.dataset import SPLITS, Dataset
from nas.data.raster import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    pad_to_square,
    read_image,
    read_labels,
    resize_image,
    resize_mask,
    stack_images,
)
from nas.data.roster import limited, seeded_split

PATIENT_PATTERN: Final = r"([^_]+)_"
"""The text before the first underscore."""


def load_folder(
    root: Path,
    *,
    patient_pattern: str = PATIENT_PATTERN,
    mask_value: int | None = None,
    valid_fraction: float = 0.2,
    max_patients: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read images and masks that have matching names.

    Args:
        root: holds `images/`, `masks/` and perhaps `splits.csv`.
        patient_pattern: regular expression matched at the start of a file's stem; its first group names the patient.
            Not used for images in subfolders: there the subfolder's name is the patient.
        mask_value: the value that is myocardium; None takes every value but 0.
        valid_fraction: share of patients in 'valid' where there is no splits.csv.
        max_patients: how many patients to read, drawn from the seed; None reads all.
        seed: of the split and the draw.

    Raises:
        InputError: a folder is missing or empty, an image has no mask or a mask no image, sizes differ, a file is
            broken, a name does not match the pattern, or splits.csv is off.
    """
    images = _by_name(root / "images", IMAGE_SUFFIXES)
    masks = _by_name(root / "masks", MASK_SUFFIXES)
    _check_pairs(root, set(images), set(masks))
    patient_of = {name: _patient(images[name], name, patient_pattern) for name in images}
    split_of = _listed_split(root / "splits.csv", set(patient_of.values()))
    kept = limited(split_of or seeded_split(set(patient_of.values()), valid_fraction, seed), max_patients, seed)
    names = [name for name in sorted(images) if patient_of[name] in kept]
    grid_images, grid_masks = [], []
    for name in names:
        image, labels = read_image(images[name]), read_labels(masks[name])
        if image.shape[:2] != labels.shape:
            raise InputError(
                f"{masks[name]}: the mask is {labels.shape}, its image {image.shape[:2]}: export both at one size"
            )
        inside = labels != 0 if mask_value is None else labels == mask_value
        grid_images.append(resize_image(pad_to_square(image)))
        grid_masks.append(resize_mask(pad_to_square(inside.astype(np.uint8))))
    return Dataset(
        name=root.name,
        images=stack_images(grid_images),
        masks=np.stack(grid_masks),
        patients=np.array([patient_of[name] for name in names], dtype=np.str_),
        splits=np.array([kept[patient_of[name]] for name in names], dtype=np.str_),
        spacing_mm=np.ones((len(names), 2), dtype=np.float32),
        degraded=np.zeros(len(names), dtype=np.bool_),
        frame=np.array([Path(name).name for name in names], dtype=np.str_),
    )


def _by_name(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return a folder's image files by their path inside it, without suffix."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: put images in images/ and masks of the same names in masks/")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in suffixes:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{path}: another file, {found[name].name}, has the same name: keep one")
            found[name] = path
    if not found:
        raise InputError(f"{folder}: no files with a suffix of {tuple(suffixes)}: put some there")
    return found


def _check_pairs(root: Path, images: set[str], masks: set[str]) -> None:
    alone = sorted(images - masks)
    if alone:
        raise InputError(f"{root / 'images' / alone[0]}: no mask in masks/ ({len(alone)} such): add it, or remove this")
    alone = sorted(masks - images)
    if alone:
        raise InputError(
            f"{root / 'masks' / alone[0]}: no image in images/ ({len(alone)} such): add it, or remove this"
        )


def _patient(path: Path, name: str, pattern: str) -> str:
    if "/" in name:
        return name.split("/", maxsplit=1)[0]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient_pattern {pattern!r} is no regular expression ({error}): correct it") from error
    if expression.groups < 1:
        raise InputError(f"patient_pattern {pattern!r} has no group: put the patient's part in parentheses")
    match = expression.match(name)
    if match is None or not match.group(1):
        raise InputError(
            f"{path}: no patient's name by the pattern {pattern!r}: rename the file, set patient_pattern, or use "
            "a subfolder a patient"
        )
    return match.group(1)


def _listed_split(path: Path, patients: set[str]) -> dict[str, str]:
    """Return the split of each patient by splits.csv; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error}): save it as UTF-8 text") from error
    listed: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        patient, split = row.get("patient"), row.get("split")
        if not patient or split not in SPLITS:
            raise InputError(f"{path}, line {number}: {row}, expected patient,split, the split of {SPLITS}: edit it")
        if listed.setdefault(patient, split) != split:
            raise InputError(f"{path}, line {number}: patient {patient!r} is in two splits: keep one of the lines")
    unlisted = sorted(patients - set(listed))
    if unlisted:
        raise InputError(f"{path}: lists no split for patient {unlisted[0]!r} ({len(unlisted)} such): add a line each")
    return {patient: listed[patient] for patient in patients}
