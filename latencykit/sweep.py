"""Builds a table: what is missing is measured in fresh processes, journalled as it comes, resumed after a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from latencykit.bench import collect, sentinel_us, steadiest
from latencykit.calibration import NetworkTiming
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, NotComparableError
from latencykit.files import remove_leftovers
from latencykit.graph import chain
from latencykit.instructions import as_used
from latencykit.journal import Batch, Journal, measure_batches
from latencykit.kernels import Kernel, kernel_model
from latencykit.keys import Primitive, key_id
from latencykit.lowering import graph_to_onnx, network_onnx
from latencykit.measurement import Protocol, best_state_us
from latencykit.runtime import Setting, runtime_versions
from latencykit.schema import to_json
from latencykit.sentinel import CONVOLUTION, NETWORK
from latencykit.table import LoweredNetwork, Sentinel, Table, defined_row, make_row
from latencykit.table_file import load_table, save_table, table_checksum

ROW_PROTOCOL = Protocol(samples=15, block_us=1000, warmup_ms=4, processes=3, rounds=5)
SECONDS_A_SAMPLE_SET = 0.035
"""Rough time of one row in one process, for the estimate before a build; the progress bar corrects it."""

SECONDS_A_PACED_SET = 0.3
CALIBRATION_PROTOCOL = Protocol(samples=12, block_us=0, warmup_ms=15, processes=5, rounds=3)
"""At 1 thread, as many calls on end in a round as when validating (at more there are no rounds): where there are two, a
network of 1 to 3 ms takes 2.5 % longer, since its caches were others' a call ago."""
PACED_PROTOCOL = Protocol(samples=5, block_us=0, warmup_ms=20, processes=4)
"""Three minutes apart a network differs by 1.5 to 1.7 %, be it called 9 times in all or 150 (LOG, 2026-11-27)."""
NETWORK_PROTOCOLS = (CALIBRATION_PROTOCOL, PACED_PROTOCOL)
PACE_HZ = 30.0
"""The on-the-fly case (design 13)."""
KEPT_SENTINELS = 100
DRIFT_WARNING_PCT = 20.0
"""Spread of the sentinel over steady samples above which a table's rows are not all of one state of the machine."""
SENTINEL_LIMIT_PCT = 30.0
"""A resumed build whose sentinel differs by more than this is on another machine."""

Timed = Primitive | Kernel
"""Keys whose costs are measured."""


