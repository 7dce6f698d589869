"""What a kit does on its target: judge the machine, lower there, measure, time unseen networks later, write the result.

Needs Python, numpy, onnx and onnxruntime, and nothing of one system: threads that cannot be pinned are measured as not
pinned, and what cannot be read is recorded as unknown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latencykit.archive import write_archive
from latencykit.bench import VALIDATION_PROTOCOL, collect, steadiest, steady_limit_us
from latencykit.bounds import MAX_MODEL_BYTES
from latencykit.calibrate import SpaceNeeds, fit_table, networks_to_lower, space_needs
from latencykit.coverage import lower_all
from latencykit.doctor import Verdict, doctor, require_fit
from latencykit.edges import LoweredSamples
from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, UnfitError, UsageError
from latencykit.evidence import evidence
from latencykit.files import read_bytes, remove_leftovers
from latencykit.kernels import Kernel, kernels_of
from latencykit.kit_plan import (
    GRAPHS,
    MANIFEST,
    PLAN,
    SAMPLES,
    TABLE,
    VALIDATION,
    KitPlan,
    manifest_of,
    plan_from_bytes,
    plan_to_bytes,
    require_manifest,
)
from latencykit.lines import lines
from latencykit.macro import Macro
from latencykit.measurement import Protocol
from latencykit.runtime import Setting, optimise
from latencykit.schema import to_json
from latencykit.sweep import (
    ROW_PROTOCOL,
    Journal,
    Plan,
    measure_batch,
    measure_plan,
    network_model,
    plan_build,
    runtime_versions,
)
from latencykit.table import LoweredNetwork, Table, network_id
from latencykit.table_file import save_table
from latencykit.topology import ask_core_count, check_threads, physical_cpus

USUAL_THREADS = 4
TRIAL_ROW_PROTOCOL = Protocol(samples=3, block_us=0, warmup_ms=1, processes=2)
TRIAL_VALIDATION_PROTOCOL = Protocol(samples=3, block_us=0, warmup_ms=1, processes=2)
_ALONE = Setting(threads=1, pinned=False)


def main(folder: str, words: Sequence[str]) -> int:
    """Run the kit that is unpacked in a folder; returns the exit code (`latencykit.errors`)."""
    parser = argparse.ArgumentParser(prog="run.py", description="Measure this machine; bring the result back.")
    parser.add_argument("--out", required=True, type=Path, help="the result to write, a zip archive")
    parser.add_argument("--threads", help="thread counts such as 1,2; else 1, 4 and all physical cores")
    parser.add_argument("--force", action="store_true", help="measure even where the machine is found unfit")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute, whose figures are worth nothing")
    options = parser.parse_args(words)
    try:
        run(Path(folder), options.out, options.threads, options.force, options.quick)
    except KeyboardInterrupt:
        return _complain("stopped; what was measured is kept, the same command goes on", InterruptedRunError.exit_code)
    except LatencyKitError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        return _complain(str(error), InputError.exit_code)
    except Exception:  # the outermost boundary
        traceback.print_exc()
        return LatencyKitError.exit_code
    return 0


def run(folder: Path, out: Path, threads: str | None = None, force: bool = False, quick: bool = False) -> None:
    """Measure what the kit in a folder asks for and write the result; a run that was killed goes on where it was.

    Raises:
        InputError: the kit is damaged.
        UsageError: the result is there already, or thread counts that are none.
        UnfitError: the doctor calls the machine unfit, or it has fewer cores.
        NotComparableError: what an earlier run left is of another machine.
    """
    begin_s = time.monotonic()
    if out.exists():
        raise UsageError(f"{out} is there already; name another --out, or delete it.")
    kit = open_kit(folder)
    plan, rows, checks = kit.plan, ROW_PROTOCOL, VALIDATION_PROTOCOL
    if quick:
        plan, rows, checks = plan.as_trial, TRIAL_ROW_PROTOCOL, TRIAL_VALIDATION_PROTOCOL
    settings = settings_of(threads)
    verdict = _watch(force)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    journal, later = (
        Journal(out.with_name(f"{out.name}.{name}"), verdict.cpu, runtime_versions(), protocol)
        for name, protocol in (("journal", rows), ("validation.journal", checks))
    )
    work = lower(plan, kit.models)
    todo = work.todo(out, settings, paced=not quick)
    _say(f"{len(todo.missing)} rows and {len(todo.untimed)} timings of networks at {', '.join(map(str, settings))}")
    with lines("measure", todo.sample_sets(rows)) as advance:
        table = measure_plan(todo, verdict, journal, advance)
    table = fit_table(table, work.needs.samples)
    for model in table.models:
        rhythm = f"{model.pace_hz:g} Hz" if model.pace_hz else "back to back"
        _say(f"  calibrated at {model.setting}, {rhythm}: off by {model.residual_pct:.1f} % on average")
    _time_networks(work, settings, table, later)
    timings = timings_json(work, settings, table, later)
    write_archive(out, result_files(plan, table, work.needs.samples, timings, work.graphs()))
    journal.remove()
    later.remove()
    _say(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {time.monotonic() - begin_s:.0f} s. Bring it back and run")
    _say(f"  latencykit kit ingest {out.name} --out TABLE.json")


def _watch(force: bool) -> Verdict:
    """The doctor's verdict, told in lines."""
    _say("watching the machine")
    verdict = doctor()
    for reason in verdict.reasons:
        _say(f"  {'!!' if reason.fatal else '-'} {reason.code}: {reason.value}, expected {reason.expected}")
    if not force:
        require_fit(verdict)
    return verdict


