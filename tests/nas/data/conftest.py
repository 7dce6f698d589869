"""Small made-up data sets and trees of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.dataset import SIZE, Dataset

ROOT = Path(__file__).resolve().parents[3]


def fields(patients: int = 5, frames: int = 2, channels: int = 1) -> dict:
    count = patients * frames
    rng = np.random.default_rng(0)
    masks = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    masks[:, 60:200, 80:100] = masks[:, 60:200, 150:170] = masks[:, 60:80, 80:170] = 1
    names = np.repeat(np.array([f"p{number}" for number in range(patients)]), frames)
    return {
        "name": "small",
        "images": rng.integers(0, 256, (count, channels, SIZE, SIZE), dtype=np.uint8),
        "masks": masks,
        "patients": names,
        "splits": np.where(names == f"p{patients - 1}", "valid", "train"),
        "spacing_mm": np.full((count, 2), 0.5, dtype=np.float32),
        "degraded": np.zeros(count, dtype=np.bool_),
        "frame": np.tile(np.array([str(number) for number in range(frames)]), patients),
    }


@pytest.fixture
def make() -> Callable[..., Dataset]:
    """Return a maker of a small valid data set, in which keyword arguments replace fields."""

    def maker(patients: int = 5, frames: int = 2, channels: int = 1, **replaced: object) -> Dataset:
        return Dataset(**{**fields(patients, frames, channels), **replaced})

    return maker


@pytest.fixture
def save() -> Callable[[Path, np.ndarray], Path]:
    """Return a function that writes an array as an image file and makes its folder."""

    def saver(path: Path, array: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        return path

    return saver


@pytest.fixture(scope="session")
def camus_npz() -> Path:
    """Return the path of the real data, or skip."""
    path = ROOT / "../shared/data/camus/camus_a4c_256.npz"
    if not path.is_file():
        pytest.skip(f"the CAMUS frames are not at {path}")
    return path