@dataclass(frozen=True)
class Plan:
    """What a build will measure.

    Attributes:
        table: the existing table, None for a new one.
        wanted: every (setting, key) that the finished table must hold.
        missing: those of them without a row.
        networks: lowered networks that the table is to hold.
        untimed: those to calibrate with that lack a timing, and under which setting and rhythm.
    """

    table: Table | None
    wanted: tuple[tuple[Setting, Timed], ...]
    missing: tuple[tuple[Setting, Timed], ...]
    networks: tuple[LoweredNetwork, ...] = ()
    untimed: tuple[tuple[Setting, float | None, str], ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Settings under which something is to be measured."""
        rows, timings = (setting for setting, _ in self.missing), (setting for setting, _, _ in self.untimed)
        return tuple(dict.fromkeys([*rows, *timings]))

    def sample_sets(self, protocol: Protocol = ROW_PROTOCOL) -> int:
        """How many times a process will time something; rows that are zero by definition are not timed."""
        rows = protocol.processes * sum(not _is_defined(key) for _, key in self.missing)
        return rows + sum(network_protocol(pace_hz).processes for _, pace_hz, _ in self.untimed)

    def estimate_s(self, protocol: Protocol = ROW_PROTOCOL) -> float:
        """Rough seconds that the build will take."""
        paced = sum(network_protocol(pace_hz).processes for _, pace_hz, _ in self.untimed if pace_hz)
        return (self.sample_sets(protocol) - paced) * SECONDS_A_SAMPLE_SET + paced * SECONDS_A_PACED_SET


def network_protocol(pace_hz: float | None) -> Protocol:
    """How a network is timed for the calibration."""
    return CALIBRATION_PROTOCOL if pace_hz is None else replace(PACED_PROTOCOL, pace_hz=pace_hz)


def plan_build(
    path: Path,
    settings: Sequence[Setting],
    keys: Iterable[Timed],
    calibration: Sequence[LoweredNetwork] = (),
    added: Sequence[LoweredNetwork] = (),
) -> Plan:
    """Compare what is wanted with the table at `path`; raises `InputError` where that file is not a table.

    Args:
        path: the table.
        settings: under which everything is wanted.
        keys: rows.
        calibration: networks to time back to back, and every second one paced, which takes longer and differs less.
        added: networks to keep in lowered form.
    """
    table = load_table(path) if path.exists() else None
    unique = list(dict.fromkeys(keys))
    wanted = tuple((setting, key) for setting in settings for key in unique)
    missing = tuple(w for w in wanted if table is None or not table.has(*w))
    timed = {(t.setting, t.pace_hz, t.network) for t in table.timings} if table else set()
    asked = [(None, n.id) for n in calibration] + [(PACE_HZ, n.id) for n in calibration[::2]]
    untimed = tuple((s, pace, name) for s in settings for pace, name in asked if (s, pace, name) not in timed)
    return Plan(table, wanted, missing, (*calibration, *added), untimed)


@dataclass(frozen=True)
class Built:
    """A finished table and what it took.

    Attributes:
        measured, reused: rows measured now and found already.
        networks: timings of whole networks made now.
        repeated: samples taken again, since the machine was in another state.
        wall_s, timed_s: seconds in all and inside timed runs.
    """

    table: Table
    measured: int
    reused: int
    networks: int
    repeated: int
    wall_s: float
    timed_s: float

    @property
    def drift_pct(self) -> float:
        """Largest spread of a setting's sentinels over all processes that added to the table, percent."""
        spread: dict[tuple[Setting, str], list[float]] = {}
        for sentinel in self.table.sentinels:
            spread.setdefault((sentinel.setting, sentinel.model), []).extend(sentinel.medians_us)
        return max((100 * (max(medians) / min(medians) - 1) for medians in spread.values()), default=0.0)


def build(
    path: Path,
    plan: Plan,
    verdict: Verdict,
    protocol: Protocol = ROW_PROTOCOL,
    advance: Callable[..., object] = lambda *_, **__: None,
    fit: Callable[[Table], Table] = lambda table: table,
) -> Built:
    """Measure what a plan misses and write the table.

    Every sample goes to a journal beside the table at once. A build that was killed goes on from there: its sentinel
    is measured again first, and a machine that answers differently is another machine (design 12).

    Args:
        path: the table.
        plan: from `plan_build`.
        verdict: the doctor's, stored in the table.
        protocol: the rows' measuring protocol.
        advance: told the id of each sample set as it comes, those of the journal included.
        fit: what is computed from the measured table before it is written (`calibrate.fit_table`).

    Raises:
        NotComparableError: the table or journal belongs to another CPU, runtime or machine.
        UnfitError: more threads than physical processors.
        InterruptedRunError: stopped from the keyboard; the same command resumes.
    """
    begin_s = time.perf_counter()
    runtime, cpu = runtime_versions(), as_used(verdict.cpu)
    if plan.table is not None:
        plan.table.require_same_machine(cpu, runtime)
    remove_leftovers(path)
    journal = Journal(path.with_name(f"{path.name}.journal"), cpu, runtime, protocol, NETWORK_PROTOCOLS)
    before = {setting: len(journal.samples(setting)) for setting in plan.settings}
    try:
        table = measure_plan(plan, verdict, journal, advance)
        table = fit(replace(table, networks=_merged(table.networks, plan.networks)))
        if plan.table is not None and table != plan.table:
            table = replace(table, parents=(*table.parents, table_checksum(plan.table)))
    except KeyboardInterrupt as stop:
        raise InterruptedRunError(
            f"stopped; what was measured is in {journal.path}, the same command resumes"
        ) from stop
    save_table(table, path)
    journal.remove()
    samples = {setting: journal.samples(setting) for setting in plan.settings}
    repeated = sum(len(found) - len(steadiest(found)) for found in samples.values())
    timed_s = sum(sample.timed_s for setting, found in samples.items() for sample in found[before[setting] :])
    reused = len(plan.wanted) - len(plan.missing)
    wall_s = time.perf_counter() - begin_s
    return Built(replace(table, path=path), len(plan.missing), reused, len(plan.untimed), repeated, wall_s, timed_s)


def measure_plan(
    plan: Plan, verdict: Verdict, journal: Journal, advance: Callable[..., object], attempts: int | None = None
) -> Table:
    """The plan's table with what it misses, measured into the journal; nothing is fitted or written yet."""
    table = plan.table or Table(as_used(verdict.cpu), journal.runtime, _plain(verdict), ())
    if plan.table is not None and plan.settings:
        table = replace(table, doctor=_both(table.doctor, verdict))
    for setting in plan.settings:
        table = _measure_setting(table, setting, plan, journal, advance, attempts)
    return table


def _measure_setting(
    table: Table,
    setting: Setting,
    plan: Plan,
    journal: Journal,
    advance: Callable[..., object],
    attempts: int | None,
) -> Table:
    """The table with everything that it misses under one setting."""
    keys = [key for missing, key in plan.missing if missing == setting]
    models = {key_id(k): (partial(key_model, k), isinstance(k, Kernel)) for k in keys if not _is_defined(k)}
    reference_us, network_us = (table.reference_us(setting, model.name) for model in (CONVOLUTION, NETWORK))
    batches = [Batch(journal.protocol, models, CONVOLUTION, reference_us)]
    for pace_hz in (None, PACE_HZ):
        names = {name for wanted, rhythm, name in plan.untimed if (wanted, rhythm) == (setting, pace_hz)}
        timed = (network for network in plan.networks if network.id in names)
        networks = {timing_id(network.id, pace_hz): (partial(network_model, network), False) for network in timed}
        batches.append(Batch(network_protocol(pace_hz), networks, NETWORK, network_us))
    if any(batch.models for batch in batches) and (reference_us or journal.samples(setting)):
        _check_sentinel(setting, reference_us, journal)
    measure_batches(batches, setting, journal, advance, attempts)
    measured = collect(journal.samples(setting))
    rows = [
        defined_row(key, setting) if isinstance(key, Primitive) and _is_defined(key)
        else make_row(key, setting, measured[key_id(key)])
        for key in keys
    ]  # fmt: skip
    timings = [
        NetworkTiming(setting, pace, name, measured[timing_id(name, pace)].process_figures_us(pace))
        for wanted, pace, name in plan.untimed
        if wanted == setting
    ]
    table = table.with_rows(rows, _sentinels(setting, journal))
    return replace(table, networks=_merged(table.networks, plan.networks), timings=(*table.timings, *timings))


def _merged(held: Sequence[LoweredNetwork], more: Sequence[LoweredNetwork]) -> tuple[LoweredNetwork, ...]:
    found = {network.id: network for network in held}
    for network in more:
        found.setdefault(network.id, network)
    return tuple(found.values())


def timing_id(network: str, pace_hz: float | None) -> str:
    """What a network's samples are journalled under."""
    return network if pace_hz is None else f"{network}@{pace_hz:g}"


def network_model(network: LoweredNetwork) -> bytes:
    """The ONNX of a network that the table knows the architecture of."""
    if network.network is None:
        raise InputError(f"{network.id} came as ONNX; only architectures can be calibrated with.")
    return network_onnx(network.network)


def _sentinels(setting: Setting, journal: Journal) -> list[Sentinel]:
    """The drift through a build, thinned out evenly; of the steadiest samples only."""
    found = []
    for model in (CONVOLUTION, NETWORK):
        steady = steadiest(journal.samples(setting, model.name)).values()
        if seen := [round(figure, 3) for sample in steady for figure in sample.sentinel_us]:
            found.append(Sentinel(setting, tuple(seen[:: math.ceil(len(seen) / KEPT_SENTINELS)]), model.name))
    return found


def _check_sentinel(setting: Setting, reference_us: float | None, journal: Journal) -> None:
    before = journal.samples(setting, CONVOLUTION.name)
    journal_us = best_state_us(figure for sample in before for figure in sample.sentinel_us)
    before_us = min(journal_us, reference_us or math.inf)
    if not math.isfinite(before_us):
        return
    now_us = sentinel_us(setting, before_us)
    change_pct = 100 * (now_us / before_us - 1)
    if abs(change_pct) > SENTINEL_LIMIT_PCT:
        raise NotComparableError(
            f"the sentinel kernel took {before_us:.1f} us before and takes {now_us:.1f} "
            f"us now ({change_pct:+.0f} %; at most {SENTINEL_LIMIT_PCT:.0f} % expected): another machine, or busy. "
            f"Free it of other work and run the same command again, or delete {journal.path} to start over."
        )


def _is_defined(key: Timed) -> bool:
    return isinstance(key, Primitive) and key.is_free


def key_model(key: Timed) -> bytes:
    """The ONNX model that measures a key."""
    if isinstance(key, Kernel):
        return kernel_model(key)
    return bytes(graph_to_onnx(chain(key.operations, key.inputs)).SerializeToString())


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a file gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(to_json(verdict)))
    return found


def _both(doctor: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Two verdicts of one machine, at two builds: fit if it was both times, and every reason of either."""
    later = _plain(verdict)
    reasons = [*doctor.get("reasons", []), *later["reasons"]]
    unique = {json.dumps(reason, sort_keys=True): reason for reason in reasons}
    return {**later, "fit": doctor.get("fit") is True and verdict.fit, "reasons": list(unique.values())}
