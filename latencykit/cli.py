"""The command line `latencykit`: parses, calls, prints. Results on standard output, progress on standard error.

Exit codes: 0 fine, 2 usage, 3 a row is missing, 4 not comparable, 5 threads refused or machine unfit, 6 bad input,
7 interrupted and resumable, 8 regression, 70 internal (`latencykit.errors`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import click

from latencykit.architecture import network_graph, read_architecture, write_architecture
from latencykit.bench import NETWORK_PROTOCOL, background_load, measure_models
from latencykit.console import emit, json_option, run_cli, threads_option
from latencykit.cost import predict_kernels
from latencykit.coverage import STRIDES, USUAL_NETWORKS, space_kernels, space_primitives, stride_macros
from latencykit.doctor import Verdict, doctor
from latencykit.errors import MissingRowError, UnfitError, UsageError
from latencykit.figures import figure_format, prediction_figure, save_figure, validation_figure
from latencykit.files import write_bytes, write_text
from latencykit.host import cpu_id, read_cpu
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro, read_macro
from latencykit.outside import open_outside
from latencykit.progress import progress
from latencykit.report import (
    measured_grid,
    measured_json,
    prediction_grid,
    prediction_json,
    rows_grid,
    validation_grid,
    validation_json,
)
from latencykit.runtime import Setting, runtime_version
from latencykit.sample import sample_architectures
from latencykit.schema import to_json
from latencykit.space import instantiate
from latencykit.sweep import DRIFT_WARNING_PCT, build, plan_build
from latencykit.table import Key, Table, key_level, load_table
from latencykit.topology import check_threads
from latencykit.validate import VALIDATION_PROTOCOL, SetName, validate

_FILE = click.Path(path_type=Path)
_stride = click.option("--stride", type=int, help="Input stride of both networks; overrides --macro's.")
_macro = click.option("--macro", "macro_path", type=_FILE, help="JSON file of a macro configuration.")


def main() -> None:
    """Entry point of `latencykit`."""
    run_cli(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latencykit")
def cli() -> None:
    """Latency tables for neural networks on a CPU: measure, prove, predict."""


@cli.command("build")
@click.option("--out", required=True, type=_FILE, help="The table to write or to complete.")
@click.option("--space", default="paper", show_default=True, help="'paper', or a JSON file of a macro configuration.")
@click.option("--strides", default=",".join(map(str, STRIDES)), show_default=True, help="Input strides to cover.")
@click.option("--threads", default="4", show_default=True, help="One or several thread counts: 1,2")
@click.option("--add", "models", multiple=True, type=_FILE, help="Also the kernels of this ONNX or architecture file.")
@click.option("--only-added", is_flag=True, help="Nothing but the kernels of --add.")
@click.option("--force", is_flag=True, help="Measure even where the doctor says unfit; the table keeps its verdict.")
@click.option("--dry-run", is_flag=True, help="List what would be measured and how long it takes.")
@json_option
def build_command(
    out: Path, space: str, strides: str, threads: str, models: tuple[Path, ...], only_added: bool, force: bool,
    dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a latency table of this CPU; what the table holds already is not measured again.

    Example: latencykit build --out luts/mine.json --threads 1,2
    """
    if only_added and not models:
        raise UsageError("--only-added without --add measures nothing; pass --add MODEL.onnx")
    macros = [] if only_added else stride_macros(read_macro(space), _numbers("--strides", strides))
    settings = [Setting(count) for count in _numbers("--threads", threads)]
    if not dry_run:
        for setting in settings:
            check_threads(setting.threads)
    verdict = doctor()
    if not (force or dry_run):
        _require_fit(verdict)
    keys: list[Key] = [CALL_OVERHEAD]  # every prediction needs it
    with progress("find the kernels", USUAL_NETWORKS * len(macros) + len(models)) as advance:
        for macro in macros:
            keys += space_primitives(macro)
            keys += space_kernels(macro, advance)
        warnings: list[str] = []
        for model in models:
            kernels, cautions = _model_kernels(model, Setting(threads=1, pinned=False))
            keys += kernels
            warnings += cautions
            advance()
    plan = plan_build(out, settings, keys)
    rows = Counter(key_level(key) for _, key in plan.wanted)
    if dry_run:
        data = {"table": str(out), "rows": rows, "missing": len(plan.missing), "estimate_s": plan.estimate_s()}
        listed = [f"  {setting}: {key}" for setting, key in plan.missing]
        emit(as_json, "build", data, [*listed, f"{len(listed)} rows, about {plan.estimate_s():.0f} s"], warnings)
        return
    with progress("measure", plan.sample_sets()) as advance:
        built = build(out, plan, verdict, advance=advance)
    timed_pct = 100 * built.timed_s / built.wall_s
    data = {
        "table": str(out), "rows": rows, "measured": built.measured, "reused": built.reused,
        "wall_s": built.wall_s, "timed_pct": timed_pct,
    }  # fmt: skip
    warnings += [f"{reason.code} is {reason.value}: {reason.remedy}" for reason in verdict.reasons]
    if noisy := sum(bool(row.measurement and row.measurement.warnings) for row in built.table.rows):
        warnings.append(f"{noisy} of {len(built.table.rows)} rows are noisy: column error_pct of `latencykit show`")
    if built.drift_pct > DRIFT_WARNING_PCT:
        warnings.append(f"the sentinel drifted by {built.drift_pct:.0f} %: stop other programs and build anew")
    took = f"{built.wall_s:.0f} s, {timed_pct:.0f} % of it inside timed runs"
    emit(as_json, "build", data, [f"{out}: {built.measured} rows measured, {built.reused} reused, {took}"], warnings)


