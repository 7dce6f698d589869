"""The one shape that all images take here, whatever they were read from, and its split by patient.

A :class:`Dataset` holds N frames on the 256 grid with the myocardium's mask, and for each frame its patient, its
split, its pixel spacing, its number in the sequence and whether it was acquired badly. It checks itself when made,
so that whatever reads from it need not. :func:`split_by_patient` divides one into parts that share no patient.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError

SIZE: Final = 256
"""Height and width of every image and mask, in pixels (the paper's resolution)."""

SPLITS: Final = ("train", "valid")
"""The names a frame's split may have."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N frames with masks, checked when made. The arrays are shared, not copied: treat them as read-only.

    Attributes:
        name: what the data are called in reports.
        images: uint8 (N, C, 256, 256), C is 1 (grey) or 3 (RGB).
        masks: uint8 (N, 256, 256), 1 is myocardium, 0 everything else.
        patients: str (N,), whom the frame shows.
        splits: str (N,), 'train' or 'valid'; a patient lies in one of them only.
        spacing_mm: float32 (N, 2), height and width of a pixel of the 256 grid. 1.0 where the source gives none:
            distances are then in pixels.
        degraded: bool (N,), True where the frame was acquired badly. Known for the phantom only, else all False.
        frame: str (N,), 'ED', 'ES' or a frame number.
        together: groups of patients that no split may part, since they share an image.
        made_from: how the frames were computed, and from what; empty where they were read. A subset's is empty.

    Raises:
        InputError: a shape, type or value is off, a patient (or a group in `together`) lies in two splits, or there
            are no frames.
    """

    name: str
    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    patients: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    spacing_mm: npt.NDArray[np.float32]
    degraded: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.str_]
    together: tuple[tuple[str, ...], ...] = field(default=())
    made_from: str = ""

    def __post_init__(self) -> None:
        count = self.images.shape[0] if self.images.ndim else 0
        if count == 0:
            raise InputError(f"data set {self.name!r} has no frames: give it at least one image with its mask")
        channels = self.images.shape[1] if self.images.ndim == 4 else 0
        if channels not in (1, 3):
            raise self._wrong("images", f"{self.images.shape}", f"(N, 1 or 3, {SIZE}, {SIZE})", "resize or stack them")
        self._check("images", self.images, (count, channels, SIZE, SIZE), "u1")
        self._check("masks", self.masks, (count, SIZE, SIZE), "u1")
        self._check("spacing_mm", self.spacing_mm, (count, 2), "f4")
        self._check("degraded", self.degraded, (count,), "b1")
        for name in ("patients", "splits", "frame"):
            self._check(name, getattr(self, name), (count,), "U")
        self._check_values()
        self._check_partition()

    def _wrong(self, what: str, got: str, expected: str, remedy: str) -> InputError:
        return InputError(f"data set {self.name!r}: {what} is {got}, expected {expected}: {remedy}")

    def _check(self, what: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], kind: str) -> None:
        if array.shape != shape:
            raise self._wrong(f"{what}' shape", f"{array.shape}", f"{shape}", "one entry a frame, on the 256 grid")
        if (array.dtype.kind if kind == "U" else array.dtype.str[1:]) != kind:
            raise self._wrong(f"{what}' type", f"{array.dtype}", str(np.dtype(kind)), "convert it before")

    def _check_values(self) -> None:
        bad = np.flatnonzero(self.masks.max(axis=(1, 2)) > 1)
        if bad.size:
            who = self._frame_name(int(bad[0]))
            raise self._wrong(f"the mask of {who}", f"up to {self.masks[bad[0]].max()}", "0 and 1", "select one label")
        bad = np.flatnonzero(~(np.isfinite(self.spacing_mm) & (self.spacing_mm > 0)).all(axis=1))
        if bad.size:
            who = self._frame_name(int(bad[0]))
            got = str(self.spacing_mm[bad[0]].tolist())
            raise self._wrong(f"the spacing of {who}", got, "two lengths above 0 mm", "use 1.0 where it is unknown")
        bad = np.flatnonzero(~np.isin(self.splits, SPLITS))
        if bad.size:
            who = self._frame_name(int(bad[0]))
            raise self._wrong(f"the split of {who}", repr(str(self.splits[bad[0]])), f"one of {SPLITS}", "rename it")
        if (self.patients == "").any():
            raise self._wrong("a patient's name", "''", "a name", "every frame needs one, splits are made by patient")

    def _check_partition(self) -> None:
        """Let no patient, and no group that stays together, lie in two splits."""
        seen: dict[str, str] = {}
        for patient, split in zip(self.patients.tolist(), self.splits.tolist(), strict=True):
            if seen.setdefault(patient, split) != split:
                raise InputError(
                    f"data set {self.name!r}: patient {patient!r} is in the splits {seen[patient]!r} and {split!r}: "
                    "put all of a patient's frames in one"
                )
        for group in self.together:
            missing = [patient for patient in group if patient not in seen]
            if missing:
                raise InputError(f"data set {self.name!r}: `together` names {missing}, of whom there is no frame")
            if len({seen[patient] for patient in group}) > 1:
                raise InputError(
                    f"data set {self.name!r}: the patients {group} share an image but not a split: put them in one"
                )

    def _frame_name(self, index: int) -> str:
        return f"patient {str(self.patients[index])!r}, frame {str(self.frame[index])!r}"

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def rgb(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the frames at `indices` as float32 (n, 3, 256, 256) in [0, 1]; grey is repeated."""
        chosen = self.images[np.atleast_1d(np.asarray(indices))].astype(np.float32) / np.float32(255)
        return np.repeat(chosen, 3, axis=1) if chosen.shape[1] == 1 else chosen

    def subset(self, chosen: npt.ArrayLike) -> Dataset:
        """Return the frames at some indices, or where a bool (N,) is True, in that order.

        Raises:
            InputError: nothing is chosen, or the mask or an index does not fit.
        """
        index = np.asarray(chosen)
        if index.dtype == np.bool_ and index.shape != (len(self),):
            raise self._wrong("the mask of a subset", f"{index.shape}", f"{(len(self),)}", "one value a frame")
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64).reshape(-1)
        if index.size and not (-len(self) <= index.min() and index.max() < len(self)):
            raise self._wrong("an index", f"{index.min()}..{index.max()}", f"under {len(self)}", "count from 0")
        kept = set(self.patients[index].tolist())
        groups = (tuple(patient for patient in group if patient in kept) for group in self.together)
        return Dataset(
            name=self.name,
            images=self.images[index],
            masks=self.masks[index],
            patients=self.patients[index],
            splits=self.splits[index],
            spacing_mm=self.spacing_mm[index],
            degraded=self.degraded[index],
            frame=self.frame[index],
            together=tuple(group for group in groups if len(group) > 1),
        )

    def of_split(self, name: str) -> Dataset:
        """Return the frames of one split.

        Raises:
            InputError: there is no such split, or it is empty.
        """
        chosen = self.splits == name
        if not chosen.any():
            held = sorted(set(self.splits.tolist()))
            raise InputError(f"data set {self.name!r} has no frames in the split {name!r}, only in {held}: ask for one")
        return self.subset(chosen)

    def patient_ids(self) -> list[str]:
        """Return the patients' names, sorted, each once."""
        return sorted(set(self.patients.tolist()))

    @cached_property
    def sha256(self) -> str:
        """Hash of everything but the name: the same frames in the same order give the same hash on any machine.

        Of how they were computed where they were: what is rounded to grey levels differs in places between CPUs.
        """
        if self.made_from:
            return hashlib.sha256(self.made_from.encode()).hexdigest()
        digest = hashlib.sha256()
        arrays = (self.images, self.masks, self.spacing_mm.astype("<f4"), self.degraded)
        labels = [self.patients.tolist(), self.splits.tolist(), self.frame.tolist(), self.together]
        digest.update(json.dumps([[list(array.shape) for array in arrays], labels]).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def channel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return the mean and the standard deviation of R, G and B over all pixels, of images in [0, 1]."""
        values = np.arange(256) / 255.0
        means, deviations = [], []
        for channel in range(self.images.shape[1]):
            share = np.bincount(self.images[:, channel].reshape(-1), minlength=256) / self.images[:, channel].size
            means.append(float(share @ values))
            deviations.append(float(np.sqrt(share @ (values - means[-1]) ** 2)))
        red, green, blue = (0, 0, 0) if len(means) == 1 else (0, 1, 2)
        return (means[red], means[green], means[blue]), (deviations[red], deviations[green], deviations[blue])


def split_by_patient(
    dataset: Dataset,
    fractions: Mapping[str, float],
    seed: int,
    together: Sequence[Sequence[str]] = (),
) -> dict[str, Dataset]:
    """Divide a data set into parts that share no patient, the same parts for the same seed.

    Args:
        dataset: what to divide.
        fractions: each part's name and its share of the patients; the shares sum to 1.
        seed: of the shuffle.
        together: patients that stay in one part, beside the groups in `dataset.together`.

    Raises:
        InputError: the shares do not sum to 1, or there are too few patients for every part to get one.
    """
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise InputError(f"the shares {dict(fractions)} must each be above 0 and sum to 1: correct them")
    units = patient_units(dataset.patient_ids(), (*dataset.together, *together))
    if len(units) < len(fractions):
        raise InputError(
            f"data set {dataset.name!r} has {len(units)} separable patients, fewer than the {len(fractions)} parts "
            f"{list(fractions)}: load more patients or ask for fewer parts"
        )
    order = np.random.default_rng(seed).permutation(len(units))
    shuffled = sorted((units[i] for i in order), key=len, reverse=True)  # groups first; the sort is stable
    names = list(fractions)
    room = {name: fractions[name] * len(dataset.patient_ids()) for name in names}
    parts: dict[str, set[str]] = {name: set() for name in names}
    for left, unit in zip(range(len(shuffled), 0, -1), shuffled, strict=True):
        empty = [name for name in names if not parts[name]]
        name = max(empty if len(empty) >= left else names, key=lambda part: room[part])
        parts[name].update(unit)
        room[name] -= len(unit)
    return {name: dataset.subset(np.isin(dataset.patients, sorted(parts[name]))) for name in names}


def patient_units(patients: Iterable[str], together: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the patients as the smallest sets that `together` lets one part, sorted; overlapping groups merge.

    Names in `together` that are not in `patients` are left out.
    """
    unit_of = {patient: {patient} for patient in patients}
    for group in together:
        present = [patient for patient in group if patient in unit_of]
        merged: set[str] = set().union(*(unit_of[patient] for patient in present))
        for patient in merged:
            unit_of[patient] = merged
    return sorted({tuple(sorted(unit)) for unit in unit_of.values()})
