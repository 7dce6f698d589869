"""What a measurement is: its raw samples, what follows from them, and what to mistrust.

Samples are kept by process, since two processes differ more than two samples of one (Kalibera and Jones).
Beside the errors only numpy is imported: the measuring process uses this module too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latencykit.errors import InputError, UsageError

BOOTSTRAP_RESAMPLES = 2000
CONFIDENCE_PCT = 95.0
SHORTEST_US, LONGEST_US = 1e-3, 1e12
"""What a sample may be: a nanosecond, to which files round, to eleven days; anything else is damage."""
MAX_SAMPLES, MAX_PROCESSES = 5_000, 2_000
"""Of one process; of one measurement: what the bootstrap can hold in memory."""
SPREAD_LIMIT_PCT = 10.0
"""Interquartile range over the median above which a figure is called noisy (torch.utils.benchmark's limit)."""
PROCESS_SPREAD_LIMIT_PCT = 10.0
FASTEST_PACE_HZ = 1e6
QUIET_PERCENTILE = 10.0
BEST_STATE_PERCENTILE = 5.0
DRIFT_LIMIT_PCT = 5.0
"""Change between the first and the second half of a process's samples above which warm-up was too short."""


def best_state_us(sentinel_us: Iterable[float]) -> float:
    """What a sentinel takes in a machine's best state: a twentieth of the figures are faster; infinite for none.

    The fastest of all is no state: a virtual processor's clock is raised for moments (LOG, 2026-11-27).
    """
    figures = [*sentinel_us]
    return float(np.percentile(figures, BEST_STATE_PERCENTILE, method="lower")) if figures else math.inf


def require_pace(what: str, pace_hz: float | None) -> None:
    """Raise `InputError` where that is no rhythm; None is back to back."""
    if pace_hz is not None and not 0 < pace_hz <= FASTEST_PACE_HZ:
        raise InputError(f"{what}: {pace_hz} calls a second; expected more than 0, at most {FASTEST_PACE_HZ:g}.")


@dataclass(frozen=True)
class Protocol:
    """How often and in what rhythm something is called.

    Attributes:
        samples: timed blocks in each process.
        block_us: a block repeats the call until it lasts at least this long, so that the clock's resolution and the
            timer's own cost vanish; 0 times every call alone, which percentiles need.
        warmup_ms: calls are made for at least this long before the first sample, and at least three of them.
        pace_hz: None is back to back; otherwise one call starts every 1 / pace_hz seconds and is timed alone.
        processes: fresh processes, over which the interval is bootstrapped.
        rounds: at 1 thread a process takes its samples in so many parts, other items between them: what neighbours do
            lasts for 10 to 100 ms, and samples on end all meet it. With more threads on end: another session's idle
            workers spin for longer than that.

    Raises:
        UsageError: nothing would be measured, or in no rhythm.
    """

    samples: int = 15
    block_us: float = 500.0
    warmup_ms: float = 5.0
    pace_hz: float | None = None
    processes: int = 3
    rounds: int = 1

    def __post_init__(self) -> None:
        for name in ("samples", "processes", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"the protocol's `{name}` is {getattr(self, name)}; expected at least 1.")
        for name in ("block_us", "warmup_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"the protocol's `{name}` is {getattr(self, name)}; expected at least 0.")
        if self.pace_hz is not None and not 0 < self.pace_hz < math.inf:
            raise UsageError(f"the protocol's `pace_hz` is {self.pace_hz}; expected more than 0, or None.")


@dataclass(frozen=True)
class Caution:
    """A reason to mistrust a figure, and what to do about it."""

    code: str
    value: float
    remedy: str


@dataclass(frozen=True)
class Measurement:
    """Microseconds of one call, by process and sample.

    Raises:
        InputError: no samples, too many, or one that is no positive number of a plausible size.
    """

    samples_us: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.samples_us or not all(self.samples_us):
            raise InputError("a measurement without samples; every process must have at least one.")
        most = max(map(len, self.samples_us))
        if len(self.samples_us) > MAX_PROCESSES or most > MAX_SAMPLES:
            raise InputError(
                f"a measurement of {len(self.samples_us)} processes and up to {most} samples in one; expected at most "
                f"{MAX_PROCESSES} and {MAX_SAMPLES}."
            )
        for samples in self.samples_us:
            if not (min(samples) >= SHORTEST_US and max(samples) <= LONGEST_US and math.isfinite(sum(samples))):
                wrong = next(value for value in samples if not SHORTEST_US <= value <= LONGEST_US)
                raise InputError(
                    f"a measurement's sample is {wrong} us; expected a positive number, at most {LONGEST_US:g}."
                )

    @property
    def processes(self) -> int:
        """Fresh processes measured in."""
        return len(self.samples_us)

    @property
    def count(self) -> int:
        """Samples in all."""
        return sum(map(len, self.samples_us))

    @cached_property
    def process_medians_us(self) -> tuple[float, ...]:
        """Median of each process."""
        return tuple(float(np.median(samples)) for samples in self.samples_us)

    def process_figures_us(self, pace_hz: float | None) -> tuple[float, ...]:
        """What each process says a call takes, in the rhythm that the samples were taken in.

        Back to back the first decile, a call while the machine's neighbours rest: on a busy machine it repeats up to
        three times as well as the median, on a quiet one they are nearly alike. At a rhythm the median: every call
        finds the clock and the caches as a pause left them, and the best of them are no caller's.
        """
        if pace_hz is not None:
            return self.process_medians_us
        return tuple(float(np.percentile(samples, QUIET_PERCENTILE)) for samples in self.samples_us)

    @cached_property
    def median_us(self) -> float:
        """The figure to quote: the median over processes of their medians."""
        return float(np.median(self.process_medians_us))

    def percentile_us(self, percent: float) -> float:
        """A percentile over all samples; only meaningful where every call was timed alone."""
        return float(np.percentile(np.concatenate(self.samples_us), percent))

    @cached_property
    def interval_us(self) -> tuple[float, float]:
        """Bootstrap interval of the median: processes are drawn, then samples within them."""
        rng = np.random.default_rng(0)
        medians = np.empty((self.processes, BOOTSTRAP_RESAMPLES))
        for row, samples in zip(medians, self.samples_us, strict=True):
            drawn = rng.integers(len(samples), size=(BOOTSTRAP_RESAMPLES, len(samples)))
            row[:] = np.median(np.asarray(samples)[drawn], axis=1)
        chosen = rng.integers(self.processes, size=(self.processes, BOOTSTRAP_RESAMPLES))
        resampled = np.median(np.take_along_axis(medians, chosen, axis=0), axis=0)
        tail = (100 - CONFIDENCE_PCT) / 2
        low, high = np.percentile(resampled, (tail, 100 - tail))
        return min(float(low), self.median_us), max(float(high), self.median_us)

    @cached_property
    def error_pct(self) -> float:
        """Half the interval's width over the median, percent."""
        low, high = self.interval_us
        return 50 * (high - low) / self.median_us

    @cached_property
    def warnings(self) -> tuple[Caution, ...]:
        """Why this figure may be wrong."""
        found = []
        pooled = np.concatenate(self.samples_us)
        spread = float(100 * np.subtract(*np.percentile(pooled, (75, 25))) / np.median(pooled))
        if spread > SPREAD_LIMIT_PCT:
            found.append(Caution("noisy", spread, "stop other programs, then run `latencykit doctor`"))
        medians = self.process_medians_us
        between = 100 * (max(medians) - min(medians)) / self.median_us
        if between > PROCESS_SPREAD_LIMIT_PCT:
            found.append(Caution("processes-differ", between, "measure in more processes: `--processes N`"))
        drift = max(abs(_drift_pct(samples)) for samples in self.samples_us)
        if drift > DRIFT_LIMIT_PCT and self.count >= 8 * self.processes:
            found.append(Caution("drift", drift, "let the machine cool down or warm up longer, then measure again"))
        return tuple(found)


def _drift_pct(samples: tuple[float, ...]) -> float:
    half = len(samples) // 2
    if not half:
        return 0.0
    first, second = float(np.median(samples[:half])), float(np.median(samples[half:]))
    return 100 * (second / first - 1)
