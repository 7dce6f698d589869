"""Which patients are read, and in which split each of them lies.

Readers settle this from the names alone, before they open an image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from latencykit.errors import InputError
from nas.data.dataset import SPLITS, patient_units


def seeded_split(
    patients: Iterable[str],
    valid_fraction: float,
    seed: int,
    together: Sequence[Sequence[str]] = (),
) -> dict[str, str]:
    """Return each patient's split, 'train' or 'valid', drawn from the seed.

    `valid_fraction` is the share of patients in 'valid', above 0 and below 1, rounded, at least one on each side
    when there are two patients. Groups in `together` stay in one split.

    Raises:
        InputError: the fraction is outside (0, 1).
    """
    if not 0 < valid_fraction < 1:
        raise InputError(f"valid_fraction (={valid_fraction}) must lie between 0 and 1, as 0.2 does")
    names = sorted(patients)
    units = patient_units(names, together)
    wanted = min(max(round(valid_fraction * len(names)), 1), len(names) - 1)
    valid: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(units)):
        if len(valid) + len(units[index]) <= wanted:
            valid.update(units[index])
    return {name: SPLITS[1] if name in valid else SPLITS[0] for name in names}


def limited(split_of: Mapping[str, str], max_patients: int | None, seed: int) -> dict[str, str]:
    """Return at most `max_patients` of the patients, drawn from the seed, each split's share kept.

    A split that has patients keeps at least one as long as `max_patients` allows.

    Raises:
        InputError: `max_patients` is under 1.
    """
    if max_patients is None or max_patients >= len(split_of):
        return dict(sorted(split_of.items()))
    if max_patients < 1:
        raise InputError(f"max_patients (={max_patients}) must be at least 1, or absent for all of them")
    rng = np.random.default_rng(seed)
    drawn = [sorted(split_of)[index] for index in rng.permutation(len(split_of))]
    valid = [name for name in drawn if split_of[name] == SPLITS[1]]
    train = [name for name in drawn if split_of[name] == SPLITS[0]]
    share = round(max_patients * len(valid) / len(split_of))
    take = min(max(share, 1 if valid else 0), max_patients - 1 if train else max_patients, len(valid))
    take = max(take, max_patients - len(train))
    return {name: split_of[name] for name in sorted(valid[:take] + train[: max_patients - take])}


def patient_seed(seed: int, patient: str) -> list[int]:
    """Return a seed for one patient, so that what is drawn for it does not depend on who else is read."""
    return [seed, zlib.crc32(patient.encode())]
