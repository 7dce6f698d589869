"""CAMUS, apical four-chamber view: from one npz file on the 256 grid, or from the official NIfTI folders.

CAMUS labels are 0 background, 1 LV cavity, 2 LV myocardium, 3 left atrium; the mask is label 2. The data are B-mode:
the cavity is dark and the myocardium bright, the reverse of contrast echocardiography.

Source: S. Leclerc et al., IEEE Transactions on Medical Imaging 38(9), 2198-2210, 2019.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Final, cast

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from latencykit.errors import InputError
from nas.data.dataset import SIZE, SPLITS, Dataset, patient_units
from nas.data.raster import MAX_PIXELS, grid_spacing_mm, pad_to_square, resize_image, resize_mask
from nas.data.roster import limited, seeded_split

MYOCARDIUM: Final = 2
PHASES: Final = ("ED", "ES")
SHARED_IMAGE: Final = (("patient0033", "patient0068"),)
"""Their end-diastolic frames are one image, with masks drawn separately: a split that parts them leaks."""

_SPLIT_FILES: Final = {
    "subgroup_training.txt": "train",
    "subgroup_validation.txt": "valid",
    "subgroup_testing.txt": "test",
}
_MAX_NPZ_BYTES: Final = 4 * 1024**3
"""Unpacked; above it the file is refused unread."""

_NPZ_KEYS: Final = ("image", "mask", "patient", "phase", "split", "orig_hw", "spacing_mm")
_BROKEN_NPZ: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError)
_BROKEN_NIFTI: Final = (OSError, ValueError, EOFError, ImageFileError, HeaderDataError, zlib.error, MemoryError)


def load_camus_npz(path: Path, *, max_patients: int | None = None, seed: int = 0) -> Dataset:
    """Read CAMUS frames that were padded to a square and resized to 256 before, with the split stored beside them.

    The file's keys: image and mask (N, 256, 256) uint8, patient (N,) int, phase (N,) and split (N,) str,
    orig_hw (N, 2) and spacing_mm (N, 2), the latter two as they were before padding.

    Args:
        path: the npz file. It is read without unpickling, so it can hold no code.
        max_patients: how many patients to keep, drawn from the seed; None keeps all.
        seed: of that draw.

    Raises:
        InputError: the file is missing or broken, a key is missing, or an array is not what it must be.
    """
    arrays = _npz_arrays(path)
    numbers = arrays["patient"]
    count = len(numbers) if numbers.ndim == 1 else -1
    for key, shape in (("orig_hw", (count, 2)), ("spacing_mm", (count, 2)), ("split", (count,)), ("phase", (count,))):
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key!r} has shape {arrays[key].shape}, expected {shape}: fetch the file again")
    if numbers.dtype.kind not in "iu" or arrays["mask"].shape[:1] != (count,) or arrays["image"].ndim != 3:
        raise InputError(f"{path}: 'patient' must be whole numbers, one a frame, 'image' (N, 256, 256): fetch it again")
    patients = np.array([f"patient{number:04d}" for number in numbers.tolist()], dtype=np.str_)
    splits = arrays["split"].astype(np.str_)
    side = arrays["orig_hw"].astype(np.float64).max(axis=1, keepdims=True)
    present = set(patients.tolist())
    dataset = Dataset(
        name="camus",
        images=arrays["image"][:, None],
        masks=(arrays["mask"] == MYOCARDIUM).astype(np.uint8),
        patients=patients,
        splits=splits,
        spacing_mm=(arrays["spacing_mm"] * side / SIZE).astype(np.float32),
        degraded=np.zeros(count, dtype=np.bool_),
        frame=arrays["phase"].astype(np.str_),
        together=tuple(group for group in SHARED_IMAGE if present.issuperset(group)),
    )
    kept = limited(dict(zip(patients.tolist(), splits.tolist(), strict=True)), max_patients, seed)
    return dataset if len(kept) == len(present) else dataset.subset(np.isin(patients, list(kept)))


def _npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file: give the path of the CAMUS npz, or use the phantom (kind 'phantom')")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_NPZ_BYTES:
            raise InputError(f"{path}: {unpacked} bytes unpacked, over {_MAX_NPZ_BYTES}: this is not the CAMUS npz")
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _NPZ_KEYS if key not in archive]
            if missing:
                raise InputError(f"{path}: lacks the arrays {missing}, expected {list(_NPZ_KEYS)}: fetch it again")
            return {key: archive[key] for key in _NPZ_KEYS}
    except _BROKEN_NPZ as error:
        raise InputError(f"{path}: not a readable npz file ({error}): fetch it again") from error


def load_camus_nifti(
    root: Path,
    *,
    valid_fraction: float = 0.1,
    max_patients: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read CAMUS as it is distributed: a folder a patient, in it `<patient>_4CH_ED.nii.gz` and `..._ED_gt.nii.gz`.

    `root` holds `database_nifti/` (or is that folder), and `database_split/subgroup_training.txt` and so on beside
    it. Testing patients are left out: this project trains and selects on 'train' and 'valid'. Without split files
    the patients are split from the seed. Frames are padded to a centred square and resized to 256.

    Args:
        root: the folder.
        valid_fraction: share of patients in 'valid' where there are no split files.
        max_patients: how many patients to read, drawn from the seed; None reads all.
        seed: of the split and the draw.

    Raises:
        InputError: a folder or file is missing or broken, a mask has another size than its image, or the split files
            name a patient twice or not at all.
    """
    folder = root / "database_nifti" if (root / "database_nifti").is_dir() else root
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    names = [name for name in names if name.startswith("patient")]
    if not names:
        raise InputError(f"{folder}: no patient folders (patient0001, ...): give the folder that holds database_nifti/")
    official = _official_split(folder.parent / "database_split", names)
    split_of = seeded_split(names, valid_fraction, seed, SHARED_IMAGE) if official is None else official
    if not split_of:
        raise InputError(f"{folder}: all patients are in the testing group: add training and validation patients")
    kept = limited(split_of, max_patients, seed)
    images, masks, spacings = [], [], []
    for name in kept:
        for phase in PHASES:
            stem = folder / name / f"{name}_4CH_{phase}"
            image, spacing = _slice(stem.with_name(f"{stem.name}.nii.gz"))
            labels, _ = _slice(stem.with_name(f"{stem.name}_gt.nii.gz"))
            if labels.shape != image.shape:
                raise InputError(
                    f"{stem}_gt.nii.gz: the mask is {labels.shape}, its image {image.shape}: fetch both again"
                )
            images.append(resize_image(pad_to_square(image)))
            masks.append(resize_mask(pad_to_square((labels == MYOCARDIUM).astype(np.uint8))))
            spacings.append(grid_spacing_mm(max(image.shape), *spacing))
    return Dataset(
        name="camus",
        images=np.stack(images),
        masks=np.stack(masks),
        patients=np.repeat(np.array(list(kept), dtype=np.str_), len(PHASES)),
        splits=np.repeat(np.array(list(kept.values()), dtype=np.str_), len(PHASES)),
        spacing_mm=np.array(spacings, dtype=np.float32),
        degraded=np.zeros(len(images), dtype=np.bool_),
        frame=np.tile(np.array(PHASES, dtype=np.str_), len(kept)),
        together=tuple(unit for unit in patient_units(kept, SHARED_IMAGE) if len(unit) > 1),
    )