@dataclass(frozen=True)
class Kit:
    """A kit that was unpacked: its plan, and the user's models by id."""

    plan: KitPlan
    models: Mapping[str, bytes]


def open_kit(folder: Path) -> Kit:
    """The kit in a folder, whole as it was made; what else lies there does not matter.

    Raises:
        InputError: it is damaged.
    """
    manifest = read_bytes(folder / MANIFEST, MAX_MODEL_BYTES)
    names = [line.partition("  ")[2] for line in manifest.decode(errors="replace").splitlines()]
    if unsafe := [name for name in names if not name or ".." in name.split("/") or Path(name).is_absolute()]:
        raise InputError(f"{folder}: its {MANIFEST} lists {unsafe[0]!r}; expected files of the kit.")
    files = {name: read_bytes(folder / name, MAX_MODEL_BYTES) for name in names}
    try:
        require_manifest({**files, MANIFEST: manifest})
        plan = plan_from_bytes(files[PLAN], PLAN)
        return Kit(plan, {name: files[f"models/{file}"] for name, file in plan.models.items()})
    except KeyError as error:
        raise InputError(f"{folder}: the kit lacks {error}; unpack it again.") from error
    except InputError as error:
        raise InputError(f"{folder}: {error} Unpack the kit again.") from error


def settings_of(threads: str | None) -> list[Setting]:
    """The settings of thread counts in words, or of those that are usual here; not pinned where that cannot be done."""
    counts = _counts(threads) if threads else _usual_counts()
    found = []
    for count in counts:
        cpus = check_threads(count)
        found.append(Setting(count, pinned=bool(cpus) and hasattr(os, "sched_setaffinity")))
    return found


