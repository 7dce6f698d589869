"""Is the estimate true? A table's predictions at each level against end-to-end timing of networks it never saw.

A machine's speed changes by some percent from minute to minute where it has neighbours in its caches. So some of the
table's own calibration networks are timed along: what they take now over what they took in the build is how much slower
the machine is, and every figure is given as it was measured and at the build's speed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from latencykit.agreement import Floats, ValidatedNetwork, Validation, summarise
from latencykit.bench import PACED_VALIDATION_SAMPLES, VALIDATION_PROTOCOL, steadiest, steady_limit_us
from latencykit.calibration import NetworkTiming
from latencykit.errors import InterruptedRunError, UsageError
from latencykit.files import remove_leftovers
from latencykit.instructions import used_cpu
from latencykit.journal import Batch, Journal, measure_batches
from latencykit.kernels import kernels_of
from latencykit.levels import Predictor
from latencykit.lowering import network_onnx
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting, runtime_versions
from latencykit.selection import Chosen
from latencykit.sentinel import NETWORK
from latencykit.space import Architecture
from latencykit.sweep import network_model
from latencykit.table import Table, network_id

ANCHORS = 16
"""Calibration networks timed along; two timings of one network differ by 5 %, the median of so many by 1.5 %."""
FEWEST_ANCHORS = 4


def validation_protocol(pace_hz: float | None, processes: int = VALIDATION_PROTOCOL.processes) -> Protocol:
    """How networks are timed to validate with, back to back or at a rhythm."""
    if pace_hz is None:
        return replace(VALIDATION_PROTOCOL, processes=processes)
    return replace(
        VALIDATION_PROTOCOL, samples=PACED_VALIDATION_SAMPLES, rounds=1, processes=processes, pace_hz=pace_hz
    )


def validate(
    table: Table,
    setting: Setting,
    chosen: Sequence[Chosen],
    *,
    protocol: Protocol = VALIDATION_PROTOCOL,
    journal: Path | None = None,
    advance: Callable[..., object] = lambda *_, **__: None,
) -> Validation:
    """Predict each network from the table, time each end to end, compare.

    Args:
        table: the table under test.
        setting: its execution setting.
        chosen: the networks (`selection.choose_networks`).
        protocol: of the end-to-end timing, its rhythm included (`validation_protocol`).
        journal: where samples go as they come, so that a validation that was killed goes on from there; who asks for it
            removes it when the outcome is safe. None keeps none.
        advance: told a network's id whenever a process has timed it, `timed_networks` times `processes` in all.

    Raises:
        MissingRowError: a kernel is not in the table.
        UsageError: an odd number of processes.
        NotComparableError: the journal was begun on another machine or with another protocol.
        InterruptedRunError: stopped from the keyboard; the same command resumes.
    """
    if protocol.processes % 2:
        raise UsageError(f"validate: {protocol.processes} processes; an even number is needed for two halves.")
    pace_hz = protocol.pace_hz
    networks = {network_id(one.network): one.network for one in chosen}
    anchors = _anchors(table, setting, chosen, pace_hz)
    models = {timing.network: partial(network_model, table.network_of(timing)) for timing in anchors}
    models |= {name: partial(network_onnx, network) for name, network in networks.items()}
    predict, reference_us = Predictor(table, setting, pace_hz), table.reference_us(setting, NETWORK.name)
    with tempfile.TemporaryDirectory() as scratch:
        predicted = {
            name: predict(network, kernels_of(models[name](), setting, Path(scratch)))
            for name, network in networks.items()
        }
        log = Journal(journal or Path(scratch) / "journal", used_cpu(), runtime_versions(), protocol)
        remove_leftovers(log.path)
        try:
            items = {name: (model, False) for name, model in models.items()}
            measure_batches([Batch(protocol, items, NETWORK, reference_us)], setting, log, advance)
        except KeyboardInterrupt as stop:
            kept = f"what was measured is in {journal}, the same command resumes" if journal else "nothing was kept"
            raise InterruptedRunError(f"stopped; {kept}") from stop
        samples = [sample for sample in log.samples(setting) if sample.id in models]
    best, limit_us = steadiest(samples), steady_limit_us(samples, reference_us, NETWORK.name)

    def figures_us(name: str) -> Floats:
        found = tuple(best[name, process].samples_us for process in range(protocol.processes))
        return np.array(Measurement(found).process_figures_us(pace_hz))

    as_measured = [
        predicted[name].against(f"{index:03d}", one.chosen_from, figures_us(name).tolist())
        for index, (one, name) in enumerate((one, network_id(one.network)) for one in chosen)
    ]
    unsteady = sum(sample.state_us > limit_us for sample in best.values())
    found = replace(summarise(setting, pace_hz, as_measured), unsteady=unsteady)
    if not anchors:
        return found
    now_us = np.array([float(np.median(figures_us(timing.network))) for timing in anchors])
    slowdown = _Slowdown(now_us, now_us / [timing.median_us for timing in anchors])
    at_build_speed = summarise(setting, pace_hz, [slowdown.undone(network) for network in as_measured])
    return replace(found, slowdown_pct=slowdown.percent, at_build_speed=at_build_speed)


class _Slowdown:
    """How much longer networks take than in the build, a line over the logarithm of their latency (Theil and Sen).

    Large networks feel neighbours in the caches more than small ones; outside of the networks that were timed along,
    what the nearest one says holds.
    """

    def __init__(self, now_us: Floats, ratios: Floats) -> None:
        self._ends = np.log([now_us.min(), now_us.max()])
        line = stats.theilslopes(ratios, np.log(now_us)) if np.ptp(now_us) > 0 else None
        self._slope, self._start = (line.slope, line.intercept) if line else (0.0, float(np.median(ratios)))
        self.percent = 100 * (float(np.median(ratios)) - 1)

    def undone(self, network: ValidatedNetwork) -> ValidatedNetwork:
        """What the network would have taken in the build."""
        factor = self._start + self._slope * np.clip(np.log(1000 * network.measured_ms), *self._ends)
        figures = {name: getattr(network, name) / float(factor) for name in ("measured_ms", "half_a_ms", "half_b_ms")}
        return replace(network, **figures)


def timed_networks(table: Table, setting: Setting, chosen: Sequence[Chosen], pace_hz: float | None = None) -> int:
    """How many networks each process of such a validation times."""
    along = {timing.network for timing in _anchors(table, setting, chosen, pace_hz)}
    return len(along | {network_id(one.network) for one in chosen})


def journal_path(table: Path, setting: Setting, chosen: Sequence[Chosen], protocol: Protocol) -> Path:
    """Where a validation of a table's file keeps its samples until it is done: beside it, one for each question."""
    asked = repr((setting, protocol, [network_id(one.network) for one in chosen]))
    return table.with_name(f"validation-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.{table.name}.journal")


def _anchors(table: Table, setting: Setting, chosen: Sequence[Chosen], pace_hz: float | None) -> list[NetworkTiming]:
    """Calibration networks from the fastest to the slowest, of the chosen ones' macro configurations if they can be."""
    timed = sorted(
        (t for t in table.timings if (t.setting, t.pace_hz) == (setting, pace_hz)), key=lambda t: t.median_us
    )
    macros = {one.network.macro for one in chosen if isinstance(one.network, Architecture)}
    pairs = [(timing, table.network_of(timing).network) for timing in timed]
    alike = [timing for timing, network in pairs if isinstance(network, Architecture) and network.macro in macros]
    pool = alike if len(alike) >= FEWEST_ANCHORS else [timing for timing, network in pairs if network is not None]
    places = np.linspace(0, len(pool) - 1, min(ANCHORS, len(pool))).round().astype(int)
    return [pool[place] for place in places]
