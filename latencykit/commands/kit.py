"""`kit make` and `kit ingest`: a table of a machine that has no network and no right to install."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.table import Table as Grid

from latencykit.commands.options import FILE, numbers
from latencykit.console import emit, json_option
from latencykit.coverage import STRIDES, stride_macros
from latencykit.errors import UsageError
from latencykit.host import cpu_id
from latencykit.kit import TARGET_PYTHON, download_wheels, make_kit, pinned_packages, read_models
from latencykit.kit_ingest import Ingested, ingest
from latencykit.kit_plan import KIT_FORMAT, VALIDATION_NETWORKS, KitPlan
from latencykit.macro import read_macro
from latencykit.report import validation_json
from latencykit.schema import to_json
from latencykit.table import model_id
from latencykit.table_file import load_table, save_table, table_checksum


@click.group("kit")
def kit_command() -> None:
    """Measure a machine that has no network, no torch and no right to install."""


@kit_command.command("make")
@click.option("--out", required=True, type=FILE, help="The archive to write.")
@click.option("--models", type=FILE, help="Also your own models: a folder of *.onnx.")
@click.option("--wheels", metavar="PLATFORM", help="Also numpy, onnx and onnxruntime for it, such as win_amd64.")
@click.option("--python-version", default=TARGET_PYTHON, show_default=True, help="Of the wheels.")
@click.option("--space", default="paper", show_default=True, help="'paper', or a JSON file of a macro configuration.")
@click.option("--strides", default=",".join(map(str, STRIDES)), show_default=True, help="Input strides to cover.")
@click.option(
    "--validation-networks", default=VALIDATION_NETWORKS, show_default=True, help="Unseen networks to time, a stride."
)
@json_option
def make_command(
    out: Path, models: Path | None, wheels: str | None, python_version: str, space: str, strides: str,
    validation_networks: int, as_json: bool,
) -> None:  # fmt: skip
    """Write a kit: one archive to be unpacked and run on the machine that is to be measured.

    Example: latencykit kit make --out kit.zip --wheels win_amd64
    """
    macros = tuple(stride_macros(read_macro(space), numbers("--strides", strides)))
    if validation_networks < 2:
        raise UsageError(f"--validation-networks {validation_networks}: at least 2 expected.")
    mine = read_models(models) if models else {}
    plan = KitPlan(
        KIT_FORMAT, version("latencykit"), macros, validation_networks=validation_networks,
        models={model_id(content): name for name, content in mine.items()},
    )  # fmt: skip
    packages = download_wheels(wheels.split(","), python_version) if wheels else {}
    files = make_kit(out, plan, mine, packages)
    size = out.stat().st_size
    data = {
        "archive": str(out), "bytes": size, "files": sorted(files), "models": dict(plan.models), "wheels": [*packages],
        "pinned": pinned_packages() if wheels else [],
    }  # fmt: skip
    contents = f"{len(macros)} macro configurations, {len(mine)} models, {len(packages)} wheels"
    shown = [
        f"{out}: {size / 1e6:.2f} MB, {contents}",
        "On the machine to measure: unpack it, then `python run.py --out result.zip`; bring that back and run",
        "  latencykit kit ingest result.zip --out TABLE.json",
    ]
    emit(as_json, "kit make", data, shown)


@kit_command.command("ingest")
@click.argument("result", type=FILE)
@click.option("--out", required=True, type=FILE, help="The table to write.")
@json_option
def ingest_command(result: Path, out: Path, as_json: bool) -> None:
    """Check what a kit brought back and write the table: rows, edge costs and validation.

    Example: latencykit kit ingest result.zip --out luts/scanner.json
    """
    found = ingest(result)
    if out.exists() and table_checksum(load_table(out)) != table_checksum(found.table):
        raise UsageError(f"{out} is there already and is another table; name another --out, or delete it.")
    save_table(found.table, out)
    rows = Counter(row.level for row in found.table.rows)
    data = {
        "table": str(out), "checksum": table_checksum(found.table), "cpu": to_json(found.table.cpu),
        "runtime": dict(found.table.runtime), "rows": rows,
        "validations": [
            {"stride": macro.segmentation_stride, **validation_json(validation)}
            for macro, validation in found.validations
        ],
        "models": to_json(found.models),
    }  # fmt: skip
    runtime = found.table.runtime["onnxruntime"]
    levels = ", ".join(f"{count} {level}" for level, count in rows.items())
    head = f"{out}: {found.table.cpu.model} ({cpu_id(found.table.cpu)}), onnxruntime {runtime}; rows: {levels}"
    emit(as_json, "kit ingest", data, [head, _grid(found), *_model_lines(found)], found.warnings)


def _grid(found: Ingested) -> Grid:
    """The levels side by side, and the measurement against itself, for each stride and setting."""
    heads = ("threads", "stride", "predictor", "networks", "bias %", "MAPE %", "within 5 %", "within 10 %", "tau")
    grid = Grid(*heads, box=None, header_style="bold", pad_edge=False)
    for macro, validation in found.validations:
        fits: dict[str, Any] = {}
        for level in dict.fromkeys([*validation.raw, *validation.calibrated]):
            for word, by_level in (("raw", validation.raw), ("calibrated", validation.calibrated)):
                if level in by_level:
                    fits[f"{level}, {word}"] = by_level[level]
        place = f"{validation.setting.threads}", f"{macro.segmentation_stride}"
        for name, fit in {**fits, "measured again": validation.repeat}.items():
            tau = "-" if fit.kendall_tau is None else f"{fit.kendall_tau:.2f}"
            hits = f"{fit.within_5_pct:.0f}", f"{fit.within_10_pct:.0f}"
            count = str(len(validation.networks))
            grid.add_row(*place, name, count, f"{fit.bias_pct:+.1f}", f"{fit.mape_pct:.1f}", *hits, tau)
    return grid


def _model_lines(found: Ingested) -> list[str]:
    return [
        f"{model.file} at {model.setting}: {model.measured_ms:.3f} ms, predicted {model.predicted_ms:.3f} "
        f"({model.interval_ms[0]:.3f} to {model.interval_ms[1]:.3f})"
        for model in found.models
    ]