def _slice(path: Path) -> tuple[npt.NDArray[np.uint8], tuple[float, float]]:
    """Return a NIfTI slice as uint8 (H, W) and its row and column spacing in mm."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: every patient needs ED and ES, each with its _gt mask; fetch it again")
    try:
        volume = cast(SpatialImage, nibabel.load(path))  # every NIfTI image is one
        shape = tuple(size for size in volume.shape if size != 1)
        if len(shape) != 2 or shape[0] * shape[1] > MAX_PIXELS:
            raise InputError(f"{path}: shape {volume.shape}, expected one slice (width, height): fetch it again")
        values = np.asarray(volume.dataobj).reshape(shape)
        across_mm, down_mm = (float(zoom) for zoom in volume.header.get_zooms()[:2])
    except _BROKEN_NIFTI as error:
        raise InputError(f"{path}: not a readable NIfTI file ({error}): fetch it again") from error
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise InputError(f"{path}: values outside 0..255: CAMUS is 8 bit, convert or fetch the file again")
    # NIfTI's first axis runs across the image and its second one down, so rows are the transposed array's.
    return np.ascontiguousarray(np.rint(values).astype(np.uint8).T), (down_mm, across_mm)


def _official_split(folder: Path, names: list[str]) -> dict[str, str] | None:
    """Return the split of the patients outside of the testing group, or None where there are no split files."""
    listed: dict[str, str] = {}
    for file, split in _SPLIT_FILES.items():
        path = folder / file
        if not path.is_file():
            continue
        try:
            patients = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a readable text file ({error}): fetch it again") from error
        for patient in patients:
            if listed.setdefault(patient, split) != split:
                raise InputError(f"{path}: {patient!r} is also listed in {listed[patient]!r}: keep one of the two")
    if not listed:
        return None
    unlisted = [name for name in names if name not in listed]
    if unlisted:
        raise InputError(f"{folder}: no split file lists {unlisted[:3]}: add them, or remove the split files")
    return {name: listed[name] for name in names if listed[name] in SPLITS}
