"""Randomness as a function of (seed, stream, position): a resumed run draws what the uninterrupted one would have.

Nothing here has state, so a checkpoint holds a position (epoch, step) and no generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch


class Stream(IntEnum):
    """What the numbers are for; streams of one seed are independent. Values are stable: runs depend on them."""

    WEIGHTS = 0
    ARCHITECTURE = 1
    ORDER = 2
    AUGMENTATION = 3
    PATHS = 4
    BAD_FRAMES = 5
    EVALUATED_FRAMES = 6
    RACE = 7
    FAIR_PATHS = 8


def numpy_generator(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """A NumPy generator for one place of a run; one stream always gets positions of one length."""
    return np.random.default_rng((seed, stream, *position))


def torch_generator(seed: int, stream: Stream, *position: int) -> torch.Generator:
    """The same for torch, on the CPU."""
    state = np.random.SeedSequence((seed, stream, *position)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def shuffled_batches(
    count: int, batch_size: int, rng: np.random.Generator, max_steps: int | None = None
) -> Sequence[npt.NDArray[np.int64]]:
    """Indices 0..count-1 in random order, cut into batches.

    An incomplete last batch is left out, since batch statistics of a single frame mislead; with fewer frames than
    one batch there is one smaller batch.
    """
    order = rng.permutation(count)
    steps = max(1, count // batch_size)
    steps = steps if max_steps is None else min(steps, max_steps)
    return [order[step * batch_size : (step + 1) * batch_size] for step in range(steps)]