def _counts(words: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError as error:
        raise UsageError(f"--threads is {words!r}; numbers with commas expected, such as 1,2") from error


def _usual_counts() -> list[int]:
    cores = len(physical_cpus()) or ask_core_count() or 1
    found = []
    for count in sorted({1, min(USUAL_THREADS, cores), cores} if cores >= USUAL_THREADS else {1, cores}):
        try:
            check_threads(count)
        except UnfitError:  # a quota below the cores
            continue
        found.append(count)
    return found or [1]


@dataclass(frozen=True)
class Work:
    """What a kit measures, as this machine's runtime has it.

    Attributes:
        needs: of the table.
        validation: unseen networks; brought: the user's own models.
        models: bytes of these, by id.
    """

    needs: SpaceNeeds
    validation: tuple[LoweredNetwork, ...]
    brought: tuple[LoweredNetwork, ...]
    models: Mapping[str, bytes]

    def todo(self, out: Path, settings: Sequence[Setting], paced: bool) -> Plan:
        """All rows and timings; `out` is not there."""
        added = (*self.validation, *self.brought)
        keys = [*self.needs.keys, *(kernel for network in added for kernel in network.kernels)]
        plan = plan_build(out, settings, keys, self.needs.calibration, added)
        untimed = tuple(one for one in plan.untimed if paced or one[1] is None)
        return Plan(None, plan.wanted, plan.missing, plan.networks, untimed)

    def model(self, network: LoweredNetwork) -> bytes:
        """The ONNX of a network."""
        return self.models[network.id] if network.network is None else network_model(network)

    def graphs(self) -> dict[str, bytes]:
        """Evidence of the kernels of calibration networks and the user's models, by id."""
        found = {}
        networks = (*self.needs.calibration, *self.brought)
        with lines("collect graphs", len(networks)) as advance, tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "optimised.onnx"
            for network in networks:
                optimise(self.model(network), _ALONE, target)
                found[network.id] = evidence(target.read_bytes())
                advance()
        return found


def lower(plan: KitPlan, models: Mapping[str, bytes]) -> Work:
    """Draw a plan's networks and have this machine's runtime optimise them; raises `InputError` naming a model."""
    count = networks_to_lower(plan.fit_networks, plan.sampled_networks) + plan.validation_networks
    with lines("lower networks", len(plan.macros) * count + len(models)) as advance:
        needs = space_needs(plan.macros, plan.fit_networks, plan.sampled_networks, advance)
        unseen = plan.unseen_networks()
        lowered = lower_all(unseen, advance)
        brought = []
        with tempfile.TemporaryDirectory() as scratch:
            for name, model in models.items():
                try:
                    brought.append(LoweredNetwork(name, None, Counter(kernels_of(model, _ALONE, Path(scratch)))))
                except InputError as error:
                    raise InputError(f"models/{plan.models[name]}: {error}") from error
                advance()
    validation = (LoweredNetwork(network_id(a), a, kernels) for a, kernels in zip(unseen, lowered, strict=True))
    return Work(needs, tuple(validation), tuple(brought), models)


def _time_networks(work: Work, settings: Sequence[Setting], table: Table, journal: Journal) -> None:
    """Time the unseen networks and the user's models back to back, after all that the table is made from."""
    networks = {network.id: network for network in (*work.validation, *work.brought)}
    models = {name: (work.model(network), False) for name, network in networks.items()}
    with lines("time unseen networks", len(settings) * len(models) * journal.protocol.processes) as advance:
        for setting in settings:
            measure_batch(models, setting, journal.protocol, table.reference_us(setting), journal, advance)


def timings_json(work: Work, settings: Sequence[Setting], table: Table, journal: Journal) -> list[dict[str, Any]]:
    """What the unseen networks and the user's models took, by setting: raw medians of each process."""
    found = []
    for setting in settings:
        best = steadiest(journal.samples(setting))
        limit_us = steady_limit_us(best.values(), table.reference_us(setting))
        measured = collect(journal.samples(setting))
        unsteady = Counter(sample.id for sample in best.values() if sample.state_us > limit_us)
        medians_us = {n.id: measured[n.id].process_medians_us for n in (*work.validation, *work.brought)}
        affinity = sorted({sample.affinity for sample in best.values()})
        part = {"affinity": affinity, "unsteady": unsteady, "medians_us": medians_us}
        found.append({"setting": to_json(setting), **part})
    return found


def result_files(
    plan: KitPlan,
    table: Table,
    samples: Mapping[Macro, LoweredSamples],
    timings: Sequence[Mapping[str, Any]],
    graphs: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The files of a result, its manifest included."""
    place = {kernel: index for index, kernel in enumerate(kernels_listed(table))}
    lowered = [
        [
            [network_id(architecture), [[place[kernel], count] for kernel, count in kernels.items()]]
            for architecture, kernels in zip(samples[macro].architectures, samples[macro].kernels, strict=True)
        ]
        for macro in plan.macros
    ]
    with tempfile.TemporaryDirectory() as scratch:
        save_table(table, Path(scratch) / TABLE)
        written = (Path(scratch) / TABLE).read_bytes()
    files = {
        PLAN: plan_to_bytes(plan),
        TABLE: written,
        SAMPLES: _json(lowered),
        VALIDATION: _json(timings),
        **{f"{GRAPHS}/{name}.onnx": graph for name, graph in graphs.items()},
    }
    return {**files, MANIFEST: manifest_of(files)}


def kernels_listed(table: Table) -> list[Kernel]:
    """Kernels in the order of the table's rows: what numbers in a result stand for."""
    return list(dict.fromkeys(row.key for row in table.rows if isinstance(row.key, Kernel)))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _complain(message: str, code: int) -> int:
    _say(f"error: {message}")
    return code
