"""Model files timed end to end: interleaved, each in processes of its own, with peak memory and what to mistrust."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latencykit.bench import (
    NETWORK_PROTOCOL,
    UNSTEADY,
    collect,
    gather,
    measure_items,
    steadiest,
    steady_limit_us,
)
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.worker import Item

ATTEMPTS = 3
"""Fewer than a build's: a paced process takes four seconds, in which a restless machine is seldom steady throughout."""
PACED_SAMPLES = 120
"""Calls in a paced process: four seconds at 30 a second."""

P99_CALLS = 662
"""Calls that a 99th percentile needs for 99 % confidence (MLPerf's LoadGen)."""


@dataclass(frozen=True)
class MeasuredModel:
    """What `measure` found for one model."""

    path: str
    measurement: Measurement
    affinity: tuple[str, ...]
    memory_bytes: int | None
    steady: bool = True

    @property
    def warnings(self) -> list[str]:
        """Reasons to mistrust the figure, each with its remedy."""
        found = [f"{self.path}: {w.code} ({w.value:.1f} %): {w.remedy}" for w in self.measurement.warnings]
        if self.measurement.count < P99_CALLS:
            calls = self.measurement.count
            found.append(f"{self.path}: p99 rests on {calls} calls, {P99_CALLS} are sound: raise `--processes`")
        if not self.steady:
            found.append(f"{self.path}: {UNSTEADY}")
        if not self.affinity:
            found.append(f"{self.path}: this system does not tell where threads run; affinity is not verified")
        return found


def measure_models(
    paths: Sequence[Path],
    setting: Setting,
    pace_hz: float | None,
    processes: int,
    advance: Callable[..., object] = lambda *_, **__: None,
    loaded: bool = False,
) -> list[MeasuredModel]:
    """Time model files end to end, interleaved, each in a process of its own so that its peak memory is its own.

    Args:
        paths: ONNX files.
        setting: the execution setting.
        pace_hz: calls a second; None is back to back.
        processes: fresh processes a model.
        advance: called after each process, and for what is taken again, which is no further unit.
        loaded: other programs run on purpose: their disturbance is the question, and no state is waited for.

    Raises:
        UnfitError: more threads than physical processors.
        InputError: onnxruntime refuses a model.
    """
    protocol = replace(NETWORK_PROTOCOL, processes=processes, pace_hz=pace_hz)
    if pace_hz is not None:
        protocol = replace(protocol, samples=PACED_SAMPLES)
    items = [Item(str(index), str(path.resolve())) for index, path in enumerate(paths)]
    attempts = 1 if loaded else ATTEMPTS
    samples = gather(measure_items(items, setting, protocol, attempts=attempts, one_model_a_process=True), advance)
    measured, best = collect(samples), steadiest(samples)
    limit_us = math.inf if loaded else steady_limit_us(samples)
    results = []
    for item, path in zip(items, paths, strict=True):
        mine = [best[item.id, process] for process in range(processes)]
        memory = [sample.memory_bytes for sample in mine if sample.memory_bytes is not None]
        steady = all(sample.state_us <= limit_us for sample in mine)
        results.append(MeasuredModel(str(path), measured[item.id], mine[0].affinity, max(memory, default=None), steady))
    return results


@contextlib.contextmanager
def background_load(processes: int) -> Iterator[None]:
    """Keep that many other processes busy meanwhile: an ultrasound machine's CPU is shared."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
