"""What a kit does on its target: judge the machine, lower there, measure, time unseen networks later, write the result.

Needs Python, numpy, onnx and onnxruntime, and nothing of one system: threads that cannot be pinned are measured as not
pinned, and what cannot be read is recorded as unknown.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latencykit.archive import write_archive
from latencykit.bench import VALIDATION_PROTOCOL
from latencykit.bounds import MAX_MODEL_BYTES
from latencykit.calibrate import fit_table
from latencykit.doctor import Verdict, doctor, require_fit
from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, UnfitError, UsageError
from latencykit.files import read_bytes, remove_leftovers
from latencykit.instructions import as_used
from latencykit.journal import Journal
from latencykit.kit_plan import MANIFEST, PLAN, KitPlan, plan_from_bytes, require_manifest
from latencykit.kit_work import lower, result_files, time_networks, timings_json
from latencykit.lines import lines
from latencykit.measurement import Protocol
from latencykit.runtime import Setting, runtime_versions
from latencykit.sweep import NETWORK_PROTOCOLS, ROW_PROTOCOL, measure_plan
from latencykit.topology import ask_core_count, check_threads, physical_cpus

USUAL_THREADS = 4
TRIAL_ROW_PROTOCOL = Protocol(samples=3, block_us=0, warmup_ms=1, processes=2)
TRIAL_VALIDATION_PROTOCOL = Protocol(samples=3, block_us=0, warmup_ms=1, processes=2)


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
    plan, rows, checks, attempts = kit.plan, ROW_PROTOCOL, VALIDATION_PROTOCOL, None
    if quick:  # whatever state the machine is in: nobody goes by a trial's figures
        plan, rows, checks, attempts = plan.as_trial, TRIAL_ROW_PROTOCOL, TRIAL_VALIDATION_PROTOCOL, 1
    settings = settings_of(threads)
    verdict = _watch(force)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    journal, later = (
        Journal(
            out.with_name(f"{out.name}.{name}"), as_used(verdict.cpu), runtime_versions(), protocol, NETWORK_PROTOCOLS
        )
        for name, protocol in (("journal", rows), ("validation.journal", checks))
    )
    work = lower(plan, kit.models)
    todo = work.todo(out, settings, paced=not quick)
    _say(f"{len(todo.missing)} rows and {len(todo.untimed)} timings of networks at {', '.join(map(str, settings))}")
    with lines("measure", todo.sample_sets(rows)) as advance:
        table = measure_plan(todo, verdict, journal, advance, attempts)
    table = fit_table(table, work.needs.samples)
    for model in table.models:
        rhythm = f"{model.pace_hz:g} Hz" if model.pace_hz else "back to back"
        _say(f"  calibrated at {model.setting}, {rhythm}: off by {model.residual_pct:.1f} % on average")
    time_networks(work, settings, table, later, attempts)
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
    for count in sorted({1, cores} | ({USUAL_THREADS} if cores >= USUAL_THREADS else set())):
        try:
            check_threads(count)
        except UnfitError:  # a quota below the cores
            continue
        found.append(count)
    return found or [1]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _complain(message: str, code: int) -> int:
    _say(f"error: {message}")
    return code
