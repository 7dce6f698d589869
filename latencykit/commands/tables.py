"""`build`, `show`, `verify`: tables as files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType

from latencykit.calibrate import fit_table, fits, networks_to_lower, space_needs
from latencykit.calibration import CostModel
from latencykit.commands.options import FILE, lowered_model, numbers
from latencykit.console import emit, json_option
from latencykit.coverage import STRIDES, stride_macros
from latencykit.doctor import doctor, require_fit
from latencykit.errors import UsageError
from latencykit.files import write_text
from latencykit.keys import key_level
from latencykit.lock import only_writer
from latencykit.macro import read_macro
from latencykit.progress import Stopwatch, progress
from latencykit.report import rows_grid
from latencykit.runtime import Setting
from latencykit.schema import to_json
from latencykit.sweep import DRIFT_WARNING_PCT, build, plan_build
from latencykit.table_file import load_table, table_checksum
from latencykit.topology import check_threads


@click.command("build")
@click.option("--out", required=True, type=FILE, help="The table to write or to complete.")
@click.option("--space", default="paper", show_default=True, help="'paper', or a JSON file of a macro configuration.")
@click.option("--strides", default=",".join(map(str, STRIDES)), show_default=True, help="Input strides to cover.")
@click.option("--threads", default="4", show_default=True, help="One or several thread counts: 1,2")
@click.option("--add", "models", multiple=True, type=FILE, help="Also the kernels of this ONNX or architecture file.")
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
    watch = Stopwatch()
    macros = [] if only_added else stride_macros(read_macro(space), numbers("--strides", strides))
    settings = [Setting(count) for count in numbers("--threads", threads)]
    if not dry_run:
        for setting in settings:
            check_threads(setting.threads)
        click.get_current_context().with_resource(only_writer(out))
    verdict = doctor()
    if not (force or dry_run):
        require_fit(verdict)
    with progress("lower networks", networks_to_lower() * len(macros) + len(models)) as advance:
        needs = space_needs(macros, advance=advance)
        added = []
        for model in models:
            added.append(lowered_model(model))
            advance()
    keys = [*needs.keys, *(kernel for network in added for kernel in network.kernels)]
    plan = plan_build(out, settings, keys, needs.calibration, added)
    rows = Counter(key_level(key) for _, key in plan.wanted)
    if dry_run:
        data = {
            "table": str(out), "rows": rows, "missing": len(plan.missing), "networks": len(plan.untimed),
            "estimate_s": plan.estimate_s(),
        }  # fmt: skip
        listed = [f"  {setting}: {key}" for setting, key in plan.missing]
        total = f"{len(listed)} rows, {len(plan.untimed)} timings of networks, about {plan.estimate_s():.0f} s"
        emit(as_json, "build", data, [*listed, total])
        return
    with progress("measure and fit", plan.sample_sets() + fits(len(settings), len(macros))) as advance:
        built = build(out, plan, verdict, advance=advance, fit=lambda table: fit_table(table, needs.samples, advance))
    wall_s = watch.seconds
    timed_pct = 100 * built.timed_s / wall_s
    rows["edge"] = sum(row.level == "edge" for row in built.table.rows)
    data = {
        "table": str(out), "rows": rows, "measured": built.measured, "reused": built.reused,
        "networks": built.networks, "repeated": built.repeated, "wall_s": wall_s, "timed_pct": timed_pct,
        "models": [_model_json(model) for model in built.table.models],
    }  # fmt: skip
    warnings = [f"{reason.code} is {reason.value}: {reason.remedy}" for reason in verdict.reasons]
    if noisy := sum(bool(row.measurement and row.measurement.warnings) for row in built.table.rows):
        warnings.append(f"{noisy} of {len(built.table.rows)} rows are noisy: column error_pct of `latencykit show`")
    if built.repeated:
        warnings.append(f"{built.repeated} samples were taken again: the machine was in another state meanwhile")
    if built.drift_pct > DRIFT_WARNING_PCT:
        warnings.append(f"the sentinel drifted by {built.drift_pct:.0f} %: stop other programs and build anew")
    took = f"{wall_s:.0f} s, {timed_pct:.0f} % of it inside timed runs"
    shown = [f"{out}: {built.measured} rows measured, {built.reused} reused, {built.networks} timings, {took}"]
    emit(as_json, "build", data, [*shown, *map(_model_line, built.table.models)], warnings)


def _model_json(model: CostModel) -> dict[str, Any]:
    return {
        "threads": model.setting.threads, "pace_hz": model.pace_hz, "networks": model.networks,
        "residual_pct": model.residual_pct, "spread_pct": model.spread_pct,
    }  # fmt: skip


def _model_line(model: CostModel) -> str:
    rhythm = f"{model.pace_hz:g} calls a second" if model.pace_hz else "back to back"
    return (
        f"calibrated at {model.setting}, {rhythm}: off by {model.residual_pct:.1f} % on average over {model.networks} "
        f"networks, each left out in turn"
    )


@click.command("show")
@click.argument("table", type=FILE)
@click.option("--level", type=click.Choice(["isolated", "kernel", "edge"]), help="Only this level.")
@click.option("--threads", type=int, help="Only this thread count.")
@click.option(
    "--rows",
    "most",
    default=40,
    show_default=True,
    type=click.IntRange(min=1),
    help="At most so many rows, the dearest ones.",
)
@click.option("--csv", "csv_path", type=FILE, help="Also write all the rows here.")
@json_option
def show_command(
    table: Path, level: str | None, threads: int | None, most: int, csv_path: Path | None, as_json: bool
) -> None:
    """Show a table: its CPU, settings and dearest rows; --json and --csv give all of them.

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
        "checksum": table_checksum(loaded),
        "models": [_model_json(model) for model in loaded.models],
        "validations": [dict(validation) for validation in loaded.validations],
        "settings": [to_json(setting) for setting in loaded.settings],
        "rows": json.loads(frame.to_json(orient="records")),
    }
    runtime = loaded.runtime["onnxruntime"]
    head = f"{loaded.cpu.model}, onnxruntime {runtime}, {len(frame)} rows, {table_checksum(loaded)[:12]}"
    shown: list[RenderableType] = [head, *map(_model_line, loaded.models), rows_grid(frame.head(most))]
    if len(frame) > most:
        shown.append(f"{len(frame) - most} more: --rows {len(frame)}, or --csv F")
    emit(as_json, "show", data, shown, loaded.doubts)


@click.command("verify")
@click.argument("file", type=FILE)
@json_option
def verify_command(file: Path, as_json: bool) -> None:
    """Check a table's schema and checksum.

    Example: latencykit verify luts/mine.json
    """
    table = load_table(file)
    data = {"file": str(file), "checksum": table_checksum(table), "rows": len(table.rows)}
    emit(as_json, "verify", data, [f"{file}: whole, {len(table.rows)} rows, {table_checksum(table)}"])