@cli.command("show")
@click.argument("table", type=_FILE)
@click.option("--level", type=click.Choice(["isolated", "kernel", "edge"]), help="Only this level.")
@click.option("--threads", type=int, help="Only this thread count.")
@click.option("--csv", "csv_path", type=_FILE, help="Also write the rows here.")
@json_option
def show_command(table: Path, level: str | None, threads: int | None, csv_path: Path | None, as_json: bool) -> None:
    """Show a table: its CPU, settings and rows.

    Example: latencykit show luts/mine.json --level kernel --csv kernels.csv
    """
    loaded = load_table(table)
    frame = loaded.to_frame()
    if level:
        frame = frame[frame["level"] == level]
    if threads:
        frame = frame[frame["threads"] == loaded.setting(threads).threads]
    frame = frame.sort_values(["level", "threads", "median_us"], ascending=[True, True, False])
    if csv_path:
        write_text(csv_path, frame.to_csv(index=False))
    data = {
        "cpu": to_json(loaded.cpu),
        "runtime": dict(loaded.runtime),
        "checksum": loaded.checksum,
        "settings": [to_json(setting) for setting in loaded.settings],
        "rows": json.loads(frame.to_json(orient="records")),
    }
    head = f"{loaded.cpu.model}, onnxruntime {loaded.runtime['onnxruntime']}, {len(frame)} rows, {loaded.checksum[:12]}"
    emit(as_json, "show", data, [head, rows_grid(frame)])


def write_samples(seed: int, count: int, out: Path, macro: Macro) -> list[str]:
    """Write sampled architectures as JSON and ONNX; return the paths. `nas sample` is the same."""
    written = []
    with progress("write", count) as advance:
        for index, architecture in enumerate(sample_architectures(macro, count, seed)):
            path = out / f"{index:03d}.json"
            write_architecture(path, architecture)
            model = graph_to_onnx(instantiate(architecture), seed=seed)
            write_bytes(path.with_suffix(".onnx"), model.SerializeToString())
            written += [str(path), str(path.with_suffix(".onnx"))]
            advance()
    return written


@cli.command("sample")
@click.option("--seed", required=True, type=int)
@click.option("--count", required=True, type=int)
@click.option("--out", required=True, type=_FILE, help="Folder for 000.json, 000.onnx, ...")
@_stride
@_macro
@json_option
def sample_command(
    seed: int, count: int, out: Path, stride: int | None, macro_path: Path | None, as_json: bool
) -> None:
    """Draw random architectures of the space and write each as JSON and ONNX.

    Example: latencykit sample --seed 7 --count 5 --out samples
    """
    written = write_samples(seed, count, out, _macro_of(macro_path, stride))
    emit(as_json, "sample", {"files": written}, written)


