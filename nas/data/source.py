"""Where a run's images come from, as one configuration, and the call that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from latencykit.errors import InputError
from nas.data.camus import load_camus_nifti, load_camus_npz
from nas.data.dataset import Dataset
from nas.data.folder import PATIENT_PATTERN, load_folder
from nas.data.labelme import Labels
from nas.data.mce import FRAMES_PER_PATIENT, load_mce
from nas.data.phantom import load_phantom

Kind = Literal["phantom", "camus-npz", "camus-nifti", "mce", "folder"]

PHANTOM_FRAMES_PER_PATIENT: Final = 8
"""About one beat."""


@dataclass(frozen=True)
class DataConfig:
    """What to read and how. Fields that the kind does not use are ignored.

    Attributes:
        kind: phantom (made up, needs no file), camus-npz, camus-nifti (the official folders), mce (a folder a
            patient with Labelme annotations), folder (images/ and masks/).
        path: the file or folder; absent for the phantom.
        seed: of the phantom, of splits that the source does not bring along, and of draws.
        patients: phantom only, how many to make.
        frames_per_patient: phantom and mce; absent means 8 and 30.
        valid_fraction: share of patients in 'valid', where the source brings no split along.
        max_patients: read this many patients only, drawn from the seed, each split's share kept.
        skip_unannotated: mce only, leave out frames without annotation instead of refusing them.
        filled_labels, cut_out_labels: mce only, the labels that are united to the myocardium, and those subtracted.
        patient_pattern: folder only, regular expression whose first group names the patient in a file's stem.
        mask_value: folder only, the mask's value that is myocardium; absent takes all but 0.
    """

    kind: Kind = "phantom"
    path: str | None = None
    seed: int = 0
    patients: int = 60
    frames_per_patient: int | None = None
    valid_fraction: float = 0.2
    max_patients: int | None = None
    skip_unannotated: bool = False
    filled_labels: tuple[str, ...] = Labels().filled
    cut_out_labels: tuple[str, ...] = Labels().cut_out
    patient_pattern: str = PATIENT_PATTERN
    mask_value: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"data kind {self.kind!r} is unknown: use one of {list(get_args(Kind))}")
        if self.seed < 0:
            raise InputError(f"data seed (={self.seed}) must be 0 or more")
        if not 0 < self.valid_fraction < 1:
            raise InputError(f"valid_fraction (={self.valid_fraction}) must lie between 0 and 1, as 0.2 does")
        for name in ("frames_per_patient", "max_patients"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} (={value}) must be at least 1, or absent")
        if self.kind != "phantom" and not self.path:
            raise InputError(f"data kind {self.kind!r} needs a path: set it, or use the kind 'phantom'")


def load(config: DataConfig) -> Dataset:
    """Read, or make, the data that a configuration describes.

    Raises:
        InputError: a file or folder is missing or is not what it must be; the message names it and the remedy.
    """
    if config.kind == "phantom":
        return load_phantom(
            patients=config.patients,
            frames_per_patient=config.frames_per_patient or PHANTOM_FRAMES_PER_PATIENT,
            valid_fraction=config.valid_fraction,
            max_patients=config.max_patients,
            seed=config.seed,
        )
    path = Path(config.path or "").expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: correct the path, or use the kind 'phantom' without one")
    if config.kind == "camus-npz":
        return load_camus_npz(path, max_patients=config.max_patients, seed=config.seed)
    if config.kind == "camus-nifti":
        return load_camus_nifti(
            path, valid_fraction=config.valid_fraction, max_patients=config.max_patients, seed=config.seed
        )
    if config.kind == "mce":
        return load_mce(
            path,
            frames_per_patient=config.frames_per_patient or FRAMES_PER_PATIENT,
            valid_fraction=config.valid_fraction,
            max_patients=config.max_patients,
            skip_unannotated=config.skip_unannotated,
            labels=Labels(tuple(config.filled_labels), tuple(config.cut_out_labels)),
            seed=config.seed,
        )
    return load_folder(
        path,
        patient_pattern=config.patient_pattern,
        mask_value=config.mask_value,
        valid_fraction=config.valid_fraction,
        max_patients=config.max_patients,
        seed=config.seed,
    )