@cli.command("validate")
@click.argument("table", type=_FILE)
@click.option("--networks", required=True, type=int, help="How many random networks.")
@click.option("--seed", required=True, type=int)
@threads_option
@_stride
@_macro
@click.option("--set", "chosen_from", type=click.Choice(["uniform", "tails", "all"]), default="uniform")
@click.option(
    "--processes", default=VALIDATION_PROTOCOL.processes, show_default=True, help="Even; halves are compared."
)
@click.option("--plot", type=_FILE, help="Scatter plot, PNG or SVG.")
@json_option
def validate_command(
    table: Path, networks: int, seed: int, threads: int, stride: int | None, macro_path: Path | None,
    chosen_from: SetName, processes: int, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare a table's predictions with end-to-end timing of random networks.

    Example: latencykit validate luts/mine.json --networks 40 --seed 7 --threads 2 --plot validation.png
    """
    if plot:
        figure_format(plot)
    loaded = _table_of_this_machine(table)
    setting, macro = _setting(loaded, threads), _macro_of(macro_path, stride)
    protocol = replace(VALIDATION_PROTOCOL, processes=processes)
    with progress("time networks end to end", networks * processes) as advance:
        found = validate(loaded, setting, macro, networks, seed, chosen_from, protocol, advance)
    if plot:
        save_figure(validation_figure(found), plot)
    data = {"set": chosen_from, "seed": seed, **validation_json(found)}
    head = f"{networks} {chosen_from} networks, {setting}, seed {seed}; raw sums, not calibrated"
    emit(as_json, "validate", data, [head, validation_grid(found)])


@cli.command("predict")
@click.argument("table", type=_FILE)
@click.argument("model", type=_FILE)
@threads_option
@click.option("--pace", type=float, help="Latency at this many calls a second instead of back to back.")
@click.option("--plot", type=_FILE, help="The dearest kernels as bars, PNG or SVG.")
@json_option
def predict_command(
    table: Path, model: Path, threads: int, pace: float | None, plot: Path | None, as_json: bool
) -> None:
    """Predict the latency of an ONNX model or an architecture.json from a table, kernel by kernel.

    Example: latencykit predict luts/mine.json model.onnx --threads 2
    """
    if plot:
        figure_format(plot)
    loaded = _table_of_this_machine(table)
    if pace is not None:
        raise MissingRowError(
            f"{table} has no paced calibration; measure instead: latencykit measure {model} --pace {pace:g}"
        )
    setting = _setting(loaded, threads)
    kernels, warnings = _model_kernels(model, setting)
    prediction = predict_kernels(loaded, setting, kernels, f"--only-added --add {model}")
    by_threads = {
        other.threads: predict_kernels(loaded, other, kernels).latency_us / 1000
        for other in loaded.settings
        if all(loaded.has(other, kernel) for kernel in (CALL_OVERHEAD, *kernels))
    }
    fastest = min(by_threads, key=lambda count: by_threads[count])
    latency_ms = prediction.latency_us / 1000
    if plot:
        save_figure(prediction_figure(prediction, f"{model.name}: {latency_ms:.2f} ms, {setting}"), plot)
    data = {"threads": threads, **prediction_json(prediction), "by_threads": by_threads, "fastest_threads": fastest}
    low, high = data["ci_ms"]
    head = f"{latency_ms:.3f} ms ({low:.3f} to {high:.3f}) at {setting}; fastest thread count: {fastest}"
    warnings.append("a raw kernel sum, not calibrated against whole networks; `latencykit validate` shows its bias")
    emit(as_json, "predict", data, [head, prediction_grid(prediction)], warnings)


@cli.command("measure")
@click.argument("models", nargs=-1, required=True, type=_FILE)
@threads_option
@click.option("--pace", type=float, help="Calls a second; without it back to back.")
@click.option("--load", default=0, show_default=True, help="Other busy processes meanwhile.")
@click.option("--processes", default=NETWORK_PROTOCOL.processes, show_default=True, help="Fresh processes a model.")
@json_option
def measure_command(
    models: tuple[Path, ...], threads: int, pace: float | None, load: int, processes: int, as_json: bool
) -> None:
    """Time whole models end to end, interleaved over fresh pinned processes.

    Example: latencykit measure a.onnx b.onnx --threads 2 --pace 30
    """
    if processes < 1 or load < 0 or (pace is not None and pace <= 0):
        raise UsageError(f"--processes {processes} >= 1, --load {load} >= 0 and --pace {pace} > 0 expected.")
    check_threads(threads)
    warnings = [warning for model in models for warning in open_outside(model, "run", Setting(threads=1)).warnings]
    with (
        background_load(load) if load else nullcontext(),
        progress("measure", len(models) * processes) as advance,
    ):
        found = measure_models(models, Setting(threads), pace, processes, advance)
    data = {"threads": threads, "pace_hz": pace or 0, "load": load, "models": [measured_json(model) for model in found]}
    rhythm = f"{pace:g} calls a second" if pace else "back to back"
    head = f"{Setting(threads)}, {rhythm}, {processes} processes"
    warnings += [warning for model in found for warning in model.warnings]
    emit(as_json, "measure", data, [head, measured_grid(found)], warnings)


@cli.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Say whether this machine is fit to measure on, and what to do where it is not.

    Example: latencykit doctor
    """
    verdict = doctor()
    fitness = "fit" if verdict.fit else "UNFIT"
    shown = [f"{verdict.cpu.model}: {fitness}; a table of it would be named {cpu_id(verdict.cpu)}.json"]
    for reason in verdict.reasons:
        mark = "!!" if reason.fatal else " -"
        shown.append(f"{mark} {reason.code}: {reason.value}, expected {reason.expected}. {reason.remedy}")
    data = {"fit": verdict.fit, "reasons": to_json(verdict.reasons), "cpu": to_json(verdict.cpu)}
    emit(as_json, "doctor", data, shown)
    if not verdict.fit:
        sys.exit(UnfitError.exit_code)


@cli.command("verify")
@click.argument("file", type=_FILE)
@json_option
def verify_command(file: Path, as_json: bool) -> None:
    """Check a table's schema and checksum.

    Example: latencykit verify luts/mine.json
    """
    table = load_table(file)
    data = {"file": str(file), "checksum": table.checksum, "rows": len(table.rows)}
    emit(as_json, "verify", data, [f"{file}: whole, {len(table.rows)} rows, {table.checksum}"])


def _model_kernels(path: Path, setting: Setting) -> tuple[list[Kernel], list[str]]:
    """Kernels of an ONNX file or an architecture, and warnings."""
    if path.suffix != ".json":
        opened = open_outside(path, "kernels", setting)
        return list(opened.kernels), opened.warnings
    model = graph_to_onnx(network_graph(read_architecture(path))).SerializeToString()
    with tempfile.TemporaryDirectory() as scratch:
        return kernels_of(model, setting, Path(scratch)), []


def _table_of_this_machine(path: Path) -> Table:
    table = load_table(path)
    table.require_same_machine(read_cpu(), {"onnxruntime": runtime_version()})
    return table


def _setting(table: Table, threads: int) -> Setting:
    check_threads(threads)  # what cannot be run here is refused before the table is asked for it
    return table.setting(threads)


def _require_fit(verdict: Verdict) -> None:
    for reason in verdict.reasons:
        if reason.fatal:
            raise UnfitError(
                f"{reason.code} is {reason.value}, expected {reason.expected}: {reason.remedy}; or pass --force"
            )


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}; numbers with commas expected, such as 1,2") from error
    if min(numbers) < 1:
        raise UsageError(f"{option} is {text!r}; every number must be at least 1.")
    return list(dict.fromkeys(numbers))


def _macro_of(path: Path | None, stride: int | None) -> Macro:
    macro = read_macro(str(path)) if path else Macro()
    return stride_macros(macro, [stride])[0] if stride is not None else macro
